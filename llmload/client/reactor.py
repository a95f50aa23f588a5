"""One reader per process: it collects what all connections received, and decodes it afterwards, in slices."""

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from llmload.client.clock import ReceiveClock
from llmload.client.loop import GeventLoop, Loop, Waiting, Watch
from llmload.client.packet_reads import PacketReads
from llmload.client.packet_ring import RingUnavailableError
from llmload.client.packet_tap import PacketTap
from llmload.client.reads import MANY_STREAMS, TICK_S, Reads, Stream
from llmload.client.settings import Stamps
from llmload.client.stamped_reads import StampedReads
from llmload.errors import ConfigError
from llmload.units import NS_PER_S

_SLICE_NS: Final = 700_000
_SHORT_SLICE_NS: Final = 150_000
"""The first slice of few streams, so that a request that falls due meanwhile is sent in time."""
_BACKLOG: Final = 8
"""From as many answers on they are decoded in longer slices, although requests may fall due."""
_AT_ONCE_S: Final = 0.0
"""Once the loop has seen to what else is due."""
_SWEEP_NS: Final = 50_000_000
_MISSES_ALLOWED: Final = 8
"""After this many reads without a kernel's stamp, the kernel is taken not to stamp at all."""

_logger = logging.getLogger(__name__)


class Reactor:
    """
    Collects what open streams received, by a timer of the event loop; with no stream open it does not run.

    The kernel knows when each byte came, so nothing needs to wake up per chunk. If it does not, the loop wakes the
    reactor as soon as a socket is readable. What was read is decoded in slices shorter than a millisecond with a
    collection between them, so that many answers that end together do not delay each other's reads.
    """

    def __init__(self, loop: Loop, stamps: Stamps = "auto") -> None:
        self._pid = os.getpid()
        self._loop = loop
        self._to_decode: deque[Stream] = deque()
        self._next_sweep_ns = 0
        self._slice_ns = _SHORT_SLICE_NS
        self._running = False
        self._unstamped = 0
        self._stamped_by_ring = False
        self.clock = ReceiveClock()
        self.stamps = stamps
        self.tap = open_tap(stamps)
        """The packet ring, for connections to be opened with; None where reads are stamped."""
        self._stamped = StampedReads(self.clock, by_kernel=stamps != "user")
        self._packets = None if self.tap is None else PacketReads(self.tap)
        self._sources: list[Reads] = [self._stamped, *filter(None, [self._packets])]
        self._timers: dict[float, Watch] = {}
        self._period_s = TICK_S
        self._watcher = loop.readable(self._stamped.poll_fd, self._stamped.collect)
        self._notices = None if self._packets is None else loop.readable(self._packets.notices_fd, self._on_notice)
        self._listening = False
        """Whether `_notices` is watched."""
        self._ticked_ns = 0

    @property
    def inherited(self) -> bool:
        """Whether this reactor was inherited by fork, or belongs to another loop."""
        return self._pid != os.getpid() or self._loop.foreign

    def watch(self, stream: Stream) -> None:
        """Read the stream from now on, and let it write while its connection has something unsent."""
        self._source(stream).watch(stream)
        if not self._running:
            self._start()
        self._look_sooner()

    def pause(self, stream: Stream) -> None:
        """Leave what arrives for the stream in the kernel."""
        self._source(stream).pause(stream)
        self._look_sooner()

    def resume(self, stream: Stream) -> None:
        """Read the stream again, beginning with what it left; it writes while its connection has something unsent."""
        self._source(stream).resume(stream)
        self._look_sooner()

    def unwatch(self, stream: Stream) -> None:
        """Stop reading the stream, whose socket must still be open."""
        self._source(stream).unwatch(stream)

    def read(self, stream: Stream) -> None:
        """Read what waits for the stream now, since it is to be judged by what has come."""
        self._source(stream).read(stream)

    def _source(self, stream: Stream) -> Reads:
        return self._stamped if stream.connection.tap is None or self._packets is None else self._packets

    def decode_later(self, stream: Stream) -> None:
        """Queue the stream for decoding."""
        self._to_decode.append(stream)

    def count_stamps(self, stream: Stream, *, by_kernel: bool) -> None:
        """
        Count a read with or without a kernel's stamp; after several without, take it that the kernel stamps none.

        The packet ring is then given up for the next connections; sockets are watched instead of looked at in turn.
        """
        if stream.connection.tap is not None:
            self._stamped_by_ring = self._stamped_by_ring or by_kernel
            self._unstamped += not by_kernel
            if self._unstamped == _MISSES_ALLOWED and not self._stamped_by_ring and self.stamps == "auto":
                _logger.warning("the packet ring shows nothing of our connections: stamps are taken from the sockets")
                self.tap, self._unstamped = None, 0
        elif not by_kernel:
            self._unstamped += 1
            if self._unstamped == _MISSES_ALLOWED:
                self._watcher.start()

    def on_coalesced(self, stream: Stream, stamps_ns: Sequence[int]) -> None:
        """Note that chunks with text share a stamp, at these moments; monotonic ns."""
        self._source(stream).on_coalesced(stamps_ns)

    def on_segments(self, stream: Stream, sizes: list[int], merged: int, span_ns: int) -> None:
        """Note segments in the middle of an answer: their payloads, how many chunks shared one, from first to last."""
        if self._packets is not None:
            self._packets.note_segments(stream, sizes, merged, span_ns)

    def on_end(self, stream: Stream, last: int, *, noticed: bool) -> None:
        """Note the payload of the last segment of a complete answer, and whether the ring showed that it came."""
        if self._packets is not None:
            self._packets.note_end(stream, last, noticed=noticed)

    def waiting(self) -> Waiting:
        """Return a wait for the caller of a request."""
        return self._loop.waiting()

    def close(self) -> None:
        """Stop, and close timers and descriptors."""
        self._stop()
        for timer in self._timers.values():
            timer.close()
        self._watcher.close()
        if self._notices is not None:
            self._notices.close()
        for source in self._sources:
            source.close()

    @property
    def _timer(self) -> Watch:
        """The timer of the present period."""
        timer = self._timers.get(self._period_s)
        if timer is None:
            timer = self._timers[self._period_s] = self._loop.timer(self._period_s, self._tick)
        return timer

    def _start(self) -> None:
        self._running = True
        self._period_s = TICK_S
        self.clock.restart()
        self._timer.start()
        if self._unstamped >= _MISSES_ALLOWED:
            self._watcher.start()

    def _stop(self) -> None:
        self._running = False
        self._timer.stop()
        self._watcher.stop()
        self._listen(False)

    def _listen(self, listening: bool) -> None:
        if self._notices is not None and listening != self._listening:
            self._listening = listening
            (self._notices.start if listening else self._notices.stop)()

    def _look_sooner(self) -> None:
        """Choose a shorter timer where a stream is due between reads in bulk that was not when the timer was chosen."""
        if self._listening and self._packets is not None and not self._packets.waits_for_notices:
            self._choose_timer()

    def _on_notice(self) -> None:
        """Read what may be an answer's end, at once or with what comes until some time after the last read."""
        self._listen(False)
        if self._packets is None:
            return
        wait_s = self._packets.between_notices_s
        if time.monotonic_ns() - self._ticked_ns >= wait_s * NS_PER_S:
            self._tick()
        else:
            self._set_timer(wait_s)

    def _tick(self) -> None:
        if self.inherited:
            self._stop()
            return
        left = len(self._to_decode)
        self._collect()
        if self._to_decode and (left or not self._patient):
            self._decode_slice()
            if self._to_decode or self._period_s == TICK_S:  # else the next tick is early enough
                self._collect()
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_sweep_ns:
            self._sweep(now_ns)
        if self._to_decode or any(source.streams for source in self._sources):
            self._choose_timer()
            self._ticked_ns = now_ns
        else:
            self._stop()

    def _collect(self) -> None:
        for source in self._sources:
            if source.streams:
                source.collect()

    @property
    def _patient(self) -> bool:
        return all(source.patient for source in self._sources if source.streams)

    @property
    def _somebody_waits(self) -> bool:
        """Whether answers are to be decoded at once, since the next requests wait for their ends, and nothing else."""
        return not (self._patient or self._stamped.streams)

    def _choose_timer(self) -> None:
        waits = [source.period_s() for source in self._sources if source.streams]
        if self._to_decode:
            chosen_s = _AT_ONCE_S if self._somebody_waits else TICK_S
        else:
            chosen_s = min(waits) if waits else TICK_S
        self._set_timer(chosen_s)
        packets = self._packets
        self._listen(
            packets is not None and bool(packets.streams) and not self._to_decode and packets.waits_for_notices
        )

    def _set_timer(self, every_s: float) -> None:
        if every_s != self._period_s or every_s == _AT_ONCE_S:
            self._timer.stop()
            self._period_s = every_s
            self._timer.start()

    def _decode_slice(self) -> None:
        """Decode until the slice is over: a short one, and twice as long each time that one was not enough."""
        read = self._to_decode
        until_ns = time.monotonic_ns() + self._slice_ns
        while read:
            if read[0].decode(until_ns):
                read.popleft()
            if time.monotonic_ns() >= until_ns:
                break
        if read and (len(read) >= _BACKLOG or not self._patient):
            self._slice_ns = min(2 * self._slice_ns, _SLICE_NS)
        else:
            many = sum(len(source.streams) for source in self._sources) >= MANY_STREAMS
            self._slice_ns = _SLICE_NS if many else _SHORT_SLICE_NS

    def _sweep(self, now_ns: int) -> None:
        self._next_sweep_ns = now_ns + _SWEEP_NS
        for source in self._sources:
            for stream in list(source.streams.values()):
                stream.check_time(now_ns)


def open_tap(stamps: Stamps) -> PacketTap | None:
    """
    Return the packet ring if these stamps come from it and it is available.

    Raises `ConfigError` where it was requested by name and is not available.
    """
    if stamps not in ("auto", "packet"):
        return None
    try:
        return PacketTap()
    except RingUnavailableError as error:
        if stamps == "packet":
            raise ConfigError(f"client.stamps = 'packet': {error}") from error
        _logger.debug("stamps are taken from the sockets: %s", error)
        return None


_current: dict[Stamps, Reactor] = {}


def current_reactor(stamps: Stamps = "auto") -> Reactor:
    """Return this process's reactor for these stamps, made on first use; one inherited by fork is replaced."""
    own = _current.get(stamps)
    if own is None or own.inherited:
        if own is not None:
            own.close()
        own = _current[stamps] = Reactor(GeventLoop(), stamps)
    return own
