"""The state of an answer while it arrives, in the terms of a record, for every API."""

from array import array
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import orjson

from llmload.client.errors import error_in_object, error_message, request_error
from llmload.prompts.conversation import Prompt
from llmload.record import NO_CHUNKS, ErrorType, RequestError, StampArray, TokenSource

QUOTED_CHARS: Final = 120


def count_in(part: Any, *keys: str) -> int | None:
    """Return the integer under the first of the keys that has one; None for anything else that an engine sends."""
    if isinstance(part, dict):
        for key in keys:
            if isinstance(part.get(key), int):
                return int(part[key])
    return None


class TokenCounts(NamedTuple):
    """Tokens of one request as the engine counted them, under the names of `RequestRecord`; None is unknown."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    token_source: TokenSource = TokenSource.NONE


class StreamState:
    """
    An answer while it arrives: stamps of chunks with text, the finish_reason, an error that the engine reported.

    Events are taken in order. Taking them never raises: an event that cannot be decoded becomes `error`. The first
    error stays.
    """

    __slots__ = (
        "chunk_ns",
        "coalesced_ns",
        "error",
        "finish_reason",
        "finished",
        "non_streaming",
        "saw_done",
        "textless_ns",
    )

    def __init__(self) -> None:
        self.chunk_ns = array("q")
        self.textless_ns = array("q")
        self.finish_reason: str | None = None
        self.finished = False
        self.saw_done = False
        self.non_streaming = False
        self.coalesced_ns: list[int] = []
        """Stamps of text chunks that arrived in the same read as the previous one; `HttpRequest` clears the list."""
        self.error: RequestError | None = None

    def take_event(self, arrived_ns: int, event_type: bytes, data: bytes) -> str | None:
        """
        Take an event of a stream: the monotonic ns at which its last byte arrived, its type and its data.

        Return the text if the event carries nothing else; events like it can use the fast path.
        """
        if not data or data.isspace():
            return None
        if data.startswith(b"[DONE]"):
            self.saw_done = True
            return None
        return self._take_json(arrived_ns, event_type, data)

    def take_whole(self, body: bytes) -> None:
        """Take an answer that is one JSON object instead of a stream."""
        self.non_streaming = True
        self.finished = True
        self._take_json(0, b"", body)

    def take_object(self, arrived_ns: int, parsed: Any) -> None:
        """Take an event whose JSON is already parsed."""
        self._take_parsed(arrived_ns, b"", parsed, b"")

    def fail(self, error: RequestError) -> None:
        """Record the error, unless there already is one."""
        if self.error is None:
            self.error = error

    def record_fields(self) -> dict[str, Any]:
        """Return the answer's part of a `RequestRecord`."""
        return {
            "chunk_ns": self.stamps(),
            "chunk_tokens": self.chunk_tokens(),
            "textless_ns": self.textless_stamps(),
            "finish_reason": self.finish_reason,
            **self.counts()._asdict(),
        }

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

    def _take_text(self, arrived_ns: int) -> None:
        """Note the arrival of a chunk with text."""
        chunk_ns = self.chunk_ns
        if chunk_ns and chunk_ns[-1] == arrived_ns:
            self.coalesced_ns.append(arrived_ns)
        chunk_ns.append(arrived_ns)

    def _take_json(self, arrived_ns: int, event_type: bytes, data: bytes) -> str | None:
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError:
            if event_type == b"error":
                self.fail(request_error(ErrorType.ENGINE_ERROR, data.decode("utf-8", "replace"), http_status=200))
            else:
                self.fail(_unreadable("not JSON", data))
            return None
        return self._take_parsed(arrived_ns, event_type, parsed, data)

    def _take_parsed(self, arrived_ns: int, event_type: bytes, parsed: Any, data: bytes) -> str | None:
        if isinstance(parsed, list) and len(parsed) == 1:
            parsed = parsed[0]
        if not isinstance(parsed, dict):
            self.fail(_unreadable("not a JSON object", data or repr(parsed).encode()))
        elif error := error_in_object(parsed):
            self.fail(error)
        elif event_type == b"error":
            self.fail(request_error(ErrorType.ENGINE_ERROR, error_message(parsed), http_status=200))
        else:
            try:
                if self.non_streaming:
                    self._take_whole(parsed)
                else:
                    return self._take_chunk(arrived_ns, parsed)
            except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
                self.fail(_unreadable("an object of unknown form", data or repr(parsed).encode()))
        return None

    def _take_chunk(self, arrived_ns: int, chunk: dict[str, Any]) -> str | None:
        raise NotImplementedError

    def _take_whole(self, answer: dict[str, Any]) -> None:
        raise NotImplementedError


class ApiProtocol(Protocol):
    """An engine's API: the path of requests, how they are encoded, and how answers are decoded."""

    @property
    def path(self) -> str:
        """The path of requests, without the API's prefix."""

    def encode(self, prompt: Prompt) -> bytes:
        """Return the body of the prompt's request."""

    def new_answer(self) -> StreamState:
        """Return the answer to a request, before any of it has arrived."""


def _stamps(moments_ns: "array[int]") -> StampArray:
    return np.array(moments_ns, dtype=np.int64) if moments_ns else NO_CHUNKS


def _unreadable(what: str, data: bytes) -> RequestError:
    quoted = data[:QUOTED_CHARS].decode("utf-8", "replace")
    return request_error(ErrorType.NOT_JSON, f"{what}: {quoted}")
