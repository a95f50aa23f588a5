"""
Stamps from the kernel's packet ring: sockets are read rarely and in bulk, since the ring knows when each byte came.

A stream is read four times a second, sooner where it is fast, and at once when the ring shows a segment that may be
an answer's last: one whose size is not that of the engine's usual chunks. An engine that waits for our acknowledgements
(Nagle's algorithm) would be slowed by late reads, so each engine is first read promptly, then on trial.
"""

import select
import time
from collections.abc import Mapping, Sequence
from typing import Final

from llmload.client.connection import BULK_BYTES
from llmload.client.engine_pace import EnginePace, Phase
from llmload.client.loop import plain_epoll
from llmload.client.packet_filter import Peer
from llmload.client.packet_tap import PacketTap, Tap
from llmload.client.reads import HUNG_UP, MANY_STREAMS, NOTICED, TICK_S, Stream, writing
from llmload.record import BULK_READS_S
from llmload.units import NS_PER_S

_LONG_TICK_S: Final = 0.004
_BULK_TICKS_S: Final = (0.025, 0.006, 0.002)
"""How often it is looked whether to read in bulk, of which the shortest interval is twice the last of these."""
_NOTICES_S: Final = 0.002
_LOOK_NS: Final = round(_LONG_TICK_S * 0.75 * NS_PER_S)
"""From one look for patient streams to the next, at least: less than a long tick, whose timer may be early."""
_LONGEST_BULK_NS: Final = round(BULK_READS_S * NS_PER_S)
_SHORTEST_BULK_NS: Final = 4_000_000
_FIRST_BULK_NS: Final = 50_000_000
_LARGE_READ: Final = 12_288
"""Reads as large as this come too late: the receive window must not close, nor the kernel's queue of segments fill."""
_SMALL_READ: Final = 6_144
_MAX_EVENTS: Final = 8192
_READING: Final = select.EPOLLIN | select.EPOLLRDHUP
_EVERYTHING_USUAL: Final = (0, 1 << 30)

_LEARNING_BYTES: Final = 2_048
"""As many bytes of an answer are decoded at a time while its engine is not known."""
_LEAST_BYTES, _MOST_BYTES, _ALL_BYTES = 16_384, 49_152, 32 << 20
"""Later: the least and the most of an answer, and what all answers may share."""


class PacketReads:
    """Reads streams whose connections are in the packet ring."""

    def __init__(self, tap: PacketTap) -> None:
        self._tap = tap
        self._poller: select.epoll = plain_epoll()
        self._by_fd: dict[int, Stream] = {}
        self._taps: dict[int, Tap] = {}
        self._by_port: dict[int, Stream] = {}
        self._bulk: set[int] = set()
        self._impatient: set[int] = set()
        self._writing: set[int] = set()
        self._left: list[Stream] = []
        """Streams that may have left something in the kernel."""
        self._low, self._high = _EVERYTHING_USUAL
        """What is usual of all engines that are read in bulk."""
        self._paces: dict[Peer, EnginePace] = {}
        self._bulk_ns = _FIRST_BULK_NS
        self._next_bulk_ns = 0
        self._next_look_ns = 0

    def period_s(self) -> float:
        """Return how long the next collection may wait."""
        if self.waits_for_notices:
            return next((each for each in _BULK_TICKS_S if each * NS_PER_S <= self._bulk_ns / 2), _BULK_TICKS_S[-1])
        return _LONG_TICK_S if len(self._by_fd) >= MANY_STREAMS or self.patient else TICK_S

    @property
    def notices_fd(self) -> int:
        """Readable when a stream may have ended."""
        return self._tap.notices_fd

    @property
    def waits_for_notices(self) -> bool:
        """Whether nothing is due between reads in bulk but what makes `notices_fd` readable."""
        return len(self._bulk) == len(self._by_fd) and not (self._writing or self._left)

    @property
    def between_notices_s(self) -> float:
        """How long to wait at least after a collection for the next, so that ends are read some at a time."""
        return _LONG_TICK_S if self.patient else _NOTICES_S if len(self._by_fd) >= MANY_STREAMS else TICK_S

    @property
    def patient(self) -> bool:
        """Whether nothing waits for a collection but answers that nobody waits for."""
        return not (self._impatient or self._writing or self._left)

    def watch(self, stream: Stream) -> None:
        """Read the stream from now on, and let it write while its connection has something unsent."""
        connection = stream.connection
        tap = connection.tap
        if tap is None:
            raise TypeError("the connection is not in the packet ring")
        self._by_fd[connection.fd] = stream
        self._taps[connection.fd] = tap
        self._poller.register(connection.fd, _READING)
        self._by_port[tap.local_port] = stream
        if not stream.patient:
            self._impatient.add(connection.fd)
        self._note_writing(stream)
        self._pace(connection.fd)
        self._choose_notices()

    def _pace(self, fd: int) -> None:
        """Read the stream in bulk if that does its engine no harm, else promptly."""
        self._choose_way(fd)
        pace, each = self._paces[self._taps[fd].peer], _ALL_BYTES // max(1, len(self._by_fd))
        most = _LEARNING_BYTES if pace.learning else min(max(each, _LEAST_BYTES), _MOST_BYTES)
        self._by_fd[fd].response.decode_at_bytes = most

    def _choose_way(self, fd: int) -> None:
        tap = self._taps[fd]
        pace = self._paces.get(tap.peer)
        if pace is None:
            pace = self._paces[tap.peer] = EnginePace()
        if fd in self._bulk:
            if pace.phase is not Phase.PROMPT:
                return
            self._read_promptly(fd)
        elif pace.may_read_in_bulk(len(self._by_fd)):
            self._bulk.add(fd)
            pace.begin_bulk()
            low, high = pace.usual_bytes
            self._low, self._high = max(self._low, low), min(self._high, high)

    def _read_promptly(self, fd: int) -> None:
        tap = self._taps[fd]
        self._bulk.discard(fd)
        self._paces[tap.peer].end_bulk()
        if not self._bulk:
            self._low, self._high = _EVERYTHING_USUAL

    def pause(self, stream: Stream) -> None:
        """Leave what arrives for the stream in the kernel."""
        self._by_port.pop(self._taps[stream.connection.fd].local_port, None)
        self._poller.modify(stream.connection.fd, 0)
        self._note_writing(stream)

    def resume(self, stream: Stream) -> None:
        """Read the stream again, beginning with what it left; it writes while its connection has something unsent."""
        self._by_port[self._taps[stream.connection.fd].local_port] = stream
        self._poller.modify(stream.connection.fd, _READING)
        self._note_writing(stream)
        self._left.append(stream)

    def _note_writing(self, stream: Stream) -> None:
        (self._writing.add if writing(stream) else self._writing.discard)(stream.connection.fd)

    def unwatch(self, stream: Stream) -> None:
        """Stop reading the stream, whose socket must still be open."""
        connection = stream.connection
        if self._by_fd.pop(connection.fd, None) is None:
            return
        self._poller.unregister(connection.fd)
        self._writing.discard(connection.fd)
        self._impatient.discard(connection.fd)
        if connection.fd in self._bulk:
            self._read_promptly(connection.fd)
        self._by_port.pop(self._taps.pop(connection.fd).local_port, None)
        self._choose_notices()

    def _choose_notices(self) -> None:
        """Let the kernel pass over what is usual, unless some streams are read promptly."""
        self._tap.pass_over((self._low, self._high) if len(self._bulk) == len(self._by_fd) else None)

    def note_segments(self, stream: Stream, sizes: list[int], merged: int, span_ns: int) -> None:
        """Note segments in the middle of an answer: their payloads, how many chunks shared one, from first to last."""
        fd = stream.connection.fd
        if fd in self._taps:
            peer = self._taps[fd].peer
            pace = self._paces[peer]
            before = pace.phase
            pace.take_middle(sizes, merged, span_ns, bulk=fd in self._bulk)
            if pace.writes is not None:
                self._tap.engine_writes[peer] = pace.writes
            if pace.phase is Phase.PROMPT and before is not Phase.PROMPT:
                for each in list(self._bulk):
                    self._pace(each)
            self._pace(fd)
            self._choose_notices()

    def note_end(self, stream: Stream, last: int, *, noticed: bool) -> None:
        """Note the payload of the last segment of a complete answer, whose stream is still watched."""
        fd = stream.connection.fd
        self._paces[self._taps[fd].peer].take_end(last, bulk=fd in self._bulk, noticed=noticed)

    @property
    def streams(self) -> Mapping[int, Stream]:
        """The streams that are read, by descriptor."""
        return self._by_fd

    def on_coalesced(self, stamps_ns: Sequence[int]) -> None:
        """Do nothing: chunks with one stamp came in one segment, and reading more often would not part them."""

    def collect(self) -> None:
        """Read the streams whose answers may have ended, and now and then all of them."""
        now_ns = time.monotonic_ns()
        if self.patient and now_ns < self._next_look_ns:
            return  # the reactor decodes in slices meanwhile
        self._next_look_ns = now_ns + _LOOK_NS
        for stream in self._noticed():
            self._read(stream, NOTICED)
        left, self._left = self._left, []
        for stream in left:
            self.read(stream)
        for fd in list(self._writing):
            self._by_fd[fd].on_writable()
        if now_ns >= self._next_bulk_ns:
            self._read_all(now_ns)

    def _noticed(self) -> list[Stream]:
        """Return the streams of which something has come that does not wait for a read in bulk."""
        due: dict[int, Stream] = {}
        for port, payload in self._tap.look():
            stream = self._by_port.get(port)
            if stream is None or port in due:
                continue
            if stream.connection.fd not in self._bulk or not self._low <= payload <= self._high:
                due[port] = stream
        return list(due.values())

    def read(self, stream: Stream) -> None:
        """Read what waits for the stream now, since it is to be judged by what has come."""
        if self._by_fd.get(stream.connection.fd) is stream:
            self._read(stream, NOTICED)

    def _read_all(self, now_ns: int) -> None:
        largest = 0
        for fd, mask in self._poller.poll(0, _MAX_EVENTS):
            largest = max(largest, self._read(self._by_fd[fd], NOTICED if mask & HUNG_UP else now_ns))
        if largest > _LARGE_READ:
            self._bulk_ns = max(_SHORTEST_BULK_NS, self._bulk_ns // 2)
        elif largest < _SMALL_READ:
            self._bulk_ns = min(_LONGEST_BULK_NS, self._bulk_ns * 5 // 4)
        self._next_bulk_ns = now_ns + self._bulk_ns
        self._tap.catch_up()
        self._tap.give_back()

    def _read(self, stream: Stream, unnoticed_ns: int) -> int:
        """Read what waits, and return how many bytes that were; for `unnoticed_ns` see `Stream.on_bulk`."""
        connection, total = stream.connection, 0
        port = self._taps[connection.fd].local_port
        try:
            while True:
                data = connection.receive_bulk()
                total += len(data)
                self._tap.note_read()
                stream.on_bulk(data, unnoticed_ns)
                if len(data) < BULK_BYTES or port not in self._by_port:
                    return total  # all is read, or the stream has enough
        except BlockingIOError:
            if not total and unnoticed_ns == NOTICED:
                stream.on_notice()
            return total
        except (EOFError, OSError) as problem:
            stream.on_problem(0, problem)
            return total

    def close(self) -> None:
        """Close its own descriptors."""
        self._poller.close()
        self._tap.close()
