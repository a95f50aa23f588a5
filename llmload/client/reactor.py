"""One reader per process: it drains all sockets first and decodes what they received afterwards."""

import contextlib
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from gevent import monkey
from gevent.hub import Waiter, get_hub

from llmload.client.connection import (
    ANCILLARY_BYTES,
    SMALL_READ_BYTES,
    Connection,
    Receive,
    ReceiveClock,
    Received,
    enable_timestamps,
    received_stamp,
    timespec,
)
from llmload.client.http_response import MAY_END_BODY, MIN_FAST_BYTES, PendingReads
from llmload.units import NS_PER_S

_MIN_BOOST_NS: Final = 100_000_000
_MAX_BOOST_NS: Final = 4_000_000_000
_CALM_NS: Final = 200_000_000
"""Coalesced chunks after this long without any are a single delay, perhaps of a busy machine."""


class PollBoost:
    """
    Whether to poll often: for 0.1 s after chunks were read together, doubled (to 4 s at most) if it happens again soon.

    Chunks that are read together share one stamp, so an engine that sends faster than the reactor polls must be polled
    often nearly all the time; a single delay of the machine must not have that effect.
    """

    __slots__ = ("_length_ns", "_until_ns")

    def __init__(self) -> None:
        self._length_ns = _MIN_BOOST_NS
        self._until_ns = 0

    def on_coalesced(self, stamps_ns: Iterable[int], now_ns: int) -> None:
        """
        Note chunks that were read together; their stamps in order, monotonic ns.

        Events from before the last boost ended are ignored: streams report late, when they are decoded. The first later
        event says how long the calm was.
        """
        event_ns = next((stamp_ns for stamp_ns in stamps_ns if stamp_ns >= self._until_ns), None)
        if event_ns is not None:
            calm = event_ns - self._until_ns >= _CALM_NS
            self._length_ns = _MIN_BOOST_NS if calm else min(2 * self._length_ns, _MAX_BOOST_NS)
            self._until_ns = now_ns + self._length_ns

    def active(self, now_ns: int) -> bool:
        """Return whether to poll often at this monotonic ns."""
        return now_ns < self._until_ns


TICK_S: Final = 0.001
LONG_TICK_S: Final = 0.006
_MANY_STREAMS: Final = 100
"""From here on, the cost of a tick matters more than the few milliseconds by which it may delay an answer's end."""
_SLICE_NS: Final = 700_000
_SHORT_SLICE_NS: Final = 150_000
"""The first slice of few streams, so that a request that falls due meanwhile is sent in time."""
_SWEEP_NS: Final = 50_000_000
_MAX_EVENTS: Final = 8192
_MISSES_ALLOWED: Final = 8
"""After this many reads without a kernel's stamp, the kernel is taken not to stamp at all."""
_STAMPING_STARTS_S: Final = 0.25
_ARRIVED: Final = select.EPOLLIN
"""The event mask of most sockets: bytes arrived, nothing else."""
_NO_MASK: Final = -1
"""A mask that no socket has."""
HUNG_UP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
"""The other side writes no more: read to the end now, since there will be no further event."""
_READING: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
"""Edge-triggered: level-triggered epoll checks every ready socket again."""


class Stream(Protocol):
    """A request in flight, as the reactor sees it."""

    @property
    def connection(self) -> Connection:
        """The connection to read."""

    @property
    def response(self) -> PendingReads:
        """The reads that are not decoded yet."""

    def on_backlog(self) -> None:
        """Queue for decoding: more than `decode_at_bytes` are pending."""

    def on_ready(self, mask: int, received: Received) -> None:
        """Take what was read, then read (and write) as much as the socket allows, or ask the reactor to `pause`."""

    def on_problem(self, mask: int, problem: OSError) -> None:
        """Handle a failed read, and write as much as the socket allows."""

    def decode(self, until_ns: int) -> bool:
        """Decode what was read until this monotonic ns; return whether nothing is left."""

    def check_time(self, now_ns: int) -> None:
        """End the stream if one of its time limits has passed."""


class Reactor:
    """
    Polls the sockets of open streams every millisecond, in gevent's hub; with no stream open it does not run. With
    100 streams or more it polls every six, as long as no two chunks of a stream are read together.

    The kernel stamps arrivals, so reading late does not falsify them, and nothing needs to wake up per chunk. If the
    kernel does not stamp, the hub wakes the reactor as soon as a socket is readable. Reads are decoded in slices
    shorter than a millisecond with a drain between them, so that many answers that end together do not delay each
    other's reads.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._hub = get_hub()
        self._poller: select.epoll = monkey.get_original("select", "epoll")()
        self._streams: dict[int, tuple[Stream, Connection, PendingReads, Receive]] = {}
        self._to_decode: deque[Stream] = deque()
        self._next_sweep_ns = 0
        self._slice_ns = _SHORT_SLICE_NS
        self._short = self._hub.loop.timer(TICK_S, TICK_S)
        self._long = self._hub.loop.timer(LONG_TICK_S, LONG_TICK_S)
        self._timer = self._short
        self._poll_boost = PollBoost()
        self._watcher = self._hub.loop.io(self._poller.fileno(), 1)
        self._missed_stamps = 0
        self._running = False
        self.clock = ReceiveClock()
        self._stamp_keeper = _open_stamp_keeper()

    @property
    def inherited(self) -> bool:
        """Whether this reactor was inherited by fork, or belongs to another hub."""
        return self._pid != os.getpid() or self._hub is not get_hub()

    def watch(self, stream: Stream) -> None:
        """
        Read the stream from now on, and let it write while its connection has something unsent.

        Events are edge-triggered: bytes that the stream leaves unread give no further event until `resume`.
        """
        fd = stream.connection.fd
        self._streams[fd] = stream, stream.connection, stream.response, stream.connection.recvmsg
        self._poller.register(fd, _READING | _writing(stream))
        if not self._running:
            self._start()

    def pause(self, stream: Stream) -> None:
        """Leave what arrives for the stream in the kernel."""
        self._poller.modify(stream.connection.fd, _writing(stream))

    def resume(self, stream: Stream) -> None:
        """Read the stream again, beginning with what it left; it writes while its connection has something unsent."""
        self._poller.modify(stream.connection.fd, _READING | _writing(stream))

    def unregister(self, stream: Stream) -> None:
        """Stop reading the stream, whose socket must still be open."""
        if self._streams.pop(stream.connection.fd, None) is not None:
            self._poller.unregister(stream.connection.fd)

    def decode_later(self, stream: Stream) -> None:
        """Queue the stream for decoding."""
        self._to_decode.append(stream)

    def count_unstamped(self) -> None:
        """Count a read without a kernel stamp; after several, the hub watches the sockets instead of the timer."""
        self._missed_stamps += 1
        if self._missed_stamps == _MISSES_ALLOWED:
            self._watcher.start(self._drain)

    def on_coalesced(self, stamps_ns: Sequence[int]) -> None:
        """Note that chunks with text were read together, at these stamps: poll more often for a while."""
        self._poll_boost.on_coalesced(stamps_ns, self.clock.now_ns)

    def resolve(self, waiter: "Waiter[None]") -> None:
        """Wake the greenlet behind a gevent waiter, after this round."""
        self._hub.loop.run_callback(waiter.switch, None)

    def close(self) -> None:
        """Stop, and close timers and descriptors."""
        self._stop()
        self._short.close()
        self._long.close()
        self._watcher.close()
        self._poller.close()
        os.close(self._stamp_keeper)

    def _start(self) -> None:
        self._running = True
        self.clock.restart()
        self._timer.start(self._tick, update=True)
        if self._missed_stamps >= _MISSES_ALLOWED:
            self._watcher.start(self._drain)

    def _stop(self) -> None:
        self._running = False
        self._timer.stop()
        self._watcher.stop()

    def _tick(self) -> None:
        if self.inherited:
            self._stop()
            return
        self._drain()
        if self._to_decode:
            self._decode_slice()
            if self._to_decode or self._timer is self._short:  # else the next tick is early enough
                self._drain()
        if self.clock.now_ns >= self._next_sweep_ns:
            self._sweep(self.clock.now_ns)
        if not self._streams and not self._to_decode:
            self._stop()
        else:
            self._choose_timer()

    def _choose_timer(self) -> None:
        """Tick rarely while there are many streams and no coalesced chunks."""
        rarely = len(self._streams) >= _MANY_STREAMS and not self._poll_boost.active(self.clock.now_ns)
        chosen = self._long if rarely and not self._to_decode else self._short
        if chosen is not self._timer:
            self._timer.stop()
            self._timer = chosen
            chosen.start(self._tick, update=True)

    def _drain(self) -> None:
        """Read every ready socket, then dispatch: in separate loops, each finds its code in the CPU's caches."""
        self.clock.sample()
        streams, received_reads = self._streams, []
        for fd, mask in self._poller.poll(0, _MAX_EVENTS):
            stream, connection, pending, recvmsg = streams[fd]
            try:
                received_reads.append((stream, pending, mask, recvmsg(connection.bufsize, ANCILLARY_BYTES)))
            except OSError as problem:
                stream.on_problem(mask, problem)
        self._dispatch(received_reads)

    def _dispatch(self, received_reads: list[tuple[Stream, PendingReads, int, Received]]) -> None:
        """
        Hand each read to its stream.

        Most reads are a small chunk in the middle of an answer. They are appended right here: each call, and each
        object touched, costs several times as much between the reads of hundreds of streams as in its own loop.
        Measure every change with `python -m benchmarks.comparisons.client_cost`.
        """
        offset_ns, second, second_ns = self.clock.offset_ns, -1, 0
        usual_mask = _NO_MASK if self.clock.stepped else _ARRIVED
        for stream, pending, mask, received in received_reads:
            data, ancillary, _, _ = received
            length = len(data)
            if (
                mask == usual_mask
                and pending.fast_path
                and MIN_FAST_BYTES <= length < SMALL_READ_BYTES
                and ancillary
                and not data.endswith(MAY_END_BODY)
            ):
                seconds, nanoseconds = timespec(ancillary[0][2])
                if seconds != second:
                    second, second_ns = seconds, seconds * NS_PER_S + offset_ns
                pending.raw.append(data)
                pending.raw_stamps.append(second_ns + nanoseconds)
                pending.pending_bytes = pending_bytes = pending.pending_bytes + length
                if pending_bytes > pending.decode_at_bytes:
                    stream.on_backlog()
            else:
                stream.on_ready(mask, received)

    def _decode_slice(self) -> None:
        """Decode until the slice is over: a short one, and twice as long each time that one was not enough."""
        read = self._to_decode
        until_ns = time.monotonic_ns() + self._slice_ns
        while read:
            if read[0].decode(until_ns):
                read.popleft()
            if time.monotonic_ns() >= until_ns:
                break
        if read:
            self._slice_ns = min(2 * self._slice_ns, _SLICE_NS)
        else:
            self._slice_ns = _SLICE_NS if len(self._streams) >= _MANY_STREAMS else _SHORT_SLICE_NS

    def _sweep(self, now_ns: int) -> None:
        self._next_sweep_ns = now_ns + _SWEEP_NS
        for stream, *_ in list(self._streams.values()):
            stream.check_time(now_ns)


def _writing(stream: Stream) -> int:
    return select.EPOLLOUT if stream.connection.writing else 0


def _open_stamp_keeper() -> int:
    """
    Open a socket that keeps kernel timestamping enabled for as long as it lives; return its descriptor.

    The kernel starts to stamp some time after the first socket asks, so this waits for it, 0.25 s at most.
    """
    keeper = monkey.get_original("socket", "socket")(socket.AF_INET, socket.SOCK_DGRAM)
    until_s = time.monotonic() + _STAMPING_STARTS_S
    if enable_timestamps(keeper):
        with contextlib.suppress(OSError):  # no loopback: then the first reads show it
            keeper.bind(("127.0.0.1", 0))
            keeper.connect(keeper.getsockname())
            keeper.settimeout(_STAMPING_STARTS_S)
            while time.monotonic() < until_s:
                keeper.send(b"stamped?")
                if received_stamp(keeper):
                    break
    return int(keeper.detach())


_current: list[Reactor] = []


def current_reactor() -> Reactor:
    """Return this process's reactor, made on first use; one inherited by fork is closed and replaced."""
    if not _current or _current[0].inherited:
        for inherited in _current:
            inherited.close()
        _current[:] = [Reactor()]
    return _current[0]
