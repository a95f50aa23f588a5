"""How the body of a response becomes an answer: a stream of events, one object, or an error's text."""

from typing import Final, Protocol

from llmload.measure.record import ErrorType
from llmload.wire.answer import Answer
from llmload.wire.failure import from_status, request_error
from llmload.wire.response import Response
from llmload.wire.stream import EventDecoder

_ERROR_BYTES: Final = 65_536
_NO_FRAME: Final = b"\0"
_NOT_PLAIN: Final = b'"\\\r\n'


class Body(Protocol):
    """What takes the pieces of a body, each with the monotonic ns of its arrival, and then its end."""

    def take(self, arrived_ns: int, piece: bytes) -> None:
        """Take the next piece."""

    def end(self) -> None:
        """Take the end, which may have come early."""


class EventsBody:
    """
    A body of server-sent events; each has the stamp of the read that completed it.

    Neighbouring events differ in nothing but their text. So a piece that was one event, and said nothing but a
    text, leaves its frame: the bytes before and after that text. A later piece in the same frame, whose text is
    plain, says the same and is counted without being decoded.
    """

    __slots__ = ("_after", "_answer", "_before", "_chunk_ns", "_decoder")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._chunk_ns = answer.chunk_ns
        self._decoder = EventDecoder()
        self._before = self._after = _NO_FRAME

    def take(self, arrived_ns: int, piece: bytes) -> None:
        """Take the next piece."""
        decoder = self._decoder
        if decoder.at_boundary and piece.startswith(self._before) and piece.endswith(self._after):
            text = piece[len(self._before) : -len(self._after)]
            if text and text.translate(None, _NOT_PLAIN) == text:
                self._chunk_ns.append(arrived_ns)
                return
        alone = decoder.at_boundary
        events = decoder.feed(piece)
        for kind, data in events:
            said = self._answer.take_event(arrived_ns, kind, data)
            if said and alone and len(events) == 1 and decoder.at_boundary:
                self._learn(piece, said.encode("utf-8", "replace"))

    def end(self) -> None:
        """Take the end: an event that it cuts is none."""

    def _learn(self, piece: bytes, text: bytes) -> None:
        quoted = b'"' + text + b'"'
        if piece.count(quoted) == 1:
            before, _, after = piece.partition(quoted)
            self._before = before + b'"'
            self._after = b'"' + after


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
