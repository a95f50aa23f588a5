"""What an answer says, in the terms of a record, while it arrives; the same for every API and every client."""

from array import array
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import orjson

from llmload.client.chunk_fields import finish_of
from llmload.client.errors import (
    AttemptError,
    attempt_error,
    error_in_object,
    error_message,
    names_error,
    request_error,
)
from llmload.client.json_text import UNREADABLE, loads
from llmload.client.thinking import TaggedText
from llmload.client.timings import NOTHING, Said
from llmload.client.token_counts import TokenCounts, only_counts
from llmload.record import NO_CHUNKS, ErrorType, ReasoningSource, RequestError, StampArray, TokenSource

QUOTED_CHARS: Final = 120
MAX_EVENT_BYTES: Final = 2 << 20
"""The longest event, and the longest answer in one piece; a megabyte of text is 200,000 tokens and more."""
MAX_CHUNKS: Final = 1 << 18
"""The most chunks that one answer may have: an engine that never ends would fill the memory with stamps."""
_LARGE_BYTES: Final = 16_384
_MAX_VALUES: Final = 200_000
"""The most values in one event: each takes up to a hundred times as much memory as in the text."""
_MAX_UNKNOWN: Final = 8
_MAX_ERROR_BYTES: Final = 65_536

OUTSIDE: Final = b"(outside)"
"""The type of lines between events, which the standard says to skip."""
UNENDED: Final = b"(unended)"
"""The type of an event whose end did not come, and which therefore is none."""


class StreamState:
    """
    An answer while it arrives: stamps of chunks with text, the finish_reason, an error that the engine reported.

    Events are taken in order, up to `[DONE]`. An event that cannot be decoded becomes `error`; the first error stays.
    `AttemptError` is raised only for what is too large to be taken: the request is to end at once.
    """

    __slots__ = (
        "_switches",
        "_tagged",
        "_unknown",
        "_words",
        "chunk_ns",
        "coalesced_ns",
        "error",
        "finish_reason",
        "finished",
        "non_streaming",
        "saw_done",
        "textless_ns",
        "thinking",
        "timings",
    )

    keeps_words: ClassVar[bool] = False
    """Whether `take_words` is to be called for texts that are counted without being parsed."""

    def __init__(self, tagged: TaggedText | None = None) -> None:
        """Begin; `tagged` is where reasoning is between tags in the text, and not only in separate fields."""
        self.chunk_ns = array("q")
        self.textless_ns = array("q")
        self.finish_reason: str | None = None
        self.finished = False
        """Whether every choice has a finish_reason."""
        self.saw_done = False
        self.non_streaming = False
        self.coalesced_ns: list[int] = []
        """Stamps of text chunks that arrived in the same read as the previous one; `HttpRequest` clears the list."""
        self.thinking = False
        """Whether the last chunk with text was in a field of reasoning."""
        self._switches: list[int] = []
        """Indices of the chunks with text where this changed."""
        self._tagged = tagged
        self.timings: Said = NOTHING
        """What the engine said about its own times, by the fields of a record."""
        self.error: RequestError | None = None
        self._unknown: dict[str, None] = {}
        """Fields with strings that llmload does not know, of chunks in which it found no text."""
        self._words = ""
        """What stood outside of events."""

    def take_event(self, arrived_ns: int, event_type: bytes, data: bytes) -> str | None:
        """
        Take an event of a stream: the monotonic ns at which its last byte arrived, its type and its data.

        Return the text if the event carries nothing else; events like it can use the fast path.
        """
        if event_type and self._take_odd_event(event_type, data):
            return None
        if not data or self.saw_done:
            return None
        if data[0] != _BRACE:
            stripped = data.strip()
            if not stripped:
                return None
            if stripped.startswith(b"[DONE]"):
                self.saw_done = True
                return None
        return self._take_json(arrived_ns, data)

    def take_words(self, text: bytes) -> None:
        """Take the text of chunks that were counted without being parsed, of the kind that came last."""
        raise NotImplementedError

    def take_whole(self, body: bytes) -> None:
        """Take an answer that is one JSON object instead of a stream."""
        self.non_streaming = True
        self.finished = True
        self._take_json(0, body)

    def fail(self, error: RequestError) -> None:
        """Record the error, unless there already is one."""
        if self.error is None:
            self.error = error

    def check_size(self) -> None:
        """Forget the stamps and raise `AttemptError` for more chunks than an answer can have."""
        if len(self.chunk_ns) > MAX_CHUNKS or len(self.textless_ns) > MAX_CHUNKS:
            del (
                self.chunk_ns[:],
                self.textless_ns[:],
                self._switches[:],
            )  # in a run's files they would take ten times as much memory
            raise too_large(f"an answer of more than {MAX_CHUNKS} chunks")

    def failure(self, broken: RequestError | None, *, ended: bool) -> RequestError | None:
        """
        Return why the answer failed, None if it is complete.

        `broken` is what ended the connection or the wait, `ended` whether the body came to its end as HTTP frames it.
        """
        if self.error is not None:
            return self.error
        if broken is not None and not (self.finished and (self.saw_done or ended)):
            waited = broken.type is ErrorType.FIRST_TOKEN_TIMEOUT
            return self._unknown_text() or broken if waited else broken
        unknown = self._unknown_text()
        if unknown is not None or self.finished:
            return unknown
        words = f"; besides its events it says: {self._words}" if self._words else ""
        return request_error(ErrorType.INCOMPLETE, self._unfinished() + words)

    def record_fields(self) -> dict[str, Any]:
        """Return the answer's part of a `RequestRecord`."""
        counts = self.counts()
        thought = self._switches or self._tagged is not None or counts.reasoning_tokens
        return {
            "chunk_ns": self.stamps(),
            "chunk_tokens": self.chunk_tokens(),
            "textless_ns": self.textless_stamps(),
            "finish_reason": self.finish_reason,
            **counts._asdict(),
            **self.timings,
            **(self._reasoning_fields(counts) if thought else {}),
        }

    def _reasoning_fields(self, counts: TokenCounts) -> dict[str, Any]:
        """Return what a record says of an answer that has reasoning, by its chunks or by the engine's count alone."""
        answers = self._answers()
        thought = len(answers) - int(np.count_nonzero(answers))
        tokens, source, chunk_tokens = counts.reasoning_tokens, ReasoningSource.USAGE, self.chunk_tokens()
        if thought and not tokens and chunk_tokens is not None:
            tokens, source = int(chunk_tokens[~answers].sum()), ReasoningSource.CHUNK_USAGE
        elif thought and not tokens and counts.output_tokens is not None:
            tokens, source = round(counts.output_tokens * thought / len(answers)), ReasoningSource.CHUNKS
        return {
            "first_answer_ns": self.chunk_ns[int(np.argmax(answers))] if 0 < thought < len(answers) else None,
            "reasoning_chunks": thought,
            "reasoning_tokens": tokens,
            "reasoning_source": source if tokens else None,
        }

    def _answers(self) -> npt.NDArray[np.bool_]:
        """Return which chunks with text are the answer's; the others are reasoning."""
        if self._tagged is not None:
            return self._tagged.answers()[: len(self.chunk_ns)]
        switched = np.zeros(len(self.chunk_ns), dtype=np.int64)
        switched[self._switches] = 1
        answers: npt.NDArray[np.bool_] = np.cumsum(switched) % 2 == 0
        return answers

    def counts(self) -> TokenCounts:
        """Return the tokens counted so far, by the best source there is."""
        raise NotImplementedError

    def counted_chunks(self) -> TokenCounts:
        """Count each chunk with text as one token, if the engine gave no counts; unknown for an answer in one piece."""
        if self.non_streaming or not (self.chunk_ns or self.finished):
            return TokenCounts()
        return TokenCounts(output_tokens=len(self.chunk_ns), token_source=TokenSource.CHUNKS)

    def chunk_tokens(self) -> StampArray | None:
        """Return the tokens of each chunk in `chunk_ns`, or None if the engine did not count per chunk."""
        return None

    def stamps(self) -> StampArray:
        """Return the arrivals of chunks with text, in monotonic ns."""
        return _stamps(self.chunk_ns)

    def textless_stamps(self) -> StampArray:
        """Return the arrivals of chunks with choices but no text, in monotonic ns."""
        return _stamps(self.textless_ns)

    def _take_text(self, arrived_ns: int, *, thinking: bool = False) -> None:
        """Note the arrival of a chunk with text, and whether that is reasoning."""
        chunk_ns = self.chunk_ns
        if thinking is not self.thinking:
            self.thinking = thinking
            self._switches.append(len(chunk_ns))
        if chunk_ns and chunk_ns[-1] == arrived_ns:
            self.coalesced_ns.append(arrived_ns)
        chunk_ns.append(arrived_ns)

    def _take_odd_event(self, event_type: bytes, data: bytes) -> bool:
        """Take an event with a type if that says that it is an error, or no event; return whether it was taken."""
        if event_type not in (OUTSIDE, UNENDED) and not names_error(event_type):
            return False
        if self.saw_done:
            return True
        if event_type == OUTSIDE:
            self._take_outside(data)
        elif event_type == UNENDED:
            self._take_error_in(data)
        elif not self._take_error_in(data):
            self.fail(request_error(ErrorType.ENGINE_ERROR, _words_in(data), http_status=200))
        return True

    def _take_outside(self, data: bytes) -> None:
        """Take lines between events: an error as bare JSON, in one line or several, or words that may explain one."""
        if self._take_error_in(data) or any(self._take_error_in(line) for line in data.split(b"\n", 64)[:64]):
            return
        if data.lstrip().startswith(b"{"):
            self._note_unknown(["lines of JSON without `data:`"])
        elif not self._words:
            self._words = data[:QUOTED_CHARS].decode("utf-8", "replace")

    def _take_error_in(self, data: bytes) -> bool:
        """Fail by the error in the data, and return whether there is one; only a short object may have one."""
        if len(data) > _MAX_ERROR_BYTES or not data.lstrip().startswith((b"{", b"[")):
            return False
        try:
            parsed = loads(data)
        except UNREADABLE:
            return False
        objects = [each for each in (parsed if isinstance(parsed, list) else [parsed])[:64] if isinstance(each, dict)]
        for error in filter(None, map(error_in_object, objects)):
            self.fail(error)
            return True
        return False

    def _take_json(self, arrived_ns: int, data: bytes) -> str | None:
        try:
            parsed = orjson.loads(data) if len(data) < _LARGE_BYTES else _loads_large(data)
        except orjson.JSONDecodeError:
            try:
                parsed = only_counts(loads(data))
            except UNREADABLE:
                self.fail(_unreadable("not JSON", data))
                return None
        return self._take_parsed(arrived_ns, parsed, data)

    def _take_parsed(self, arrived_ns: int, parsed: Any, data: bytes) -> str | None:
        if isinstance(parsed, list) and len(parsed) == 1:
            parsed = parsed[0]
        if not isinstance(parsed, dict):
            if not self._take_error_in(data):
                self.fail(_unreadable("not a JSON object", data))
        elif (parsed.get("error") or "choices" not in parsed) and (error := error_in_object(parsed)):
            self.fail(error)
        else:
            try:
                if self.non_streaming:
                    self._take_whole(parsed)
                else:
                    return self._take_chunk(arrived_ns, parsed)
            except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
                self.fail(_unreadable("an object of unknown form", data))
        return None

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        raise NotImplementedError

    def _take_whole(self, answer: dict[str, Any]) -> None:
        raise NotImplementedError

    def _note_finish(self, reason: Any) -> bool:
        """Note a choice's finish_reason, and fail by one that says so; return whether it is a reason."""
        name, failed = (reason, "") if reason in _USUAL_REASONS else finish_of(reason)
        if name is None:
            return False
        self.finish_reason = name
        if failed:
            kind = ErrorType.ENGINE_ERROR if name == "error" else ErrorType.ABORTED
            self.fail(request_error(kind, f"finish_reason is {failed}", http_status=200))
        return True

    def _note_unknown(self, fields: list[str]) -> None:
        for each in fields:
            if len(self._unknown) < _MAX_UNKNOWN:
                self._unknown[each] = None

    def _unknown_text(self) -> RequestError | None:
        """Return the error of an answer without known text that may have some in fields that llmload does not know."""
        if self.chunk_ns or self.non_streaming or not self._unknown:
            return None
        counts = self.counts()
        counted = counts.output_tokens if counts.token_source is not TokenSource.CHUNKS else None
        if counted is not None and counted < 2:
            return None  # an empty answer: its one token is the end
        where = ", ".join(self._unknown)
        return request_error(ErrorType.UNKNOWN_TEXT, f"no text where llmload looks for it, but there is: {where}")

    def _unfinished(self) -> str:
        return "the answer ended without a finish_reason"


_USUAL_REASONS: Final = ("stop", "length", "tool_calls")
_BRACE: Final = ord("{")


def too_large(what: str) -> AttemptError:
    """Return the exception that ends a request whose answer is larger than any answer can be."""
    return attempt_error(ErrorType.TOO_LARGE, f"{what} is not taken")


def _loads_large(data: bytes) -> Any:
    if data.count(b",") + data.count(b"[") + data.count(b"{") > _MAX_VALUES:
        raise too_large(f"an event of more than {_MAX_VALUES} values")
    return only_counts(orjson.loads(data))


def _words_in(data: bytes) -> str:
    """Return what the data of an error event say."""
    try:
        return error_message(loads(data))
    except UNREADABLE:
        return data[: 40 * QUOTED_CHARS].decode("utf-8", "replace") or "an error event without a word"


def _stamps(moments_ns: "array[int]") -> StampArray:
    return np.array(moments_ns, dtype=np.int64) if moments_ns else NO_CHUNKS


def _unreadable(what: str, data: bytes) -> RequestError:
    quoted = data[:QUOTED_CHARS].decode("utf-8", "replace")
    return request_error(ErrorType.NOT_JSON, f"{what}: {quoted}")
