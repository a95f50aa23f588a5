"""Why a request failed: a `RequestError` from an HTTP status, an error object or an exception."""

import errno
import html
import itertools
import math
import re
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from llmload.record import ErrorType, RequestError

MESSAGE_CHARS: Final = 500
_ESCAPES: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|\x9b[0-?]*[ -/]*[@-~]"
)
"""What moves a terminal's cursor, colours its text or sets its title."""


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
    """Return an error whose message is one line of at most 500 characters that a terminal can show."""
    return RequestError(
        type=error_type,
        message=_one_line(message)[:MESSAGE_CHARS],
        http_status=http_status,
        retry_after_s=retry_after_s,
    )


def _one_line(text: str) -> str:
    if not text.isprintable():
        text = "".join(each if each.isprintable() else " " for each in _ESCAPES.sub("", text))
    return " ".join(text.split())


_LONG_PART: Final = 8
"""A part of a secret from this length on is hidden; engines themselves show about as much of a wrong key."""
_LONG_AT_END: Final = 6
"""The same at the end of a message, which may have been cut within a secret; shorter ones are words such as `token`."""
_HEAD: Final = 4
_MASK: Final = re.compile(r"[*\u2022\u2026]+|\.{3,}")


def without_secrets(error: RequestError, secrets: Iterable[str]) -> RequestError:
    """
    Return the error with every secret in its message replaced: some engines quote a wrong key.

    So is what begins as a secret does for 8 characters or more, 6 at the message's end, and what an engine masked
    itself (`sk-ab***cd`).
    """
    message = error.message
    for secret in secrets:
        message = _without(message, _one_line(secret))
    return error if message == error.message else replace(error, message=message)


def _without(message: str, secret: str) -> str:
    kept: list[str] = []
    head, done = secret[:_HEAD], 0
    begin = message.find(head)
    while begin >= 0:
        pairs = zip(message[begin:], secret, strict=False)
        end = begin + sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        masked = _MASK.match(message, end)
        long = _LONG_AT_END if end == len(message) else _LONG_PART
        if masked or end - begin >= min(long, len(secret)):
            kept += [message[done:begin], "***"]
            done = end if not masked else masked.end() + _HEAD * message.startswith(secret[-_HEAD:], masked.end())
        begin = message.find(head, max(done, begin + 1))
    return "".join(kept) + message[done:]


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
    text = words_of_body(body)
    message = f"HTTP {status}: {text}" if text else f"HTTP {status}"
    return request_error(error_type, message, http_status=status, retry_after_s=_retry_after_s(retry_after))


def wrong_content_type(what: str, body: bytes) -> RequestError:
    """Return the error of a 200 answer whose content is of that type, or compressed, and so no answer of an API."""
    return request_error(ErrorType.CONTENT_TYPE, f"{what}: {words_of_body(body)[:200]}", http_status=200)


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
    return _words_of_text(str(error))


def from_connect_error(error: BaseException, where: str) -> RequestError:
    """Return the error of a connection to `where` (host and port) that could not be opened."""
    if isinstance(error, socket.gaierror):
        return request_error(ErrorType.DNS, f"{where}: {error.strerror or error}")
    if isinstance(error, ssl.SSLError):
        return request_error(ErrorType.TLS, f"{where}: {error}")
    if isinstance(error, ConnectionRefusedError):
        return request_error(ErrorType.CONNECT_REFUSED, f"nothing listens at {where}: connection refused")
    if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno == errno.ETIMEDOUT):
        return request_error(ErrorType.CONNECT_TIMEOUT, f"{where}: no connection in time")
    return request_error(ErrorType.CONNECT_FAILED, f"{where}: {error}")


_PAGE: Final = re.compile(r"\s*<(?:!doctype|\?xml|html|head|body)\b", re.IGNORECASE)
_TITLE: Final = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1", re.DOTALL | re.IGNORECASE)
_NOT_TEXT: Final = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>?", re.DOTALL | re.IGNORECASE)


def words_of_body(body: bytes) -> str:
    """Return what a body says in words: the message of a JSON error, the title of an HTML page, or its text."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _words_of_text(body[: 8 * MESSAGE_CHARS].decode("utf-8", "replace"))
    if isinstance(answer, dict):
        return error_message(answer.get("error") or answer.get("detail") or answer)
    return error_message(answer)


def _words_of_text(text: str) -> str:
    if not _PAGE.match(text):
        return text
    titles = [html.unescape(_NOT_TEXT.sub(" ", title)) for _, title in _TITLE.findall(text)]
    return next((title for title in titles if title.strip()), "") or html.unescape(_NOT_TEXT.sub(" ", text))


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
