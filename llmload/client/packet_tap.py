"""The packet ring of a process, as its connections use it: whose segments are logged, and what becomes of them."""

import logging
import time
from collections import Counter
from itertools import pairwise
from typing import Any, Final

import numpy as np

from llmload.client.clock import ReceiveClock
from llmload.client.local_ports import LocalPorts
from llmload.client.packet_filter import Peer
from llmload.client.packet_notices import PacketNotices
from llmload.client.packet_ring import PacketRing, RingUnavailableError, Segments
from llmload.client.segments import Claims, ConnectionSegments, WireFacts

_IDLE_PEERS: Final = 32
"""With as many peers, those without a connection are forgotten: each makes the filter longer."""
_FULL_SHARE: Final = 0.5
"""The ring is emptied when it is as full as this: all connections are given what is theirs, whether they ask or not."""

_logger = logging.getLogger(__name__)


class Tap:
    """One connection's part of the process's ring."""

    __slots__ = ("_settled", "_tap", "local_port", "peer", "segments")

    def __init__(self, tap: "PacketTap", peer: Peer, local_port: int, segments: ConnectionSegments) -> None:
        self._tap = tap
        self.peer = peer
        self.local_port = local_port
        self.segments = segments
        self._settled = 0
        """How many segments the ring had seen when this connection last had its own."""

    def cut(self, data: bytes, upto: int) -> tuple[list[bytes], list[int], bool]:
        """
        Cut the connection's newest bytes, whose last is at this offset, where segments end.

        Return the pieces, the monotonic ns of each one's arrival, and whether all of these stamps are the kernel's:
        where the ring missed a segment they are the process's.
        """
        self._settle()
        begin = upto - len(data)
        ends, stamps = self.segments.arrivals(upto)
        if len(ends) and ends[0] <= begin:  # those of a tunnel and a handshake, which were read elsewhere
            behind = int(np.searchsorted(ends, begin, side="right"))
            ends, stamps = ends[behind:], stamps[behind:]
        cuts = (ends - begin).tolist()
        moments_ns = stamps.tolist()
        complete = bool(cuts) and cuts[-1] == len(data)
        if not complete:
            self.segments.skip(upto)
            cuts.append(len(data))
            moments_ns.append(time.monotonic_ns())
        if len(cuts) == 1:
            return [data], moments_ns, complete
        return [data[begin:end] for begin, end in pairwise([0, *cuts])], moments_ns, complete

    def _settle(self) -> None:
        """Have the connection's segments until now, unless nothing has come since the last time."""
        self._settled = self._tap.settle(self, self._settled)

    def begin_request(self) -> None:
        """Note that a request is about to be written."""
        self.segments.begin_request()

    def facts(self, *, settled: bool) -> WireFacts:
        """Return what the ring says of the newest request; `settled`: its answer is complete, and all of it was cut."""
        if not settled:
            self._settle()
        return self.segments.facts()._replace(engine_writes=self._tap.engine_writes.get(self.peer))

    def close(self) -> None:
        """Forget the connection."""
        self._tap.forget(self)


class PacketTap:
    """
    Opens connections so that their segments are logged, and hands the segments out, stamped in monotonic ns.

    Raises `RingUnavailableError` where there can be no ring.
    """

    def __init__(self) -> None:
        self._ring = PacketRing()
        self._notices = PacketNotices()
        self._claims = Claims()
        self._ports = LocalPorts()
        self._clock = ReceiveClock()
        """Its own: a jump of the wall clock is one between two of its batches, however often sockets are read."""
        self._admitted: set[Peer] = set()
        self._connections: Counter[Peer] = Counter()
        self._behind = True
        """Whether something was read since the ring was looked at."""
        self.engine_writes: dict[Peer, str] = {}
        """One of `ENGINE_WRITES` for each engine of which it is known."""

    def before_connect(self, sock: Any, address: Any) -> None:
        """Prepare a socket to connect to this address: log its segments, and let it choose among our local ports."""
        peer = _peer(address)
        if not self._connections[peer] and peer not in self._admitted:
            self._forget_idle_peers()
            if not (self._ports.has(peer) or self._ports.exhausted):
                self._claim_ports(peer)
            self._admit({peer})
        limited = not self._ports.exhausted
        self._ports.limit(sock, peer)
        if limited and self._ports.exhausted:  # a kernel without such ranges
            self._admit(set())

    def claim_more_ports(self, address: Any) -> bool:
        """Claim another range of local ports when one is used up; return whether it is worth another try."""
        if self._ports.exhausted:
            return False
        self._claim_ports(_peer(address))
        self._admit(set())
        return True

    def _claim_ports(self, peer: Peer) -> None:
        self._ports.claim(peer, frozenset(port for _, port in {*self._admitted, peer}))

    def connected(self, sock: Any) -> Tap | None:
        """
        Return the tap of a connection that was just opened.

        None where the filter has no room for its engine, or another connection has the same local port.
        """
        peer, local_port = _peer(sock.getpeername()), int(sock.getsockname()[1])
        if peer not in self._admitted or self._claims.has(local_port):
            return None
        self._connections[peer] += 1
        return Tap(self, peer, local_port, self._claims.claim(local_port))

    def _admit(self, more: set[Peer]) -> None:
        """Let the filter pass these peers as well, if it can."""
        try:
            self._ring.admit(self._admitted | more, self._ports.ranges)
            self._notices.admit(self._admitted | more, self._ports.ranges)
        except RingUnavailableError as error:
            _logger.warning("%s: its stamps are taken from the sockets", error)
        else:
            self._admitted |= more

    def _forget_idle_peers(self) -> None:
        if len(self._admitted) >= _IDLE_PEERS:
            idle = {peer for peer in self._admitted if not self._connections[peer]}
            self._admitted -= idle
            for peer in idle:
                self._ports.release(peer)

    def pass_over(self, usual: tuple[int, int] | None) -> None:
        """Do not show segments of answers whose payload is within these bytes; None: show all with payload."""
        self._notices.pass_over(usual)

    @property
    def notices_fd(self) -> int:
        """Readable when there is something to look at."""
        return self._notices.fd

    def look(self) -> list[tuple[int, int]]:
        """Return the local port and the payload of each segment that may end an answer, since the last look."""
        return self._notices.look()

    def catch_up(self) -> None:
        """Find all segments that have come; those from before a jump of the wall clock are handed out first."""
        self._behind = False
        self._clock.sample()
        if self._clock.stepped:
            ports, segments = self._ring.take_all()
            before_ns = self._clock.offset_before_ns
            self._claims.hand_out(ports, segments._replace(stamp_ns=segments.stamp_ns + before_ns))
        while self._ring.look():
            if self._ring.waiting > self._ring.capacity * _FULL_SHARE and not self._clock.stepped:
                self._hand_out()
        if self._clock.stepped:
            self._hand_out()

    def give_back(self) -> None:
        """Let the kernel use the frames of segments again that their connections have."""
        self._ring.give_back()

    def _hand_out(self) -> None:
        ports, segments = self._ring.take_all()
        self._claims.hand_out(ports, self._monotonic(segments))

    def _monotonic(self, segments: Segments) -> Segments:
        return segments._replace(stamp_ns=self._clock.monotonic_stamps_ns(segments.stamp_ns))

    def note_read(self) -> None:
        """Note that something was read, so that the next to settle looks into the ring once more."""
        self._behind = True

    def settle(self, tap: Tap, settled: int) -> int:
        """
        Hand a connection all of its segments until now; return how many segments the ring has seen.

        `settled` is the same of the last time: then nothing is to be done if no more were seen.
        """
        if self._behind:
            self.catch_up()
        if self._ring.seen != settled and (segments := self._ring.take(tap.local_port)) is not None:
            tap.segments.take(self._monotonic(segments))
        return self._ring.seen

    def forget(self, tap: Tap) -> None:
        """Forget a connection that is closed."""
        self._claims.release(tap.local_port, tap.segments)
        self._connections[tap.peer] -= 1

    def count_drops(self) -> int:
        """Return how many segments the ring has missed because it was full."""
        return self._ring.count_drops()

    def close(self) -> None:
        """Stop logging."""
        self._ring.close()
        self._notices.close()
        self._ports.close()


def _peer(address: Any) -> Peer:
    return str(address[0]), int(address[1])
