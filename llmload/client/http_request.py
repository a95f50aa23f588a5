"""One request on one connection, until the engine, a time limit or the caller ends it."""

import logging
import select
import ssl
import time
from typing import Final

import httptools
from gevent.hub import Waiter

from llmload.client.answer import StreamState
from llmload.client.connection import Connection, Received
from llmload.client.errors import AttemptError, request_error
from llmload.client.http_response import Response
from llmload.client.reactor import HUNG_UP, Reactor
from llmload.client.settings import FOREVER_NS, Deadline
from llmload.client.sse import Decoder
from llmload.record import ErrorType, RequestError, StampSource

_DECODE_FIRST_BYTES: Final = 2_048
"""Small at first: coalesced chunks are only noticed when decoding."""
_DECODE_BYTES: Final = 16_384
_MAX_PENDING_BYTES: Final = 65_536
"""A stream that arrives faster than it is decoded waits in the kernel, so that memory stays bounded."""

_logger = logging.getLogger(__name__)


class HttpRequest:
    """
    A request and its answer; the greenlet in `run` waits once, everything else runs in the reactor.

    Afterwards `error` is a failure of HTTP or a time limit, `answer` is what the engine sent, and `stale` means that a
    kept-alive connection was closed before an answer came.
    """

    __slots__ = (
        "_began_ns",
        "_check_ns",
        "_deadline",
        "_decoder",
        "_ended",
        "_paused",
        "_queued",
        "_reactor",
        "_unstamped",
        "_waiter",
        "answer",
        "connection",
        "done_ns",
        "error",
        "response",
        "sent_ns",
    )

    def __init__(self, connection: Connection, reactor: Reactor, answer: StreamState, deadline: Deadline) -> None:
        self.answer = answer
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
        self._waiter: Waiter[None] = Waiter()
        self.response.decode_at_bytes = _DECODE_FIRST_BYTES
        self._unstamped = False
        self._ended = False
        self._queued = False
        self._paused = False

    def run(self, request: bytes) -> None:
        """Send the request and wait for the end of its answer; an exception that kills the wait is raised."""
        try:
            if self.connection.send(request):
                self.sent_ns = time.monotonic_ns()
        except OSError:
            self.connection.drop_unsent()  # reading finds out why: the engine may have answered before it closed
        self._began_ns = time.monotonic_ns()
        self._check_ns = self._deadline.next_check_ns(self._began_ns)
        self._reactor.watch(self)
        try:
            self._waiter.get()
        except BaseException:
            self._ended = True
            self.done_ns = time.monotonic_ns()
            self._reactor.unregister(self)
            self.decode(FOREVER_NS)
            raise
        finally:
            self.response.close()

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
        """The source of the answer's stamps: the kernel only if it stamped every read."""
        if not self.response.arrived_ns:
            return StampSource.NONE
        return StampSource.USER if self._unstamped else StampSource.KERNEL

    def on_ready(self, mask: int, received: Received) -> None:
        """Take what was read, then read (and write) as much as the socket allows."""
        if mask & select.EPOLLOUT:
            self._write()
        response, connection = self.response, self.connection
        try:
            data = connection.take(received)
            while True:
                if data:
                    if not connection.stamped:
                        self._unstamped = True
                        self._reactor.count_unstamped()
                    may_be_last = response.feed(data, connection.arrived_ns)
                    if may_be_last or response.pending_bytes > response.decode_at_bytes:
                        self.on_backlog()
                response.fast_path = connection.allows_fast_path and response.chunked
                if self._paused or (connection.drained and not mask & HUNG_UP):
                    return
                data = connection.receive()
        except (EOFError, OSError, httptools.HttpParserError) as problem:
            self._end_by(problem)

    def on_backlog(self) -> None:
        """Queue for decoding; if far too much is pending, stop reading until then."""
        if not self._queued:
            self._queue()
        if self.response.pending_bytes > _MAX_PENDING_BYTES and not (self._paused or self._ended):
            self._paused = True
            self._reactor.pause(self)

    def on_problem(self, mask: int, problem: OSError) -> None:
        """Handle a failed read, and write as much as the socket allows."""
        if mask & select.EPOLLOUT:
            self._write()
        self._end_by(problem)

    def decode(self, until_ns: int) -> bool:
        """Decode what was read until this monotonic ns; return whether nothing is left."""
        if not self._advance(until_ns):
            return False
        self._queued = False
        if self._ended:
            self._conclude()
        return True

    def check_time(self, now_ns: int) -> None:
        """End the stream if one of its time limits has passed."""
        if now_ns < self._check_ns:
            return
        if not self._advance(FOREVER_NS):
            return
        response = self.response
        chunk_ns = self.answer.chunk_ns
        stream = self._deadline.stream and response.content_type in ("", "text/event-stream")
        self._check_ns, error = self._deadline.check(
            now_ns, self.sent_ns or self._began_ns, chunk_ns[-1] if chunk_ns else None, stream=stream
        )
        if error is not None:
            self._end(error)

    def _write(self) -> None:
        try:
            if not self.connection.send_rest():
                return
        except OSError:
            self.connection.drop_unsent()
        else:
            self.sent_ns = time.monotonic_ns()
        if self._paused:
            self._reactor.pause(self)  # it stays paused, but no longer waits to write
        else:
            self._reactor.resume(self)

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
        if self._ended:
            return
        self._ended = True
        self.error = error
        self.done_ns = self.response.done_ns if error is None else time.monotonic_ns()
        self._reactor.unregister(self)
        if not self._queued:
            self._queue()

    def _queue(self) -> None:
        self._queued = True
        self._reactor.decode_later(self)

    def _advance(self, until_ns: int) -> bool:
        response = self.response
        response.decode_at_bytes = _DECODE_BYTES
        while response.body or response.raw:
            try:
                self._decoder.advance(until_ns)
            except httptools.HttpParserError as problem:
                self._end_by(problem)
            except AttemptError as failure:
                self.answer.fail(failure.error)
                self._end(failure.error)
                response.drop()
            except Exception as bug:
                _logger.exception("an answer could not be decoded")
                self.answer.fail(request_error(ErrorType.CLIENT, repr(bug)))
                response.drop()  # this runs in the hub: one bad answer must not end all the others
            if time.monotonic_ns() >= until_ns:
                break
        if self.answer.coalesced_ns:
            self._reactor.on_coalesced(self.answer.coalesced_ns)
            self.answer.coalesced_ns.clear()
        if response.complete:
            self._end()
        if response.body or response.raw:
            return False
        if self._paused and not self._ended:
            self._paused = False
            self._reactor.resume(self)
        return True

    def _conclude(self) -> None:
        """Decide whether the answer is complete, and wake the request's greenlet."""
        response, answer, broken = self.response, self.answer, self.error
        try:
            self._decoder.end()
        except AttemptError as failure:
            answer.fail(failure.error)
        self.error = answer.failure(broken, ended=response.complete)
        if broken is not None and self.error is None:
            self.done_ns = response.arrived_ns  # the answer was complete before the connection broke
        self._reactor.resolve(self._waiter)
