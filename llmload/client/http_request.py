"""
One request on one connection, until the engine, a time limit or the caller ends it.

The life of an answer:

1. `start` writes the request and asks the reactor to watch the connection: all else happens there. `run` waits.
2. What arrives comes in pieces, each with the moment of its arrival. Where reads are stamped, each is a piece
   (`on_ready`). With the packet ring, bytes come in bulk (`on_bulk`) and are cut where segments end, before they are
   decoded (`_cut`). TLS, if any, turns pieces into pieces.
3. Pieces wait in the `Response`, cheaply, until they may be the last ones, or many.
4. `decode` hands them to the `Decoder`: HTTP frames, then events, then what they say goes into the `answer`.
5. Too much that waits makes the request HELD: the engine has to wait, and memory stays bounded.
6. The body's end, the connection's end, a time limit or hostile bytes end it (`_end`): it is ENDED, and the reactor
   watches it no longer. What came until then is still decoded.
7. `_conclude` decides whether the answer is complete, and wakes who waits in `run`.
"""

import logging
import select
import ssl
import time
from enum import Enum, auto
from typing import Final

import httptools

from llmload.client.answer import StreamState
from llmload.client.connection import Connection, Received
from llmload.client.errors import AttemptError, request_error
from llmload.client.http_response import MAY_END_BODY, MIN_FAST_BYTES, Response
from llmload.client.loop import Waiting
from llmload.client.packet_tap import Tap
from llmload.client.reactor import Reactor
from llmload.client.reads import HUNG_UP, NOTICED
from llmload.client.segments import WireFacts
from llmload.client.settings import FOREVER_NS, Deadline
from llmload.client.sse import Decoder
from llmload.record import ErrorType, RequestError, StampSource

_DECODE_FIRST_BYTES: Final = 2_048
"""Small at first: coalesced chunks are only noticed when decoding."""
_DECODE_BYTES: Final = 16_384
_CHUNKED: Final = b"transfer-encoding: chunked"
_MAX_PENDING_BYTES: Final = 65_536
"""A stream that arrives faster than it is decoded waits in the kernel, so that memory stays bounded."""
_HEAD_SEGMENTS: Final = 2
_TAIL_SEGMENTS: Final = 4
"""The segments at the beginning and the end of an answer, whose sizes are not those of its middle."""
_TLS_WAIT_NS: Final = 200_000_000
"""Encrypted bytes do not show whether they are the last, so they wait no longer than this to be decoded."""

_logger = logging.getLogger(__name__)


class State(Enum):
    """Where a request is in its life."""

    READING = auto()
    HELD = auto()  # what arrives stays in the kernel, until what was read is decoded
    ENDED = auto()


class HttpRequest:
    """
    A request and its answer; the caller of `run` waits once, everything else runs in the reactor. Other loops than
    gevent's call `start`, and `abandon` if nobody waits any longer.

    Afterwards `error` is a failure of HTTP or a time limit, `answer` is what the engine sent, and `stale` means that a
    kept-alive connection was closed before an answer came.
    """

    __slots__ = (
        "_began_ns",
        "_bulk",
        "_bulk_bytes",
        "_check_ns",
        "_chunked",
        "_deadline",
        "_decoder",
        "_head",
        "_queued",
        "_reactor",
        "_sizes",
        "_span_gaps",
        "_span_ns",
        "_state",
        "_unnoticed_ns",
        "_unstamped",
        "_waiting",
        "answer",
        "connection",
        "done_ns",
        "error",
        "patient",
        "response",
        "sent_ns",
    )

    def __init__(
        self,
        connection: Connection,
        reactor: Reactor,
        answer: StreamState,
        deadline: Deadline,
        *,
        patient: bool = False,
    ) -> None:
        self.answer = answer
        self.patient = patient
        self.response = Response()
        self._decoder = Decoder(self.response, answer)
        self.error: RequestError | None = None
        self.sent_ns: int | None = None
        self.done_ns: int | None = None
        self.connection = connection
        self._reactor = reactor
        self._deadline = deadline
        self._began_ns = 0
        self._check_ns = FOREVER_NS
        self._waiting: Waiting | None = None
        self.response.decode_at_bytes = _DECODE_FIRST_BYTES
        self._unstamped = False
        self._state = State.READING
        self._queued = False
        self._chunked = False
        """Whether the head that came in bulk and is not decoded yet says that the body is chunked."""
        self._bulk: list[bytes] = []
        self._bulk_bytes = 0
        """Bytes from the packet ring's connection that are not cut yet."""
        self._unnoticed_ns = NOTICED
        self._sizes: list[int] = []
        """Payloads of segments that were not reported to the reactor yet, and of the one before them."""
        self._head = _HEAD_SEGMENTS
        self._span_ns = self._span_gaps = 0

    def run(self, request: bytes) -> None:
        """Send the request and wait for the end of its answer; an exception that kills the wait is raised."""
        waiting = self._reactor.waiting()
        self.start(request, waiting)
        try:
            waiting.wait()
        except BaseException:
            self.abandon()
            raise
        finally:
            self.response.close()

    def start(self, request: bytes, waiting: Waiting) -> None:
        """Send the request, and wake who waits once its answer has ended."""
        self._waiting = waiting
        if self.connection.used and self.connection.tap is not None:
            self.connection.tap.begin_request()
        try:
            if self.connection.send(request):
                self.sent_ns = time.monotonic_ns()
        except OSError:
            self.connection.drop_unsent()  # reading finds out why: the engine may have answered before it closed
        self._began_ns = time.monotonic_ns()
        self._check_ns = self._deadline.next_check_ns(self._began_ns)
        self._reactor.watch(self)

    def abandon(self) -> None:
        """End the request now, as far as it has come: nobody waits for it any longer."""
        self.done_ns = time.monotonic_ns()
        self._reactor.read(self)
        self._state = State.ENDED
        self._reactor.unwatch(self)
        self.decode(FOREVER_NS)

    @property
    def stale(self) -> bool:
        """Whether a kept-alive connection turned out to be closed before the first byte of an answer."""
        silent = self.response.arrived_ns == 0 and self.connection.used
        return silent and self.error is not None and self.error.type is ErrorType.RESET

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        return self.response.keep_alive and self.sent_ns is not None

    @property
    def stamp_source(self) -> StampSource:
        """The source of the answer's stamps: the kernel only if it stamped every piece."""
        if not self.response.arrived_ns:
            return StampSource.NONE
        if self._unstamped:
            return StampSource.USER
        return StampSource.KERNEL if self.connection.tap is None else StampSource.PACKET

    @property
    def wire_facts(self) -> WireFacts | None:
        """What the packet ring says of the request; None without it."""
        tap = self.connection.tap
        return None if tap is None else tap.facts(settled=self.error is None)

    def on_ready(self, mask: int, received: Received) -> None:
        """Take what was read, then read (and write) as much as the socket allows."""
        if mask & select.EPOLLOUT:
            self.on_writable()
        response, connection = self.response, self.connection
        try:
            data = connection.take(received)
            while True:
                if data:
                    if not connection.stamped:
                        self._unstamped = True
                        self._reactor.count_stamps(self, by_kernel=False)
                    may_be_last = response.feed(data, connection.arrived_ns)
                    if may_be_last or response.pending_bytes > response.decode_at_bytes:
                        self.on_backlog()
                response.fast_path = connection.allows_fast_path and response.chunked
                if self._state is State.HELD or (connection.drained and not mask & HUNG_UP):
                    return
                data = connection.receive()
        except (EOFError, OSError, httptools.HttpParserError) as problem:
            self._end_by(problem)

    def on_bulk(self, data: bytes, unnoticed_ns: int) -> None:
        """Take bytes whose stamps are in the packet ring; decode them at once if they may be the answer's last."""
        self._unnoticed_ns = unnoticed_ns
        self._bulk.append(data)
        self._bulk_bytes += len(data)
        if self._bulk_bytes > self.response.decode_at_bytes or self._may_be_last(data):
            self.on_backlog()

    def on_notice(self) -> None:
        """Decode what came in bulk: the ring shows that its last bytes may be the answer's."""
        if self._bulk and self.connection.encrypted:
            self.on_backlog()

    def _may_be_last(self, data: bytes) -> bool:
        """Return whether bytes that came in bulk may be the answer's last, without decoding them."""
        if self.connection.encrypted:
            if len(self._bulk) == 1:
                self._check_ns = min(self._check_ns, time.monotonic_ns() + _TLS_WAIT_NS)
            return self._unnoticed_ns == NOTICED
        if not (self.response.chunked or self._chunked):
            head, blank, body = data.partition(MAY_END_BODY)
            self._chunked = bool(blank) and _CHUNKED in head.lower()
            return not self._chunked or body.endswith(MAY_END_BODY)
        return len(data) < MIN_FAST_BYTES or data.endswith(MAY_END_BODY)

    @property
    def _pending_bytes(self) -> int:
        return self.response.pending_bytes + self._bulk_bytes

    def on_backlog(self) -> None:
        """Queue for decoding; if far too much is pending, stop reading until then."""
        if not self._queued:
            self._queue()
        if self._pending_bytes > _MAX_PENDING_BYTES and self._state is State.READING:
            self._state = State.HELD
            self._reactor.pause(self)

    def on_problem(self, mask: int, problem: Exception) -> None:
        """Handle a failed read or the end of the connection, and write as much as the socket allows."""
        if mask & select.EPOLLOUT:
            self.on_writable()
        self._end_by(problem)

    def on_writable(self) -> None:
        """Write as much as the socket allows."""
        if self._state is State.ENDED:
            return
        try:
            if not self.connection.send_rest():
                return
        except OSError:
            self.connection.drop_unsent()
        else:
            self.sent_ns = time.monotonic_ns()
        if self._state is State.HELD:
            self._reactor.pause(self)  # it stays held, but no longer waits to write
        else:
            self._reactor.resume(self)

    def decode(self, until_ns: int) -> bool:
        """Decode what was read until this monotonic ns; return whether nothing is left."""
        if not self._advance(until_ns):
            return False
        self._queued = False
        if self._state is State.ENDED:
            self._conclude()
        return True

    def check_time(self, now_ns: int) -> None:
        """End the stream if one of its time limits has passed."""
        if now_ns < self._check_ns:
            return
        self._reactor.read(self)
        if not self._advance(FOREVER_NS) or self._state is State.ENDED:
            return
        response = self.response
        chunk_ns = self.answer.chunk_ns
        stream = self._deadline.stream and response.content_type in ("", "text/event-stream")
        self._check_ns, error = self._deadline.check(
            now_ns, self.sent_ns or self._began_ns, chunk_ns[-1] if chunk_ns else None, stream=stream
        )
        if error is not None:
            self._end(error)

    def _end_by(self, problem: Exception) -> None:
        """Handle the end of the connection, a socket error, or bytes that are not HTTP."""
        if isinstance(problem, BlockingIOError):
            return  # nothing to read
        if isinstance(problem, EOFError):
            self._take_end_of_connection()
        elif isinstance(problem, OSError):
            kind = ErrorType.TLS if isinstance(problem, ssl.SSLError) else ErrorType.RESET
            self._end(request_error(kind, f"the connection broke: {problem}"))
        else:
            self._end(request_error(ErrorType.PROTOCOL, f"not HTTP: {problem}"))

    def _take_end_of_connection(self) -> None:
        self._advance(FOREVER_NS)
        if self.response.feed_end():
            self._end()
        elif self.response.arrived_ns == 0:
            self._end(request_error(ErrorType.RESET, "the connection was closed before an answer"))
        else:
            self._end(request_error(ErrorType.INCOMPLETE, "the connection was closed within the answer"))

    def _end(self, error: RequestError | None = None) -> None:
        if self._state is State.ENDED:
            return
        self._state = State.ENDED
        self.error = error
        self.done_ns = done_ns = self.response.done_ns if error is None else time.monotonic_ns()
        if error is None and self._sizes:
            self._reactor.on_end(self, self._sizes[-1], noticed=done_ns >= self._unnoticed_ns)
        self._reactor.unwatch(self)
        if not self._queued:
            self._queue()

    def _queue(self) -> None:
        self._queued = True
        self._reactor.decode_later(self)

    def _advance(self, until_ns: int) -> bool:
        response = self.response
        if (tap := self.connection.tap) is None:
            response.decode_at_bytes = _DECODE_BYTES
        elif self._bulk:
            self._cut(tap)
        while response.body or response.raw:
            self._decode_some(until_ns)
            if time.monotonic_ns() >= until_ns:
                break
        if self._sizes:
            middle, merged = self._sizes[self._head : -_TAIL_SEGMENTS], len(self.answer.coalesced_ns)
            span_ns = self._span_ns * len(middle) // max(1, self._span_gaps)  # theirs alone
            self._reactor.on_segments(self, middle, merged, span_ns)
            self._head = self._span_ns = self._span_gaps = 0
            del self._sizes[:-1]
        if self.answer.coalesced_ns:
            self._reactor.on_coalesced(self, self.answer.coalesced_ns)
            self.answer.coalesced_ns.clear()
        if response.complete:
            self._end()
        if response.body or response.raw:
            return False
        if self._state is State.HELD:
            self._state = State.READING
            self._reactor.resume(self)
        return True

    def _decode_some(self, until_ns: int) -> None:
        try:
            self._decoder.advance(until_ns)
        except httptools.HttpParserError as problem:
            self._end_by(problem)
        except AttemptError as failure:
            self.answer.fail(failure.error)
            self._end(failure.error)
            self.response.drop()
        except Exception as bug:
            _logger.exception("an answer could not be decoded")
            self.answer.fail(request_error(ErrorType.CLIENT, repr(bug)))
            self.response.drop()  # this runs in the loop: one bad answer must not end all the others

    def _cut(self, tap: Tap) -> None:
        """Cut what came in bulk where segments end, so that each piece has its stamp, and give it to the response."""
        data = self._bulk[0] if len(self._bulk) == 1 else b"".join(self._bulk)
        self._bulk, self._bulk_bytes = [], 0
        pieces, stamps, by_kernel = tap.cut(data, self.connection.received)
        self._unstamped = self._unstamped or not by_kernel
        self._reactor.count_stamps(self, by_kernel=by_kernel)
        self._sizes += map(len, pieces)
        self._span_ns += stamps[-1] - stamps[0]
        self._span_gaps += len(stamps) - 1
        try:
            if self.connection.encrypted:
                for piece, arrived_ns in zip(pieces, stamps, strict=True):
                    if plain := self.connection.decrypt(piece):
                        self.response.feed(plain, arrived_ns)
            else:
                self.response.feed_many(pieces, stamps)
        except (EOFError, OSError, httptools.HttpParserError) as problem:
            self._end_by(problem)

    def _conclude(self) -> None:
        """Decide whether the answer is complete, and wake the request's caller."""
        response, answer, broken = self.response, self.answer, self.error
        try:
            self._decoder.end()
        except AttemptError as failure:
            answer.fail(failure.error)
        self.error = answer.failure(broken, ended=response.complete)
        if broken is not None and self.error is None:
            self.done_ns = response.arrived_ns  # the answer was complete before the connection broke
        if self._waiting is not None:
            self._waiting.wake()
