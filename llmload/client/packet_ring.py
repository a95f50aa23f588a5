"""
The kernel's packet ring: when each TCP segment of our connections came, without a system call and without a read.

An AF_PACKET socket with a mapped receive ring (packet_mmap(7), TPACKET_V2) holds of each segment its headers and the
kernel's stamp. The frames have one size, so the whole ring is one two-dimensional array, and ports, sequence numbers
and stamps of thousands of segments are columns of it. It needs CAP_NET_RAW; see docs/stamps.md for what else.
"""

import contextlib
import ctypes
import errno
import mmap
import socket
import struct
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from llmload.client.loop import plain_socket
from llmload.client.packet_filter import EXTENSIONS, REFUSE, SNAP_BYTES, Instruction, Peer, PortRange, packed, program
from llmload.errors import LlmloadError
from llmload.units import NS_PER_S

_SOL_PACKET: Final = 263
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _PACKET_IGNORE_OUTGOING = 5, 6, 10, 23
_TPACKET_V2: Final = 1
_SO_ATTACH_FILTER: Final = 26
_ETH_ALL: Final = 3

FRAME_BYTES: Final = 256
"""The kernel's own head (80 bytes), and room for the longest IP and TCP headers."""
_BLOCK_BYTES: Final = 1 << 20
RING_BYTES: Final = 32 << 20
"""131,072 segments: three seconds of 40,000 tokens/s, longer than a process is ever kept from running."""

_STATUS, _LENGTH, _OFFSETS, _SECONDS, _NANOSECONDS = 0, 1, 3, 4, 5
"""The 32-bit words of a frame's head: `struct tpacket2_hdr`."""
_FIRST_LOOK: Final = 64
"""As many frames are looked at first; twice as many each time all of them were new."""

PLAIN_IPV4: Final = 0x45
"""The first byte of an IPv4 header without options."""
_TCP_HEADER_BYTES: Final = (np.arange(256) >> 4 << 2).astype(np.int32)
"""The length of a TCP header, by the byte that has it."""
_NO_ROWS: Final = np.empty(0, dtype=np.int64)

FIN, SYN, RST = 1, 2, 4
"""The flags of a segment that matter here."""

Column = npt.NDArray[Any]


class RingUnavailableError(LlmloadError):
    """The packet ring is not available; the text says why, and what would help."""


class Segments(NamedTuple):
    """Segments in the order of their arrival, a column each: arrays of one length."""

    sent: Column
    """bool: by this host, else by the engine"""
    sequence: Column
    """uint32: the sequence number of the first byte"""
    acknowledged: Column
    """uint32"""
    length: Column
    """int32: bytes of payload"""
    flags: Column
    """uint8"""
    window: Column
    """uint16: the receive window in the header, 0 if it is closed"""
    stamp_ns: Column
    """int64: CLOCK_REALTIME in the ring, monotonic once they are handed out"""

    def where(self, index: Any) -> "Segments":
        """Return the segments that an index, mask or slice selects."""
        return Segments(*(column[index] for column in self))


class PacketRing:
    """
    A ring of the segments between this process's connections and its engines.

    `look` finds what is new and costs some microseconds. What it found waits in the ring until it is taken: for one
    connection (`take`), which reads those frames alone, or for all (`take_all`), which gives the ring's frames back.
    Raises `RingUnavailableError` where the kernel or the process's rights do not allow it.
    """

    def __init__(self, ring_bytes: int = RING_BYTES) -> None:
        self._frame_count = ring_bytes // FRAME_BYTES
        self._socket, self._memory = open_ring(ring_bytes)
        weakref.finalize(self, self._socket.close)
        frames = np.frombuffer(self._memory, dtype=np.uint8).reshape(self._frame_count, FRAME_BYTES)
        self._frames = frames
        self._words = frames.view(np.uint32)
        self._halves = frames.view(">u2")
        self._status = self._words[:, _STATUS]
        self._sources = np.zeros(self._frame_count, dtype=np.uint16)
        self._destinations = np.zeros(self._frame_count, dtype=np.uint16)
        """The ports of each frame that waits, 0 once it is taken: a connection's are found without the frames."""
        self._from = self._seen = 0
        """The first frame that was not taken, and the first that was not looked at; they run on, modulo the ring."""
        self._net = 0
        self._engine_port = np.zeros(1 << 16, dtype=np.bool_)
        self._dropped = 0

    def admit(self, peers: Iterable[Peer], ranges: Sequence[PortRange]) -> None:
        """
        Log the segments between these peers (numeric addresses) and local ports, and no others, from now on.

        Raises `RingUnavailableError` for more peers than the filter has room for; then it is as before.
        """
        peers = frozenset(peers)
        try:
            attach(self._socket, program(peers, ranges))
        except (ValueError, OSError) as error:
            raise RingUnavailableError(f"{len(peers)} engine addresses do not fit in a packet filter") from error
        self._engine_port[:] = False
        self._engine_port[[port for _, port in peers]] = True
        local = all(address.startswith("127.") or address == "::1" for address, _ in peers)
        # What leaves a host is copied for each listener; on loopback it is seen as it arrives, so it is not needed.
        ignore_outgoing(self._socket, ignore=local)

    @property
    def waiting(self) -> int:
        """How many frames were seen by `look` and not given back."""
        return self._seen - self._from

    @property
    def seen(self) -> int:
        """How many segments were seen by `look`."""
        return self._seen

    @property
    def capacity(self) -> int:
        """How many segments the ring can hold."""
        return self._frame_count

    def look(self) -> bool:
        """Find what has come since the last look; return whether there may be more."""
        begin = self._seen % self._frame_count
        end = self._new_until(begin)
        if end == begin:
            return False
        self._seen += end - begin
        new = slice(begin, end)
        net = self._net_offset(begin)
        headers = _ip_header_bytes(self._frames[new], net)
        if isinstance(headers, int):
            self._sources[new] = self._halves[new, (net + headers) // 2]
            self._destinations[new] = self._halves[new, (net + headers) // 2 + 1]
        else:
            rows, known = np.arange(begin, end), headers > 0
            self._sources[new] = np.where(known, self._halves[rows, (net + headers) // 2], 0)
            self._destinations[new] = np.where(known, self._halves[rows, (net + headers) // 2 + 1], 0)
        return True

    def _new_until(self, begin: int) -> int:
        """Return the end of the new frames from this one on; frames before the beginning of the ring come next time."""
        end, step = begin, _FIRST_LOOK
        last = min(self._frame_count, begin + self._frame_count - self.waiting)
        while end < last:
            status = self._status[end : min(end + step, last)] & 1
            first_free = int(status.argmin())
            if not status[first_free]:
                return end + first_free
            end += len(status)
            step *= 2
        return end

    def _net_offset(self, frame: int) -> int:
        """Return where the IP header begins in each frame."""
        if not self._net:
            self._net = int(self._words[frame, _OFFSETS] >> 16)
        return self._net

    def take(self, local_port: int) -> Segments | None:
        """Return what waits of the connections from this local port, and take it; None where nothing does."""
        found = []
        for first, end in self._waiting_parts():
            own = (self._destinations[first:end] == local_port) | (self._sources[first:end] == local_port)
            found.append(own.nonzero()[0] + first)
        rows = found[0] if len(found) == 1 else np.concatenate([_NO_ROWS, *found])
        if not len(rows):
            return None
        self._sources[rows] = self._destinations[rows] = 0
        return self._parse(self._frames[rows])

    def take_all(self) -> tuple[Column, Segments]:
        """Return all segments that wait, with the local port of each, and let the kernel use their frames again."""
        parts = [self._destinations[first:end].nonzero()[0] + first for first, end in self._waiting_parts()]
        rows = np.concatenate([_NO_ROWS, *parts])
        segments = self._parse(self._frames[rows])
        ports = np.where(segments.sent, self._sources[rows], self._destinations[rows])
        self._give_back(self.waiting)
        return ports, segments

    def give_back(self) -> None:
        """Let the kernel use the oldest frames again, up to the first whose segment was not taken."""
        for first, end in self._waiting_parts():
            kept = self._destinations[first:end] > 0
            taken = int(kept.argmax()) if kept.any() else end - first
            self._give_back(taken)
            if taken < end - first:
                break

    def _give_back(self, count: int) -> None:
        for first, end in self._waiting_parts():
            part = min(count, end - first)
            self._status[first : first + part] = 0
            self._from += part
            count -= part

    def _waiting_parts(self) -> list[tuple[int, int]]:
        """Return the first and the end of the frames that wait, in order: one part, or two around the ring's end."""
        begin = self._from % self._frame_count
        end = begin + self.waiting
        parts = [(begin, min(end, self._frame_count)), (0, end - self._frame_count)]
        return [(first, last) for first, last in parts if last > first]

    def _parse(self, frames: Column) -> Segments:
        """Return the segments in these frames: those with like headers together."""
        net = self._net
        headers = _ip_header_bytes(frames, net)
        if isinstance(headers, int):
            return self._columns(frames, headers, ipv4=True)
        version = frames[:, net] >> 4
        order, groups = [_NO_ROWS], [self._columns(frames[:0], 20, ipv4=True)]
        for kind, header in sorted({*zip(version.tolist(), headers.tolist(), strict=True)}):
            alike = ((version == kind) & (headers == header)).nonzero()[0]
            if header:
                order.append(alike)
                groups.append(self._columns(frames[alike], header, ipv4=kind == 4))
        arrived = np.argsort(np.concatenate(order))
        return Segments(*(np.concatenate(columns)[arrived] for columns in zip(*groups, strict=True)))

    def _columns(self, frames: Column, header: int, *, ipv4: bool) -> Segments:
        """Return the columns of frames whose TCP header begins `header` bytes after the beginning of the IP header."""
        net = self._net
        tcp = net + header
        halves, words, big_words = frames.view(">u2"), frames.view(np.uint32), frames.view(">u4")
        lengths = halves[:, (net + (2 if ipv4 else 4)) // 2].astype(np.int32)
        if not lengths.all():  # a packet that was merged to more than 64 KiB
            lengths = np.where(lengths == 0, words[:, _LENGTH].astype(np.int32) - (0 if ipv4 else 40), lengths)
        lengths -= _TCP_HEADER_BYTES[frames[:, tcp + 12]] + np.int32(header - (0 if ipv4 else 40))
        return Segments(
            sent=~self._engine_port[halves[:, tcp // 2]],
            sequence=big_words[:, tcp // 4 + 1],
            acknowledged=big_words[:, tcp // 4 + 2],
            length=lengths,
            flags=frames[:, tcp + 13],
            window=halves[:, tcp // 2 + 7],
            stamp_ns=words[:, _SECONDS].astype(np.int64) * NS_PER_S + words[:, _NANOSECONDS],
        )

    def count_drops(self) -> int:
        """Return how many segments the kernel could not log since the ring was opened."""
        _, drops = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._dropped += drops  # each question sets the kernel's count to zero
        return self._dropped

    def close(self) -> None:
        """Stop logging and unmap the ring; one inherited by fork continues in the process that opened it."""
        for name in ("_frames", "_words", "_halves", "_status"):
            delattr(self, name)
        self._memory.close()
        self._socket.close()


def _ip_header_bytes(frames: Column, net: int) -> int | Column:
    """
    Return where TCP begins after the beginning of the IP header: one number where all frames have plain IPv4 headers.

    Else one for each frame, and 0 where there is no TCP header in it.
    """
    first = frames[:, net]
    if (first == PLAIN_IPV4).all():
        return 20
    behind: Column = np.where(first == PLAIN_IPV4, 20, 0)
    behind[(first >> 4 == 6) & (frames[:, net + 6] == socket.IPPROTO_TCP)] = 40
    for index in np.flatnonzero(behind == 0).tolist():
        behind[index] = tcp_offset(frames[index, net : net + SNAP_BYTES].tobytes()) or 0
    return behind


def open_ring(ring_bytes: int) -> tuple[socket.socket, mmap.mmap]:
    """
    Return a packet socket and the frames of its ring, of `FRAME_BYTES` each; it logs nothing yet.

    Raises `RingUnavailableError`.
    """
    try:
        sock: socket.socket = plain_socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_ALL))
    except OSError as error:
        raise RingUnavailableError(_why_not(error)) from error
    try:
        attach(sock, [REFUSE])  # what came before the ring is discarded with it
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, struct.pack("i", _TPACKET_V2))
        layout = struct.pack("IIII", _BLOCK_BYTES, ring_bytes // _BLOCK_BYTES, FRAME_BYTES, ring_bytes // FRAME_BYTES)
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, layout)
        return sock, mmap.mmap(sock.fileno(), ring_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        sock.close()
        raise RingUnavailableError(_why_not(error)) from error


def why_unavailable() -> str | None:
    """Return why this process can have no packet ring, with what would help; None where it can."""
    try:
        sock, memory = open_ring(_BLOCK_BYTES)
    except RingUnavailableError as error:
        return str(error)
    memory.close()
    sock.close()
    return None


def attach(sock: socket.socket, instructions: Sequence[Instruction]) -> None:
    """Make this program the socket's filter."""
    code = ctypes.create_string_buffer(packed(instructions))
    program = struct.pack("HL", len(instructions), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def ignore_outgoing(sock: socket.socket, *, ignore: bool) -> None:
    """Have the kernel make no copy of what leaves for this socket, or have it make one, where it has the choice."""
    with contextlib.suppress(OSError):  # a kernel before 4.20
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, int(ignore))


def _why_not(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            "the packet ring needs CAP_NET_RAW: run as root, `setcap cap_net_raw+ep` on the Python that runs it, "
            "`cap_add: [NET_RAW]` in compose, or `securityContext.capabilities.add: [NET_RAW]` in Kubernetes"
        )
    return f"this kernel has no packet ring ({error.strerror or error})"


def tcp_offset(packet: bytes) -> int | None:
    """Return where TCP begins in a packet with IP options or extension headers; None if it is not in the bytes."""
    version = packet[0] >> 4
    if version == 4:
        return (packet[0] & 15) * 4
    kind, at = packet[6], 40
    while kind != socket.IPPROTO_TCP:
        if kind not in EXTENSIONS or at + 8 > len(packet):
            return None
        if kind == 44 and struct.unpack_from("!H", packet, at + 2)[0] & 0xFFF8:
            return None  # a later fragment
        length = 8 if kind == 44 else (packet[at + 1] + 2) * 4 if kind == 51 else (packet[at + 1] + 1) * 8
        kind, at = packet[at], at + length
    return at if at + 20 <= len(packet) else None
