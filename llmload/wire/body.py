"""How the body of a response becomes an answer: a stream of events, one object, or an error's text."""

import time
from array import array
from collections.abc import Sequence
from typing import Final, Protocol

from llmload.measure.record import ErrorType
from llmload.wire.answer import Answer
from llmload.wire.failure import from_status, request_error
from llmload.wire.response import Response
from llmload.wire.stream import EventDecoder

_ERROR_BYTES: Final = 65_536
_NOT_PLAIN: Final = b'"\\' + bytes(range(32))
"""What would end a JSON string, be part of an escape, or may not stand in one."""


class Body(Protocol):
    """What takes the pieces of a body, each with the monotonic ns of its arrival, and then its end."""

    def take_many(self, stamps: "array[int]", pieces: Sequence[bytes], until_ns: int) -> int:
        """Take the next pieces until this monotonic ns, at least one of them; return how many were taken."""

    def end(self) -> None:
        """Take the end, which may have come early."""


class EventsBody:
    """
    A body of server-sent events; each has the stamp of the read that completed it.

    Neighbouring events differ in nothing but their text. So a piece that was one event, and said nothing but a
    text, leaves its frame: the bytes before and after that text. Later pieces in the same frame, whose texts are
    plain, say the same and are counted without being decoded, many in a few steps.
    """

    __slots__ = ("_after", "_answer", "_before", "_chunk_ns", "_decoder")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._chunk_ns = answer.chunk_ns
        self._decoder = EventDecoder()
        self._before = self._after = b""

    def take_many(self, stamps: "array[int]", pieces: Sequence[bytes], until_ns: int) -> int:
        """Take the next pieces until this monotonic ns, at least one of them; return how many were taken."""
        place = 0
        while place < len(pieces):
            place += self._take_alike(stamps, pieces, place)
            if place < len(pieces):
                self._take(stamps[place], pieces[place])
                place += 1
                if time.monotonic_ns() >= until_ns:
                    break
        return place

    def _take_alike(self, stamps: "array[int]", pieces: Sequence[bytes], first: int) -> int:
        """Take the pieces from the first on that stand in the frame; return how many."""
        texts = self._texts(pieces, first) if self._before and self._decoder.at_boundary else []
        whole = b"".join(texts)
        if b"" not in texts and whole.isascii() and whole.translate(None, _NOT_PLAIN) == whole:
            self._chunk_ns.extend(stamps[first : first + len(texts)])
            return len(texts)
        for place, text in enumerate(texts, start=first):
            if _is_plain(text):
                self._chunk_ns.append(stamps[place])
            else:
                self._take(stamps[place], pieces[place])
                if not self._decoder.at_boundary:
                    return place + 1 - first
        return len(texts)

    def _texts(self, pieces: Sequence[bytes], first: int) -> list[bytes]:
        """Return the text of each piece from the first on, as far as they begin and end with the frame."""
        before, after = self._before, self._after
        begin, end = len(before), -len(after)
        texts = []
        for piece in pieces[first:] if first else pieces:
            if not (piece.startswith(before) and piece.endswith(after)):
                break
            texts.append(piece[begin:end])
        return texts

    def _take(self, arrived_ns: int, piece: bytes) -> None:
        alone = self._decoder.at_boundary
        events = self._decoder.feed(piece)
        for kind, data in events:
            said = self._answer.take_event(arrived_ns, kind, data)
            if said and alone and len(events) == 1 and self._decoder.at_boundary:
                self._learn(piece, said.encode("utf-8", "replace"))

    def end(self) -> None:
        """Take the end: an event that it cuts is none."""

    def _learn(self, piece: bytes, text: bytes) -> None:
        quoted = b'"' + text + b'"'
        if piece.count(quoted) == 1:
            before, _, after = piece.partition(quoted)
            self._before = before + b'"'
            self._after = b'"' + after


def _is_plain(text: bytes) -> bool:
    """Return whether a text between quotes is a JSON string, and not empty."""
    if not text or text.translate(None, _NOT_PLAIN) != text:
        return False
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class JsonBody:
    """A body of one JSON object, though a stream may have been asked for."""

    def __init__(self, answer: Answer, response: Response) -> None:
        self._answer = answer
        self._response = response
        self._pieces: list[bytes] = []

    def take_many(self, stamps: "array[int]", pieces: Sequence[bytes], until_ns: int) -> int:  # noqa: ARG002 - an object has no moments of its own
        """Take the next pieces; return how many were taken: all."""
        self._pieces.extend(pieces)
        return len(pieces)

    def end(self) -> None:
        """Take the end, and understand the whole where it is one."""
        body = b"".join(self._pieces)
        self._pieces.clear()
        if self._response.complete:
            self._answer.take_whole(body)


class RefusedBody:
    """The body of an answer that is an error, of which a little is kept for the message."""

    def __init__(self, answer: Answer, response: Response) -> None:
        self._answer = answer
        self._response = response
        self._text = bytearray()

    def take_many(self, stamps: "array[int]", pieces: Sequence[bytes], until_ns: int) -> int:  # noqa: ARG002 - an error has no moments of its own
        """Take the next pieces; return how many were taken: all, of which a little is kept."""
        for piece in pieces:
            if len(self._text) < _ERROR_BYTES:
                self._text += piece
        return len(pieces)

    def end(self) -> None:
        """Take the end, and say what is wrong."""
        response = self._response
        text = bytes(self._text)
        if response.status != 200:
            self._answer.fail(from_status(response.status, text, response.retry_after))
            return
        what = response.content_encoding or response.content_type or "no content type"
        quoted = text[:200].decode("utf-8", "replace")
        self._answer.fail(request_error(ErrorType.CONTENT_TYPE, f"{what}: {quoted}", http_status=200))


def body_of(response: Response, answer: Answer) -> Body:
    """Return what reads the body of a response whose headers have come, by its status and content type."""
    kind = response.content_type or _guess(response)
    if response.status != 200 or response.content_encoding not in ("", "identity"):
        return RefusedBody(answer, response)
    if kind == "text/event-stream":
        return EventsBody(answer)
    if kind == "application/json" or kind.endswith("+json"):
        return JsonBody(answer, response)
    return RefusedBody(answer, response)


def _guess(response: Response) -> str:
    """Guess the type of a body that came without one, by its first bytes."""
    start = b"".join(response.pieces)[:64].lstrip()
    if start.startswith((b"{", b"[")):
        return "application/json"
    if start.startswith((b"data:", b"event:", b"id:", b":")):
        return "text/event-stream"
    return ""
