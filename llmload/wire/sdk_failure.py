"""Why a request of the SDK failed, told from its exceptions, in the words that all clients share."""

import socket
import ssl
from collections.abc import Iterator

import httpx2
import openai

from llmload.measure.record import ErrorType, RequestError
from llmload.wire.failure import from_connecting, from_status, in_object, request_error

_BROKEN = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError)


def from_sdk(error: Exception) -> RequestError:
    """Return the error that an exception of the SDK, or of what it stands on, means."""
    if isinstance(error, openai.APIStatusError):
        return _from_response(error.response)
    if isinstance(error, (openai.APIConnectionError, httpx2.HTTPError)):
        return _from_transport(error)
    if isinstance(error, openai.APIError):
        return in_object({"error": error.body or error.message}) or request_error(
            ErrorType.ENGINE_ERROR, error.message, http_status=200
        )
    if isinstance(error, ValueError):
        return request_error(ErrorType.NOT_JSON, f"not JSON: {error}")
    return request_error(ErrorType.CLIENT, repr(error))


def refused(response: httpx2.Response) -> RequestError | None:
    """Return the error of an answer that is not what was asked for, or None."""
    if response.status_code != 200:
        response.read()
        return _from_response(response)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("", "text/event-stream", "application/json") or kind.endswith("+json"):
        return None
    quoted = response.read()[:200].decode("utf-8", "replace")
    return request_error(ErrorType.CONTENT_TYPE, f"{kind}: {quoted}", http_status=200)


def _from_response(response: httpx2.Response) -> RequestError:
    try:
        body = response.content
    except httpx2.StreamError:
        body = b""
    return from_status(response.status_code, body, response.headers.get("retry-after"))


def _from_transport(error: Exception) -> RequestError:
    causes = list(_causes(error))
    where = "the engine"
    for cause in causes:
        if isinstance(cause, (socket.gaierror, ssl.SSLError, ConnectionRefusedError)):
            return from_connecting(cause, where)
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


def _from_protocol(said: str) -> RequestError:
    if "without sending a response" in said:
        return request_error(ErrorType.RESET, "the connection was closed before an answer")
    if "peer closed connection" in said or "incomplete" in said:
        return request_error(ErrorType.INCOMPLETE, "the connection was closed within the answer")
    return request_error(ErrorType.PROTOCOL, f"not HTTP: {said}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
