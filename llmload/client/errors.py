"""Why a request failed: a `RequestError` from an HTTP status, an error object or an exception."""

import errno
import html
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final

from llmload.access.secrecy import hidden
from llmload.client.json_text import UNREADABLE, dumps, loads
from llmload.record import ErrorType, RequestError

MESSAGE_CHARS: Final = 500
_MOST_CHARS: Final = 8 * MESSAGE_CHARS
"""As much of a text is looked at for its words."""
NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})
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
    text = text[:_MOST_CHARS]
    if not text.isprintable():
        text = "".join(each if each.isprintable() else " " for each in _ESCAPES.sub("", text))
    return " ".join(text.split())


def without_secrets(error: RequestError, secrets: Iterable[str]) -> RequestError:
    """
    Return the error with every secret in its message replaced: some engines quote a wrong key.

    So are parts of one, as `llmload.access.secrecy.hidden` says.
    """
    message = hidden(error.message, map(_one_line, secrets))
    return error if message == error.message else replace(error, message=message)


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
    if not error or _is_none(error):
        if "choices" in answer or "token" in answer:
            return None
        error = _other_error(answer)
        if error is None:
            return None
    message = error_message(error) or "an error without a message"
    if isinstance(answer.get("error_type"), str) and answer["error_type"]:
        message = f"{answer['error_type']}: {message}"
    code = _status_in(error) or _status_in(answer)
    return request_error(ErrorType.ENGINE_ERROR, message, http_status=code or status)


def _is_none(error: Any) -> bool:
    """Return whether an `error` field says that there is none: null, "", {}, or an object of nothing but nulls."""
    if not error:
        return True
    if isinstance(error, str):
        return error.strip().lower() in _NO_ERROR
    return isinstance(error, dict) and not any(error.values())


_NO_ERROR: Final = frozenset({"", "null", "none", "ok", "success", "false", "0"})
_WORDS: Final = (
    *("message", "detail", "msg", "error", "error_message", "error_msg", "errorMessage", "errmsg"),
    *("error_description", "errors", "reason", "description", "title"),
)
"""Where an error object has its words, the best first."""
_OWN_WORDS: Final = ("error_message", "error_msg", "errorMessage", "errmsg", "error_description")
"""Those that only an error has."""
_CODES: Final = (
    "code",
    "status",
    "status_code",
    "statusCode",
    "error_code",
    "errorCode",
    "errcode",
    "http_status_code",
)
_GOOD_CODES: Final = frozenset({0, *range(100, 300)})
_ERROR_WORD: Final = re.compile(r"error|exception|fail|abort|fatal", re.IGNORECASE)


def names_error(name: Any) -> bool:
    """Return whether the type of an event or object is an error's, such as `error` or `response.failed`."""
    word = name[:80].decode("latin-1") if isinstance(name, bytes) else name
    return isinstance(word, str) and _ERROR_WORD.search(word[:80]) is not None


def _other_error(answer: dict[str, Any]) -> Any:
    """Return the error in an object without `choices` and `error`, or None if it is not an error."""
    if any(names_error(answer.get(key)) for key in ("object", "type", "status", "event")):
        return answer
    for key in ("detail", "errors"):
        if answer.get(key):
            return answer[key]
    if any(isinstance(answer.get(key), str) and not _is_none(answer[key]) for key in _OWN_WORDS):
        return answer
    if answer.get("success") is False or answer.get("ok") is False:
        return answer
    speaks = any(isinstance(answer.get(key), str) and answer[key] for key in _WORDS)
    return answer if speaks and any(_is_failure(key, answer.get(key)) for key in _CODES) else None


def _is_failure(key: str, code: Any) -> bool:
    """Return whether a code is not one of success; a `status` in words is none, since it may say `loading`."""
    if isinstance(code, str):
        word = code.strip().lower()
        if word.isdecimal():
            return int(word[:9]) not in _GOOD_CODES
        return key != "status" and word not in _NO_ERROR
    return isinstance(code, int) and not isinstance(code, bool) and code not in _GOOD_CODES


def error_message(error: Any, depth: int = 6) -> str:
    """Return the message of an error object, a string, or FastAPI's list of errors."""
    if depth and isinstance(error, dict):
        for key in _WORDS:
            if (text := error.get(key)) and (message := error_message(text, depth - 1)):
                return message
    elif depth and isinstance(error, list):
        return "; ".join(error_message(part, depth - 1) for part in error[:_MOST_PARTS])
    if isinstance(error, str):
        return _words_of_text(error[:_MOST_CHARS])
    try:
        return dumps(error)[:_MOST_CHARS]
    except RecursionError:
        return f"an error that is nested too deeply to be shown ({type(error).__name__})"


_MOST_PARTS: Final = 20


def _no_descriptor_left(error: BaseException) -> bool:
    """Return whether a connection failed for want of a descriptor, which a resolver does not say."""
    if isinstance(error, socket.gaierror):
        try:
            descriptor = os.open(os.devnull, os.O_RDONLY)
        except OSError as why:
            return why.errno in NO_DESCRIPTORS
        os.closerange(descriptor, descriptor + 1)  # at once, which gevent's `os.close` does not
        return False
    return isinstance(error, OSError) and error.errno in NO_DESCRIPTORS


def from_connect_error(error: BaseException, where: str) -> RequestError:
    """Return the error of a connection to `where` (host and port) that could not be opened."""
    if _no_descriptor_left(error):
        return request_error(ErrorType.NO_DESCRIPTOR, f"{where}: no connection, for llmload has too many open files")
    if isinstance(error, socket.gaierror):
        return request_error(ErrorType.DNS, f"{where}: {error.strerror or error}")
    if isinstance(error, ssl.SSLError):
        return request_error(ErrorType.TLS, f"{where}: {error}")
    if isinstance(error, ConnectionRefusedError):
        return request_error(ErrorType.CONNECT_REFUSED, f"nothing listens at {where}: connection refused")
    if isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno == errno.ETIMEDOUT):
        return request_error(ErrorType.CONNECT_TIMEOUT, f"{where}: no connection in time")
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        words = "this host has no free local port, or no address to send from"
        return request_error(ErrorType.CONNECT_FAILED, f"{where}: {words}")
    return request_error(ErrorType.CONNECT_FAILED, f"{where}: {error}")


_PAGE: Final = re.compile(r"\s*<(?:!doctype|\?xml|html|head|body)\b", re.IGNORECASE)
_TITLE: Final = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1", re.DOTALL | re.IGNORECASE)
_NOT_TEXT: Final = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>?", re.DOTALL | re.IGNORECASE)


def words_of_body(body: bytes) -> str:
    """Return what a body says in words: the message of a JSON error, the title of an HTML page, or its text."""
    try:
        answer = loads(body)
    except UNREADABLE:
        return _words_of_text(body[:_MOST_CHARS].decode("utf-8", "replace"))
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
    for key in _STATUSES:
        value = error.get(key)
        if isinstance(value, str) and len(value) == 3 and value.isdecimal():
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return None


_STATUSES: Final = ("http_status_code", "code", "status", "status_code", "statusCode")


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
