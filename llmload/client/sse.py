"""The body of a response: server-sent events, one JSON object, or the text of an error."""

import re
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Final

from llmload.client.answer import MAX_CHUNKS, MAX_EVENT_BYTES, OUTSIDE, UNENDED, StreamState, too_large
from llmload.client.errors import AttemptError, names_error
from llmload.client.http_response import MAX_ERROR_BYTES, Response, error_of_body, form_of
from llmload.record import RequestError

Event = tuple[bytes, bytes]
"""An event's type (empty if none was given) and its data."""

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = ord("\r")


_LINE_COST: Final = 64
"""What a line that is kept costs beside its bytes."""
_MAX_OUTSIDE: Final = 65_536
_SKIPPED: Final = frozenset({b"id", b"retry"})


class EventDecoder:
    """
    Cuts a stream of bytes into events by the HTML standard; each is returned by the `feed` that completed it.

    Only `\\r\\n`, `\\n` and `\\r` end a line: never `splitlines()`, which would cut JSON at U+2028. `id` and `retry`
    are for clients that reconnect, and are skipped. Since engines put errors where the standard sees no event, three
    more kinds are returned: `error: ...` as an event of type error; `event: error` without data, with its comment as
    data; and other lines up to the next empty one, as `OUTSIDE`. An event without an end is dropped, or returned by
    `finish` as `UNENDED`.

    Raises `AttemptError` for an event of more than `MAX_EVENT_BYTES`, and for a stream of lines that are not events.
    """

    __slots__ = (
        *(
            "_after_cr",
            "_comment",
            "_data",
            "_held_bytes",
            "_outside",
            "_partial",
            "_partial_bytes",
            "_started",
            "_type",
        ),
        "at_boundary",
    )

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._data: list[bytes] = []
        self._type = b""
        self._comment = b""
        self._outside: list[bytes] = []
        self._held_bytes = 0
        self._after_cr = False
        self._started = False
        self.at_boundary = True
        """Whether the next piece starts a new event, and all events before it were returned."""

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that this piece completes."""
        if self.at_boundary and piece.endswith(b"\n\n") and _CR not in piece:
            if not self._started:
                self._started = True
                piece = piece.removeprefix(_BOM)
            return self._feed_lines(piece[:-1].split(b"\n"))
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return []
        self._after_cr = piece.endswith(b"\r")
        self.at_boundary = False
        lines = _LINE_END.split(piece)
        cost = len(piece) + _LINE_COST * len(lines)
        last = lines.pop()
        if not lines:
            self._partial.append(last)
            self._hold(cost)
            return []
        if self._partial:
            lines[0] = b"".join((*self._partial, lines[0]))
        self._partial = [last] if last else []
        if not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        events = self._feed_lines(lines)
        self.at_boundary = not (
            self._partial or self._data or self._type or self._comment or self._outside or self._after_cr
        )
        if events or self.at_boundary:
            self._held_bytes = 0
        else:
            self._hold(cost)
        return events

    def finish(self) -> list[Event]:
        """Return what the end of the stream leaves: lines outside of events, and an event without an end."""
        if self.at_boundary:
            return []
        events = self._feed_lines([b"".join(self._partial)]) if self._partial else []
        self._partial = []
        unended = b"\n".join(self._data)
        self._data = []
        events += self._feed_lines([b""])
        return [*events, (UNENDED, unended)] if unended else events

    def _feed_lines(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            if line:
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._data.append(value.removeprefix(b" "))
                else:
                    self._feed_other(name, value.removeprefix(b" "), line, events)
            else:
                if self._data:
                    events.append((self._type, b"\n".join(self._data)))
                    self._data = []
                elif self._type and names_error(self._type):
                    events.append((self._type, self._comment))
                if self._outside:
                    events.append((OUTSIDE, b"\n".join(self._outside)))
                    self._outside = []
                self._type = self._comment = b""
        return events

    def _feed_other(self, name: bytes, value: bytes, line: bytes, events: list[Event]) -> None:
        if name == b"event":
            self._type = value
        elif not name:
            self._comment = value
        elif name == b"error":
            events.append((b"error", value))
        elif name not in _SKIPPED:
            self._outside.append(line)

    def _hold(self, cost: int) -> None:
        """Count what is held of an event that has not ended; raises `AttemptError` if it is too much."""
        self._held_bytes += cost
        if self._held_bytes > MAX_EVENT_BYTES:
            raise too_large(f"an event of more than {MAX_EVENT_BYTES} bytes")
        if self._held_bytes > _MAX_OUTSIDE and self._outside and not self._data:
            raise too_large(f"a stream of more than {_MAX_OUTSIDE} bytes outside of events")


_NOT_PLAIN: Final = b'"\\' + bytes(range(32))
"""Bytes that end a JSON string, begin an escape, or are not allowed in one."""
_CHUNK_END: Final = b"\r\n"
_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"
_SIZE_LINE_BYTES: Final = 10
"""More than the size line of a chunk in a frame needs."""


class Body(ABC):
    """Decodes the pieces of a body, each with the monotonic ns of its arrival, and then its end."""

    __slots__ = ()

    def take_chunks(self, stamps: "array[int]", reads: Sequence[bytes]) -> int:  # noqa: ARG002 - only events have a fast path
        """Decode reads from the first on without parsing them, as far as possible; return how many, here none."""
        return 0

    @abstractmethod
    def take_many(self, stamps: "array[int]", pieces: Sequence[bytes], until_ns: int) -> int:
        """Take the next pieces until this monotonic ns, at least one of them; return how many were taken."""

    @abstractmethod
    def end(self) -> None:
        """Take the end, which may have come early."""


class EventsBody(Body):
    """
    A body of server-sent events; each has the stamp of the read that completed it.

    Neighbouring events differ only in their text. So a piece that is one event with nothing but a text gives a frame:
    the bytes before and after that text. A later read that is a whole HTTP chunk of one event in the same frame, with a
    plain text, means the same: it is counted without being parsed, many reads in a few steps.
    """

    __slots__ = ("_answer", "_chunk_ns", "_decoder", "_frame_end", "_frame_start", "_prefixes")

    def __init__(self, answer: StreamState) -> None:
        self._answer = answer
        self._chunk_ns = answer.chunk_ns
        self._decoder = EventDecoder()
        self._frame_start = self._frame_end = b""
        self._prefixes: dict[int, tuple[bytes, slice]] = {}
        """By read length: the expected prefix (chunk size, start of the frame) and the slice that holds the text."""

    def take_chunks(self, stamps: "array[int]", reads: Sequence[bytes]) -> int:
        """Count the leading reads that are each a chunk of one event in the known frame; return how many."""
        known = self._frame_start and self._decoder.at_boundary and not self._answer.saw_done
        texts = self._framed_texts(reads) if known else []
        if not texts:
            return 0
        whole = b"".join(texts)
        if b"" in texts or not whole.isascii() or whole.translate(None, _NOT_PLAIN) != whole:
            texts = list(takewhile(_is_plain, texts))
        if self._answer.keeps_words:
            self._answer.take_words(b"".join(texts))
        self._chunk_ns.extend(stamps[: len(texts)])
        if len(self._chunk_ns) > MAX_CHUNKS:
            self._answer.check_size()
        return len(texts)

    def _framed_texts(self, reads: Sequence[bytes]) -> list[bytes]:
        """Return the text of each read, up to the first that is not a chunk in the frame."""
        starts, end, texts = self._prefixes, self._frame_end, []
        for read in reads:
            start, index = starts.get(len(read)) or self._learn_prefix(read)
            if not (start and read.startswith(start) and read.endswith(end)):
                break
            texts.append(read[index])
        return texts

    def _learn_prefix(self, read: bytes) -> tuple[bytes, slice]:
        """Return prefix and text slice for reads of this length; an empty prefix if this read is not a whole chunk."""
        size, line_end, _ = read[:_SIZE_LINE_BYTES].partition(_CHUNK_END)
        if not (line_end and _is_size(size, len(read))):
            return b"", slice(0)
        start = size + line_end + self._frame_start
        found = self._prefixes[len(read)] = start, slice(len(start), -len(self._frame_end))
        return found

    def take_many(self, stamps: "array[int]", pieces: Sequence[bytes], until_ns: int) -> int:
        """Take the next pieces until this monotonic ns, at least one of them; return how many were taken."""
        if len(self._chunk_ns) > MAX_CHUNKS:
            self._answer.check_size()
        if len(pieces) == 1:
            self._take(stamps[0], pieces[0])
            return 1
        for taken, (arrived_ns, piece) in enumerate(zip(stamps, pieces, strict=True), start=1):
            self._take(arrived_ns, piece)
            if time.monotonic_ns() >= until_ns:
                return taken
        return len(pieces)

    def _take(self, arrived_ns: int, piece: bytes) -> None:
        alone, thinking = self._decoder.at_boundary, self._answer.thinking
        events = self._decoder.feed(piece)
        for event_type, data in events:
            text = self._answer.take_event(arrived_ns, event_type, data)
            if self._answer.thinking is not thinking:
                self._frame_start = b""  # it is of the other kind: reasoning, or the answer
            if text and alone and len(events) == 1 and self._decoder.at_boundary:
                self._learn_frame(piece, text.encode("utf-8", "surrogatepass"))

    def end(self) -> None:
        """Take the end: what the engine said outside of events may be an error."""
        for event_type, data in self._decoder.finish():
            self._answer.take_event(0, event_type, data)

    def _learn_frame(self, piece: bytes, text: bytes) -> None:
        quoted = b'"' + text + b'"'
        if piece.count(quoted) == 1:
            before, _, after = piece.partition(quoted)
            before += b'"'
            end = b'"' + after + _CHUNK_END
            if (before, end) != (self._frame_start, self._frame_end):
                self._frame_start, self._frame_end, self._prefixes = before, end, {}


@lru_cache(maxsize=4096)
def _is_size(size: bytes, read_bytes: int) -> bool:
    """Return whether a read of this length that begins with this chunk size is one whole chunk."""
    if not size or size.translate(None, _HEX_DIGITS):
        return False
    return read_bytes == len(size) + len(_CHUNK_END) + int(size, 16) + len(_CHUNK_END)


def _is_plain(text: bytes) -> bool:
    """Return whether a text between quotes is a JSON string without escapes, and not empty."""
    if not text or text.translate(None, _NOT_PLAIN) != text:
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class JsonBody(Body):
    """A body of one JSON object; some engines send it although a stream was requested."""

    def __init__(self, answer: StreamState, response: Response) -> None:
        self._answer = answer
        self._response = response
        self._text = bytearray()

    def take_many(self, stamps: "array[int]", pieces: Sequence[bytes], until_ns: int) -> int:  # noqa: ARG002 - an object has no stamps
        """Take all of the pieces; return how many. Raises `AttemptError` for more than `MAX_EVENT_BYTES`."""
        for piece in pieces:
            self._text += piece
        if len(self._text) > MAX_EVENT_BYTES:
            self._text.clear()
            raise too_large(f"an answer of more than {MAX_EVENT_BYTES} bytes in one piece")
        return len(pieces)

    def end(self) -> None:
        """Take the end, and decode the object if it is complete."""
        body = bytes(self._text)
        self._text.clear()
        if self._response.complete:
            self._answer.take_whole(body)


class ErrorBody(Body):
    """The body of an error; its first bytes are kept for the message."""

    def __init__(self, answer: StreamState, response: Response) -> None:
        self._answer = answer
        self._response = response
        self._text = bytearray()

    def take_many(self, stamps: "array[int]", pieces: Sequence[bytes], until_ns: int) -> int:  # noqa: ARG002 - an error has no stamps
        """Take all of the pieces; return how many. Raises `AttemptError`, the answer's error, once there is enough."""
        for piece in pieces:
            self._text += piece
        if len(self._text) > MAX_ERROR_BYTES:
            raise AttemptError(self._error())
        return len(pieces)

    def end(self) -> None:
        """Take the end, and fail the answer."""
        self._answer.fail(self._error())

    def _error(self) -> RequestError:
        response = self._response
        return error_of_body(
            response.status,
            response.content_type,
            response.content_encoding,
            bytes(self._text[:MAX_ERROR_BYTES]),
            response.retry_after,
        )


class Decoder:
    """Decodes the pending reads of a response into an answer, a few at a time."""

    __slots__ = ("_answer", "_body", "_response")

    def __init__(self, response: Response, answer: StreamState) -> None:
        self._response = response
        self._answer = answer
        self._body: Body | None = None

    def advance(self, until_ns: int) -> None:
        """
        Decode some of what is pending: many reads by the fast path, or a few that are parsed.

        Raises `httptools.HttpParserError` if a read is not HTTP.
        """
        response, body = self._response, self._body
        if not response.body:
            if body is not None and response.at_chunk_start:
                count = body.take_chunks(response.raw_stamps, response.raw)
                if count:
                    response.skip(count)
            if response.raw:
                response.parse()
        if response.body:
            if body is None:
                body = self._body = body_of(response, self._answer)
            response.drop_body(body.take_many(response.body_stamps, response.body, until_ns))

    def end(self) -> None:
        """Take the end of the body, if the response has come that far."""
        if self._response.headers_complete:
            if self._body is None:
                self._body = body_of(self._response, self._answer)
            self._body.end()


def body_of(response: Response, answer: StreamState) -> Body:
    """Return the decoder of a body, by the response's status, content type and, without one, first bytes."""
    start = b"" if response.content_type else b"".join(response.body)
    form = form_of(response.status, response.content_type, response.content_encoding, start)
    if form == "events":
        return EventsBody(answer)
    return JsonBody(answer, response) if form == "object" else ErrorBody(answer, response)
