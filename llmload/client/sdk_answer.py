"""What the `openai` SDK receives: bodies of bounded size, events as the wire client reads them, and errors."""

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, Final

import httpx2
import openai
from openai._streaming import ServerSentEvent

from llmload.client.answer import MAX_EVENT_BYTES, OUTSIDE, UNENDED, StreamState, too_large
from llmload.client.errors import NO_DESCRIPTORS, AttemptError, from_connect_error, request_error
from llmload.client.http_response import MAX_ERROR_BYTES, Form, error_of_body, form_of
from llmload.client.json_text import UNREADABLE
from llmload.client.sse import EventDecoder
from llmload.record import ErrorType, RequestError


class BoundedBody(httpx2.SyncByteStream):
    """The body of a response, read to a limit: that of an error ends there, any other raises `AttemptError`."""

    def __init__(self, body: httpx2.SyncByteStream, form: Form) -> None:
        self._body = body
        self._form = form

    def __iter__(self) -> Iterator[bytes]:
        left = MAX_ERROR_BYTES if self._form == "error" else MAX_EVENT_BYTES
        for piece in self._body:
            left -= len(piece)
            if left < 0 and self._form == "object":
                raise too_large(f"an answer of more than {MAX_EVENT_BYTES} bytes in one piece")
            yield piece
            if left < 0:
                return

    def close(self) -> None:
        """Close the connection's end of it."""
        self._body.close()


def bound_body(response: httpx2.Response) -> None:
    """Let no body but a stream of events grow without a limit, and none be decompressed, as the other client does."""
    form = form_of_response(response)
    if form != "events" and isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = BoundedBody(response.stream, form)
    response.extensions[_ENCODING] = response.headers.pop("content-encoding", "")


_ENCODING: Final = "llmload-content-encoding"


def form_of_response(response: httpx2.Response, start: bytes = b"") -> Form:
    encoding: Any = response.extensions.get(_ENCODING) or response.headers.get("content-encoding", "")
    content_type = content_type_of(response)
    if not content_type and not start and response.status_code == 200:
        return "events"  # its first bytes will say
    return form_of(response.status_code, content_type, encoding, start)


def content_type_of(response: httpx2.Response) -> str:
    content_type: str = response.headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower()


class SdkEvent(ServerSentEvent):
    """
    An event for the SDK, which parses it by itself.

    The SDK would end the stream at an error, or at what its parser refuses; the answer takes note of both.
    """

    def json(self) -> Any:
        """Return the value of the data, without an error in it; {} if they are not JSON."""
        try:
            value = super().json()
        except UNREADABLE:
            return {}
        if isinstance(value, dict):
            value.pop("error", None)
        return value


_LARGE_BYTES: Final = 65_536


class SdkEvents:
    """
    The decoder that the SDK reads events with, instead of the usual one, so that both clients see the same.

    The SDK's ends a stream at the first byte that is not UTF-8, and knows no error outside of events. `take` gives the
    answer the event that the SDK has; events that the SDK would not understand go there directly.
    """

    def __init__(self, pieces: Iterator[bytes], answer: StreamState) -> None:
        self._pieces = pieces
        self._answer = answer
        self._current: tuple[bytes, bytes] | None = None

    def iter_bytes(self, _: Iterator[bytes]) -> Iterator[ServerSentEvent]:
        """Return the events, one after the other."""
        decoder = EventDecoder()
        for piece in self._pieces:
            yield from self._events(decoder.feed(piece))
        yield from self._events(decoder.finish())

    def _events(self, events: list[tuple[bytes, bytes]]) -> Iterator[ServerSentEvent]:
        for event_type, data in events:
            self._current = event_type, data
            large = len(data) > _LARGE_BYTES  # the SDK would make objects of every value in it
            text = b"{}" if large else data.strip()
            if not text or event_type in (OUTSIDE, UNENDED):
                self.take()
            else:
                yield SdkEvent(event=event_type.decode("latin-1") or None, data=text.decode("utf-8", "replace"))

    def take(self) -> None:
        """Give the answer the event that the SDK has."""
        if self._current is not None:
            self._answer.take_event(time.monotonic_ns(), *self._current)
            self._answer.coalesced_ns.clear()
            self._answer.check_size()
        self._current = None


_BROKEN = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError)


def from_sdk(error: Exception) -> RequestError:
    """Return the error that an exception of the SDK or its HTTP library means."""
    for cause in _causes(error):
        if isinstance(cause, AttemptError):
            return cause.error
    if isinstance(error, openai.APIStatusError):
        return error_of_response(error.response, _read(error.response))
    if isinstance(error, (openai.APIConnectionError, httpx2.HTTPError)):
        return _from_transport(error)
    return request_error(ErrorType.CLIENT, repr(error))


def _read(response: httpx2.Response) -> bytes:
    try:
        return response.read()
    except httpx2.StreamError:
        return b""


def error_of_response(response: httpx2.Response, body: bytes) -> RequestError:
    """Return the error of a response that is neither events nor an object."""
    return error_of_body(
        response.status_code,
        content_type_of(response),
        response.extensions.get(_ENCODING, ""),
        body[:MAX_ERROR_BYTES],
        response.headers.get("retry-after"),
    )


def _from_transport(error: Exception) -> RequestError:
    causes = list(_causes(error))
    where = error.request.url.netloc.decode() if isinstance(error, openai.APIConnectionError) else "the engine"
    for cause in causes:
        if isinstance(cause, (socket.gaierror, ssl.SSLError, ConnectionRefusedError)) or (
            isinstance(cause, OSError) and cause.errno in NO_DESCRIPTORS
        ):
            return from_connect_error(cause, where)
    for cause in causes:
        if isinstance(cause, httpx2.ConnectTimeout):
            return request_error(ErrorType.CONNECT_TIMEOUT, f"{where}: no connection in time")
        if isinstance(cause, (httpx2.ConnectError, httpx2.ProxyError)):
            return request_error(ErrorType.CONNECT_FAILED, f"{where}: {cause}")
        if isinstance(cause, _BROKEN):
            return request_error(ErrorType.RESET, f"the connection broke: {cause}")
        if isinstance(cause, httpx2.RemoteProtocolError):
            return _from_protocol(str(cause))
    return request_error(ErrorType.CONNECT_FAILED, f"{where}: {error}")


def _from_protocol(text: str) -> RequestError:
    if "without sending a response" in text:
        return request_error(ErrorType.RESET, "the connection was closed before an answer")
    if "peer closed connection" in text or "incomplete" in text:
        return request_error(ErrorType.INCOMPLETE, "the connection was closed within the answer")
    return request_error(ErrorType.PROTOCOL, f"not HTTP: {text}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
