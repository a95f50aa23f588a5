"""How the body of a response becomes an answer: a stream of events, one object, or an error's text."""

from typing import Final, Protocol

from llmload.measure.record import ErrorType
from llmload.wire.answer import Answer
from llmload.wire.failure import from_status, request_error
from llmload.wire.response import Response
from llmload.wire.stream import EventDecoder

_ERROR_BYTES: Final = 65_536


class Body(Protocol):
    """What takes the pieces of a body, each with the monotonic ns of its arrival, and then its end."""

    def take(self, arrived_ns: int, piece: bytes) -> None:
        """Take the next piece."""

    def end(self) -> None:
        """Take the end, which may have come early."""


class EventsBody:
    """A body of server-sent events; each has the stamp of the read that completed it."""

    def __init__(self, answer: Answer) -> None:
        self._take_event = answer.take_event
        self._feed = EventDecoder().feed

    def take(self, arrived_ns: int, piece: bytes) -> None:
        """Take the next piece."""
        for kind, data in self._feed(piece):
            self._take_event(arrived_ns, kind, data)

    def end(self) -> None:
        """Take the end: an event that it cuts is none."""


class JsonBody:
    """A body of one JSON object, though a stream may have been asked for."""

    def __init__(self, answer: Answer, response: Response) -> None:
        self._answer = answer
        self._response = response
        self._pieces: list[bytes] = []

    def take(self, arrived_ns: int, piece: bytes) -> None:  # noqa: ARG002 - an object has no moments of its own
        """Take the next piece."""
        self._pieces.append(piece)

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

    def take(self, arrived_ns: int, piece: bytes) -> None:  # noqa: ARG002 - an error has no moments of its own
        """Take the next piece."""
        if len(self._text) < _ERROR_BYTES:
            self._text += piece

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
    start = b"".join(piece for _, piece in response.pieces)[:64].lstrip()
    if start.startswith((b"{", b"[")):
        return "application/json"
    if start.startswith((b"data:", b"event:", b"id:", b":")):
        return "text/event-stream"
    return ""
