"""From TCP segments to the moment at which each byte of a connection could be read, and what the network did."""

from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np

from llmload.client.packet_ring import FIN, RST, SYN, Column, Segments
from llmload.record import CLIENT, ENGINE
from llmload.units import NS_PER_S

_MAX_UNCLAIMED: Final = 4096
"""Connections that are being opened, whose segments wait for the process to know their port."""


class Claims:
    """Whose segments are whose: the connections of a process, by their local ports."""

    def __init__(self) -> None:
        self._own: dict[int, ConnectionSegments] = {}
        self._unclaimed: dict[int, list[Segments]] = {}

    def claim(self, local_port: int) -> "ConnectionSegments":
        """Return what will hold the segments of the newest connection from this local port."""
        own = self._own[local_port] = ConnectionSegments()
        for segments in self._unclaimed.pop(local_port, ()):
            own.take(segments)
        return own

    def has(self, local_port: int) -> bool:
        """Return whether a connection has this local port."""
        return local_port in self._own

    def release(self, local_port: int, own: "ConnectionSegments") -> None:
        """Forget a connection that is closed, unless its port has been claimed for another."""
        if self._own.get(local_port) is own:
            del self._own[local_port]

    def hand_out(self, ports: Column, segments: Segments) -> None:
        """Give each connection its segments, in the order of their arrival; `ports` has the local port of each."""
        if not len(ports):
            return
        order = np.argsort(ports, kind="stable")
        ordered, segments = ports[order], segments.where(order)
        cuts = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(ordered)]
        for begin, end in pairwise(cuts):
            port, of_port = int(ordered[begin]), segments.where(slice(begin, end))
            own = self._own.get(port)
            if own is not None:
                own.take(of_port)
            else:
                self._keep_unclaimed(port, of_port)

    def _keep_unclaimed(self, port: int, segments: Segments) -> None:
        """Keep what follows the beginning of a connection; the rest is of one that was closed."""
        if not (segments.flags & SYN).any() and port not in self._unclaimed:
            return
        self._unclaimed.setdefault(port, []).append(Segments(*(column.copy() for column in segments)))
        while len(self._unclaimed) > _MAX_UNCLAIMED:
            del self._unclaimed[next(iter(self._unclaimed))]


class WireFacts(NamedTuple):
    """What the packet ring says of one request besides the stamps of its answer, as fields of its record."""

    wire_sent_ns: int | None
    rtt_s: float | None
    retransmissions: int
    late_segments: int
    engine_closed_windows: int
    client_closed_windows: int
    missed_bytes: int
    reset_by: str | None
    engine_writes: str | None = None


class ConnectionSegments:
    """
    The segments of one connection: when each byte that it received could be read, and when its requests left.

    A byte can be read when everything before it has come, so its stamp is the latest of the first arrivals up to its
    own. Offsets count from the connection's first byte; monotonic ns.
    """

    __slots__ = (
        "_ack_wanted",
        "_base",
        "_closed_at",
        "_closed_windows",
        "_departed_ns",
        "_ends",
        "_frontier",
        "_handshake_ns",
        "_held",
        "_last_ns",
        "_late",
        "_missed_bytes",
        "_opened_ns",
        "_reset_by",
        "_retransmissions",
        "_rtt_ns",
        "_sent",
        "_sent_base",
        "_stamps",
    )

    def __init__(self) -> None:
        self._base: int | None = None
        self._frontier = 0
        """The offset up to which every byte has come."""
        self._held: list[tuple[int, int, int]] = []
        """Start, end and stamp of segments behind a gap."""
        self._last_ns = 0
        self._ends: list[Column] = []
        self._stamps: list[Column] = []
        self._sent_base: int | None = None
        self._sent = 0
        self._ack_wanted: int | None = None
        self._opened_ns: int | None = None
        self._handshake_ns: int | None = None
        self._closed_at: dict[str, int] = {}
        """What a side had acknowledged when it last said that its window is closed."""
        self.begin_request()

    def begin_request(self) -> None:
        """Forget what the network did for the request before."""
        self._departed_ns: int | None = None
        self._rtt_ns: int | None = None
        self._retransmissions = self._late = self._missed_bytes = 0
        self._closed_windows = {ENGINE: 0, CLIENT: 0}
        self._reset_by: str | None = None

    def facts(self) -> WireFacts:
        """Return when the newest request left, and what the network did since it began."""
        round_trips_ns = [each for each in (self._rtt_ns, self._handshake_ns) if each is not None]
        return WireFacts(
            wire_sent_ns=self._departed_ns,
            rtt_s=min(round_trips_ns) / NS_PER_S if round_trips_ns else None,
            retransmissions=self._retransmissions,
            late_segments=self._late,
            engine_closed_windows=self._closed_windows[ENGINE],
            client_closed_windows=self._closed_windows[CLIENT],
            missed_bytes=self._missed_bytes,
            reset_by=self._reset_by,
        )

    def take(self, segments: Segments) -> None:
        """Take the connection's next segments, in the order of their arrival, stamped in monotonic ns."""
        data = (segments.length > 0) & ~segments.sent
        odd = ~data | ((segments.flags & (SYN | FIN | RST)) != 0) | (segments.window == 0)
        places = odd.nonzero()[0].tolist()
        if places:
            data[: self._take_odd(segments, places) + 1] = False  # what came before the connection was opened
        sequence = segments.sequence[data]
        if not len(sequence):
            return
        stamps = segments.stamp_ns[data]
        if self._ack_wanted is not None:
            self._take_acknowledgements(segments.acknowledged[data], stamps)
        if self._base is not None:
            self._take_data(self._base, sequence, segments.length[data], stamps)

    def _take_odd(self, segments: Segments, places: list[int]) -> int:
        """Take what is more than data; return the place of the segment that opened the connection, or -1."""
        opened = -1
        for place in places:
            flags, stamp_ns = int(segments.flags[place]), int(segments.stamp_ns[place])
            sequence, length = int(segments.sequence[place]), int(segments.length[place])
            sent = bool(segments.sent[place])
            if flags & SYN:
                opened = max(opened, self._open(sequence, stamp_ns, sent=sent, place=place))
            elif flags & RST:
                self._reset_by = self._reset_by or (CLIENT if sent else ENGINE)
            elif not segments.window[place]:
                self._note_closed(CLIENT if sent else ENGINE, int(segments.acknowledged[place]))
            if sent and length > 0:
                self._take_request(sequence, length, stamp_ns)
            elif not sent and self._ack_wanted is not None:
                self._take_acknowledgement(int(segments.acknowledged[place]), stamp_ns)
        return opened

    def _open(self, sequence: int, stamp_ns: int, *, sent: bool, place: int) -> int:
        """Take the segment that opens one direction of a connection: its first byte has the number behind."""
        if sent:
            self.begin_request()  # what came before was of another connection from the same port
            self._sent_base, self._sent, self._opened_ns = sequence + 1, 0, stamp_ns
            return -1
        self._base, self._frontier = sequence + 1, 0
        if self._opened_ns is not None:
            self._handshake_ns = max(0, stamp_ns - self._opened_ns)
        self._held, self._ends, self._stamps = [], [], []
        return place

    def _take_request(self, sequence: int, length: int, stamp_ns: int) -> None:
        """Take a segment of a request: the last one's stamp is the request's departure."""
        if self._sent_base is None:
            return
        end = self._sent + _signed(sequence + length - self._sent_base - self._sent)
        if end <= self._sent:
            self._retransmissions += 1
            return
        self._sent = end
        self._departed_ns, self._rtt_ns, self._ack_wanted = stamp_ns, None, sequence + length

    def _take_acknowledgement(self, acknowledged: int, stamp_ns: int) -> None:
        if self._ack_wanted is None or self._departed_ns is None or _signed(acknowledged - self._ack_wanted) < 0:
            return
        rtt_ns = max(0, stamp_ns - self._departed_ns)
        self._rtt_ns = rtt_ns if self._rtt_ns is None else min(rtt_ns, self._rtt_ns)

    def _take_acknowledgements(self, acknowledged: Column, stamps: Column) -> None:
        """Take those of segments with data, of which the first may have come before the one without."""
        wanted, departed_ns = self._ack_wanted, self._departed_ns
        if wanted is None or departed_ns is None:
            return
        ahead = (acknowledged - np.uint32(wanted & 0xFFFFFFFF)).astype(np.int32) >= 0
        ahead &= stamps >= departed_ns
        first = int(np.argmax(ahead))
        if ahead[first]:
            self._take_acknowledgement(int(acknowledged[first]), int(stamps[first]))
        if self._rtt_ns is not None:
            self._ack_wanted = None

    def _take_data(self, base: int, sequence: Column, length: Column, stamps: Column) -> None:
        expected = (base + self._frontier) & 0xFFFFFFFF
        starts = self._frontier + (sequence - np.uint32(expected)).view(np.int32).astype(np.int64)
        ends = starts + length
        if self._held or not self._in_order(starts, ends):
            known = np.maximum.accumulate(np.concatenate(([self._frontier], ends[:-1])))
            new = ends > known  # a late acknowledgement makes TCP send its last segment twice
            if self._held or not new.any() or not self._in_order(starts[new], ends[new]):
                self._take_disordered(starts.tolist(), ends.tolist(), stamps.tolist())
                return
            self._retransmissions += len(new) - int(np.count_nonzero(new))
            ends, stamps = ends[new], stamps[new]
        self._append(ends, np.maximum.accumulate(stamps))

    def _in_order(self, starts: Column, ends: Column) -> bool:
        """Return whether these segments follow each other, the first the bytes that have come."""
        return bool(starts[0] == self._frontier and (starts[1:] == ends[:-1]).all())

    def _note_closed(self, side: str, acknowledged: int) -> None:
        """Count a window that a side closed, once: it says so again to each probe, and has taken nothing since."""
        if self._closed_at.get(side) != acknowledged:
            self._closed_at[side] = acknowledged
            self._closed_windows[side] += 1

    def _take_disordered(self, starts: list[int], ends: list[int], stamps: list[int]) -> None:
        """Take segments of which some came twice, late or early."""
        new_ends: list[int] = []
        new_stamps: list[int] = []
        latest_ns, frontier = self._last_ns, self._frontier
        for start, end, stamp_ns in zip(starts, ends, stamps, strict=True):
            if end <= frontier or any(held[0] <= start and end <= held[1] for held in self._held):
                self._retransmissions += 1
                continue
            self._late += start <= frontier and bool(self._held)  # those behind it had to wait
            self._held.append((start, end, stamp_ns))
            self._held.sort()
            while self._held and self._held[0][0] <= frontier:
                _, held_end, held_ns = self._held.pop(0)
                latest_ns = max(latest_ns, held_ns)
                if held_end > frontier:
                    frontier = held_end
                    new_ends.append(held_end)
                    new_stamps.append(latest_ns)
        if new_ends:
            self._append(np.array(new_ends, np.int64), np.array(new_stamps, np.int64))

    def _append(self, ends: Column, stamps: Column) -> None:
        if stamps[0] < self._last_ns:
            stamps = np.maximum(stamps, self._last_ns)
        self._ends.append(ends)
        self._stamps.append(stamps)
        self._frontier, self._last_ns = int(ends[-1]), int(stamps[-1])

    def arrivals(self, upto: int) -> tuple[Column, Column]:
        """
        Return the ends and the stamps of what came of the bytes up to this offset that were not returned before.

        The last end is `upto`, unless the ring missed a segment: then the bytes behind the last end have no stamp, and
        `skip` is to be called for them.
        """
        if len(self._ends) > 1:
            self._ends, self._stamps = [np.concatenate(self._ends)], [np.concatenate(self._stamps)]
        if not self._ends:
            return _NONE, _NONE
        ends, stamps = self._ends[0], self._stamps[0]
        whole = int(np.searchsorted(ends, upto, side="right"))
        self._ends, self._stamps = ([ends[whole:]], [stamps[whole:]]) if whole < len(ends) else ([], [])
        if whole < len(ends) and (ends[whole - 1] if whole else -1) < upto:  # a part of the next segment was read
            return np.append(ends[:whole], upto), stamps[: whole + 1]
        return ends[:whole], stamps[:whole]

    def skip(self, upto: int) -> None:
        """Give up bytes that were read and whose segments the ring missed."""
        if self._frontier < upto:
            self._missed_bytes += upto - self._frontier
            self._frontier = upto
            self._held = [each for each in self._held if each[1] > upto]
        self._ends, self._stamps = [], []


_NONE: Final[Any] = np.empty(0, np.int64)


def _signed(difference: int) -> int:
    """Return a difference of sequence numbers, which wrap at 2^32, as a number around 0."""
    return (difference + 0x80000000 & 0xFFFFFFFF) - 0x80000000
