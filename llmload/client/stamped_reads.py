"""Stamps from the sockets: one read for each arrival, stamped by the kernel, or by the process if it does not."""

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from llmload.client.clock import ReceiveClock
from llmload.client.connection import (
    ANCILLARY_BYTES,
    SMALL_READ_BYTES,
    Connection,
    Receive,
    Received,
    enable_timestamps,
    received_stamp,
    timespec,
)
from llmload.client.http_response import MAY_END_BODY, MIN_FAST_BYTES, PendingReads
from llmload.client.loop import plain_epoll, plain_socket
from llmload.client.reads import MANY_STREAMS, TICK_S, Stream, writing
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


_LONG_TICK_S: Final = 0.006
_MAX_EVENTS: Final = 8192
_STAMPING_STARTS_S: Final = 0.25
_ARRIVED: Final = select.EPOLLIN
"""The event mask of most sockets: bytes arrived, nothing else."""
_NO_MASK: Final = -1
"""A mask that no socket has."""
_READING: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
"""Edge-triggered: level-triggered epoll checks every ready socket again."""


class StampedReads:
    """
    Polls the sockets of open streams every millisecond, or every six with 100 streams or more.

    The kernel stamps arrivals, so reading late does not falsify them, as long as no two chunks of a stream are read
    together: after that it polls often for a while.
    """

    def __init__(self, clock: ReceiveClock, *, by_kernel: bool = True) -> None:
        self._clock = clock
        self._poller: select.epoll = plain_epoll()
        self._by_fd: dict[int, tuple[Stream, Connection, PendingReads, Receive]] = {}
        self._streams: dict[int, Stream] = {}
        self._poll_boost = PollBoost()
        self._stamp_keeper = _open_stamp_keeper() if by_kernel else None

    @property
    def poll_fd(self) -> int:
        """A descriptor that is readable while any of the sockets is."""
        return self._poller.fileno()

    @property
    def patient(self) -> bool:
        """Return False: chunks that wait for each other in the kernel have one stamp."""
        return False

    def period_s(self) -> float:
        """Return how long the next collection may wait."""
        rarely = len(self._streams) >= MANY_STREAMS and not self._poll_boost.active(self._clock.now_ns)
        return _LONG_TICK_S if rarely else TICK_S

    def watch(self, stream: Stream) -> None:
        """
        Read the stream from now on, and let it write while its connection has something unsent.

        Events are edge-triggered: bytes that the stream leaves unread give no further event until `resume`.
        """
        fd = stream.connection.fd
        self._streams[fd] = stream
        self._by_fd[fd] = stream, stream.connection, stream.response, stream.connection.recvmsg
        self._poller.register(fd, _READING | writing(stream))

    def pause(self, stream: Stream) -> None:
        """Leave what arrives for the stream in the kernel."""
        self._poller.modify(stream.connection.fd, writing(stream))

    def resume(self, stream: Stream) -> None:
        """Read the stream again, beginning with what it left; it writes while its connection has something unsent."""
        self._poller.modify(stream.connection.fd, _READING | writing(stream))

    def unwatch(self, stream: Stream) -> None:
        """Stop reading the stream, whose socket must still be open."""
        if self._streams.pop(stream.connection.fd, None) is not None:
            del self._by_fd[stream.connection.fd]
            self._poller.unregister(stream.connection.fd)

    @property
    def streams(self) -> Mapping[int, Stream]:
        """The streams that are read, by descriptor."""
        return self._streams

    def on_coalesced(self, stamps_ns: Sequence[int]) -> None:
        """Note that chunks with text were read together, at these stamps: poll more often for a while."""
        self._poll_boost.on_coalesced(stamps_ns, self._clock.now_ns)

    def read(self, stream: Stream) -> None:
        """Do nothing: every socket is read within some milliseconds."""

    def collect(self) -> None:
        """Read every ready socket, then dispatch: in separate loops, each finds its code in the CPU's caches."""
        self._clock.sample()
        by_fd, received_reads = self._by_fd, []
        for fd, mask in self._poller.poll(0, _MAX_EVENTS):
            stream, connection, pending, recvmsg = by_fd[fd]
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
        offset_ns, second, second_ns = self._clock.offset_ns, -1, 0
        usual_mask = _NO_MASK if self._clock.stepped else _ARRIVED
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

    def close(self) -> None:
        """Close its own descriptors."""
        self._poller.close()
        if self._stamp_keeper is not None:
            os.close(self._stamp_keeper)


def _open_stamp_keeper() -> int:
    """
    Open a socket that keeps kernel timestamping enabled for as long as it lives; return its descriptor.

    The kernel starts to stamp some time after the first socket asks, so this waits for it, 0.25 s at most.
    """
    keeper = plain_socket(socket.AF_INET, socket.SOCK_DGRAM)
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
