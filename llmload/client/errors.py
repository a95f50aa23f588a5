"""Why a request failed: a `RequestError` from an HTTP status, an error object or an exception."""

import errno
import math
import socket
import ssl
import time
from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from llmload.record import ErrorType, RequestError

MESSAGE_CHARS: Final = 500


class AttemptError(Exception):
    """Ends one attempt of a request; never leaves this package."""

    def __init__(self, error: RequestError) -> None:
        super().__init__(error.message)
        self.error = error


def attempt_error(error_type: ErrorType, message: str) -> AttemptError:
    """Return the exception that ends an attempt with this type and message."""
    return AttemptError(request_error(error_type, message))


def request_error(
    error_type: ErrorType, message: str, *, http_status: int | None = None, retry_after_s: float | None = None
) -> RequestError:
    """Return an error whose message is one line of at most 500 characters."""
    line = " ".join(message.split())
    return RequestError(
        type=error_type, message=line[:MESSAGE_CHARS], http_status=http_status, retry_after_s=retry_after_s
    )


def without_secrets(error: RequestError, secrets: Iterable[str]) -> RequestError:
    """Return the error with every secret in its message replaced: some engines quote a wrong key."""
    message = error.message
    for secret in secrets:
        message = message.replace(secret, "***")
    if message == error.message:
        return error
    return request_error(error.type, message, http_status=error.http_status, retry_after_s=error.retry_after_s)


def from_status(status: int, body: bytes, retry_after: str | None) -> RequestError:
    """Return the error of an answer whose status is not 200; `body` may be JSON, HTML or empty."""
    if status == 429:
        error_type = ErrorType.RATE_LIMITED
    elif 400 <= status < 500:
        error_type = ErrorType.HTTP_CLIENT_ERROR
    elif 500 <= status < 600:
        error_type = ErrorType.HTTP_SERVER_ERROR
    else:
        error_type = ErrorType.HTTP_UNEXPECTED
    text = _message_in_body(body)
    message = f"HTTP {status}: {text}" if text else f"HTTP {status}"
    return request_error(error_type, message, http_status=status, retry_after_s=_retry_after_s(retry_after))


def error_in_object(answer: dict[str, Any], status: int = 200) -> RequestError | None:
    """Return the error in an object of a 200 answer, or None if it is not an error."""
    error = answer.get("error")
    if error is None and answer.get("object") == "error":
        error = answer
    if error is None and "choices" not in answer and answer.get("detail") is not None:
        error = answer["detail"]
    if not error:
        return None
    message = error_message(error) or "an error without a message"
    if answer.get("error_type"):
        message = f"{answer['error_type']}: {message}"
    return request_error(ErrorType.ENGINE_ERROR, message, http_status=_status_in(error) or status)


def error_message(error: Any) -> str:
    """Return the message of an error object, a string, or FastAPI's list of errors."""
    if isinstance(error, dict):
        text = error.get("message") or error.get("detail") or error.get("msg") or error.get("error")
        return error_message(text) if text else orjson.dumps(error).decode()
    if isinstance(error, list):
        return "; ".join(error_message(part) for part in error)
    return str(error)


def from_connect_error(error: BaseException, where: str) -> RequestError:
    """Return the error of a connection to `where` (host and port) that could not be opened."""
    if isinstance(error, socket.gaierror):
        return request_error(ErrorType.DNS, f"{where}: {error.strerror or error}")
    if isinstance(error, ssl.SSLError):
        return request_error(ErrorType.TLS, f"{where}: {error}")
    if isinstance(error, ConnectionRefusedError):
        return request_error(ErrorType.CONNECT_REFUSED, f"{where}: connection refused")
    if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno == errno.ETIMEDOUT):
        return request_error(ErrorType.CONNECT_TIMEOUT, f"{where}: no connection in time")
    return request_error(ErrorType.CONNECT_FAILED, f"{where}: {error}")


def _message_in_body(body: bytes) -> str:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[: 2 * MESSAGE_CHARS].decode("utf-8", "replace").strip()
    if isinstance(answer, dict):
        return error_message(answer.get("error") or answer.get("detail") or answer)
    return error_message(answer)


def _status_in(error: Any) -> int | None:
    if not isinstance(error, dict):
        return None
    for key in ("http_status_code", "code", "status"):
        value = error.get(key)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


def _retry_after_s(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which has seconds or a date (RFC 9110, 10.2.3); None for neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        moment = parsedate_to_datetime(value)
        utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return max(0.0, utc.timestamp() - time.time())
    except (OverflowError, TypeError, ValueError):
        return None
