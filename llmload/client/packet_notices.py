"""
A second, small packet ring: of segments that may be an answer's last, so that nobody looks at all of them in time.

The kernel's filter knows which payloads are usual in the middle of answers. What else an engine sends (a head, an
end, a reset) comes here as well, some segments an answer, and a look costs next to nothing where there is none.
"""

import weakref
from collections.abc import Iterable, Sequence
from typing import Final

from llmload.client.packet_filter import SNAP_BYTES, Peer, PortRange, notices
from llmload.client.packet_ring import FRAME_BYTES, PLAIN_IPV4, attach, ignore_outgoing, open_ring, tcp_offset

_RING_BYTES: Final = 1 << 20
"""4,096 segments: what has no room is read with all others, a quarter of a second later."""
_OWNED: Final = 1
"""The bit of a frame's status that says that it is the process's."""


class PacketNotices:
    """
    Segments with payload from engines to this process that are not usual, or end a connection.

    `admit` says of which connections, `usual` which payloads are passed over. Raises `RingUnavailableError`.
    """

    def __init__(self) -> None:
        self._socket, self._memory = open_ring(_RING_BYTES)
        weakref.finalize(self, self._socket.close)
        ignore_outgoing(self._socket, ignore=True)
        self._bytes = memoryview(self._memory)
        self._words = self._bytes.cast("I")
        self._halves = self._bytes.cast("H")
        self.fd = self._socket.fileno()
        """Readable while there is a segment to look at."""
        self._next = 0
        """Where the next frame begins, in bytes."""
        self._peers: frozenset[Peer] = frozenset()
        self._ranges: Sequence[PortRange] = ()
        self._usual: tuple[int, int] | None = None

    def admit(self, peers: Iterable[Peer], ranges: Sequence[PortRange]) -> None:
        """Show segments from these peers to these local ports; raises `ValueError` or `OSError` for too many peers."""
        self._peers, self._ranges = frozenset(peers), tuple(ranges)
        self._attach()

    def pass_over(self, usual: tuple[int, int] | None) -> None:
        """Do not show segments whose payload is within these bytes, ends included; None: show all with payload."""
        if usual != self._usual:
            self._usual = usual
            self._attach()

    def _attach(self) -> None:
        attach(self._socket, notices(self._peers, self._ranges, self._usual))

    def look(self) -> list[tuple[int, int]]:
        """Return the local port and the payload of each segment that has come since the last look."""
        found = []
        while self._words[self._next // 4] & _OWNED:
            found.append(self._read(self._next))
            self._words[self._next // 4] = 0
            self._next = (self._next + FRAME_BYTES) % _RING_BYTES
        return found

    def _read(self, frame: int) -> tuple[int, int]:
        data = self._bytes
        ip = frame + self._halves[frame // 2 + 7]
        header = 20 if data[ip] == PLAIN_IPV4 else tcp_offset(bytes(data[ip : ip + SNAP_BYTES]))
        if header is None:
            return 0, 0
        tcp = ip + header
        payload = self._words[frame // 4 + 1] - header - (data[tcp + 12] >> 4) * 4
        return data[tcp + 2] << 8 | data[tcp + 3], payload

    def close(self) -> None:
        """Stop and unmap the ring; one inherited by fork continues in the process that opened it."""
        for view in (self._halves, self._words, self._bytes):
            view.release()
        self._memory.close()
        self._socket.close()
