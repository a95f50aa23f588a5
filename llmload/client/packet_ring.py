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

_PLAIN_IPV4: Final = 0x45
"""The first byte of an IPv4 header without options."""

FIN, SYN, RST = 1, 2, 4
"""The flags of a segment that matter here."""

Column = npt.NDArray[Any]


class RingUnavailableError(LlmloadError):
    """The packet ring is not available; the text says why, and what would help."""


class Segments(NamedTuple):
    """
    Segments in the order of their arrival, a column each: arrays of one length.

    Those that `PacketRing.waiting_segments` returns are views of the ring, until their frames are given back.
    """

    local_port: Column
    """uint16"""
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
    """int64: CLOCK_REALTIME in the ring, monotonic in the log"""

    def where(self, index: Any) -> "Segments":
        """Return the segments that an index, mask or slice selects."""
        return Segments(*(column[index] for column in self))


class PacketRing:
    """
    A ring of the segments between this process's connections and its engines.

    `look` finds what is new and costs some microseconds; `waiting_segments` shows what was found, until `give_back`.
    Raises `RingUnavailableError` where the kernel or the process's rights do not allow it.
    """

    def __init__(self, ring_bytes: int = RING_BYTES) -> None:
        self._frame_count = ring_bytes // FRAME_BYTES
        self._ipv6 = False
        try:
            self._socket = _open(ring_bytes, self._frame_count)
        except OSError as error:
            raise RingUnavailableError(_why_not(error)) from error
        weakref.finalize(self, self._socket.close)
        self._memory = mmap.mmap(self._socket.fileno(), ring_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        frames = np.frombuffer(self._memory, dtype=np.uint8).reshape(self._frame_count, FRAME_BYTES)
        self._frames = frames
        self._words = frames.view(np.uint32)
        self._halves = frames.view(">u2")
        self._big_words = frames.view(">u4")
        self._status = self._words[:, _STATUS]
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
            _attach(self._socket, program(peers, ranges))
        except (ValueError, OSError) as error:
            raise RingUnavailableError(f"{len(peers)} engine addresses do not fit in a packet filter") from error
        self._ipv6 = any(":" in address for address, _ in peers)
        self._engine_port[:] = False
        self._engine_port[[port for _, port in peers]] = True
        local = all(address.startswith("127.") or address == "::1" for address, _ in peers)
        with contextlib.suppress(OSError):  # a kernel before 4.20 shows loopback's packets twice
            # What leaves a host is copied for each listener; on loopback it is seen as it arrives, so it is not needed.
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, int(local))

    @property
    def waiting(self) -> int:
        """How many segments were seen by `look` and not taken."""
        return self._seen - self._from

    @property
    def capacity(self) -> int:
        """How many segments the ring can hold."""
        return self._frame_count

    def look(self) -> tuple[Column, Column] | None:
        """
        Find what has come since the last look: return the local port and the payload of each segment, or None.

        Of a segment that this host sent the port is the engine's. Where the IP header has options both mean nothing.
        """
        begin = self._seen % self._frame_count
        if not self._status[begin] & 1:
            return None  # as at most ticks of few streams
        end = self._new_until(begin)
        if end == begin:
            return None
        self._seen += end - begin
        net = self._net_offset(begin)
        ports: Column = self._halves[begin:end, (net + 22) // 2]
        headers: Column = 20 + (self._frames[begin:end, net + 32] >> 4).astype(np.int32) * 4
        if self._ipv6:
            is6 = self._frames[begin:end, net] >> 4 == 6
            ports = np.where(is6, self._halves[begin:end, (net + 42) // 2], ports)
            headers = np.where(is6, 40 + (self._frames[begin:end, net + 52] >> 4).astype(np.int32) * 4, headers)
        return ports, self._words[begin:end, _LENGTH] - headers

    def _new_until(self, begin: int) -> int:
        """Return the end of the new frames from this one on; frames before the beginning of the ring come next time."""
        end, step = begin, _FIRST_LOOK
        last = min(self._frame_count, begin + self._frame_count - self.waiting)
        while end < last:
            status = self._status[end : min(end + step, last)] & 1
            if not status.all():
                return end + int(np.argmin(status))
            end += len(status)
            step *= 2
        return end

    def _net_offset(self, frame: int) -> int:
        """Return where the IP header begins in each frame."""
        if not self._net:
            self._net = int(self._words[frame, _OFFSETS] >> 16)
        return self._net

    def waiting_segments(self) -> list[Segments]:
        """Return all segments that were looked at and not given back, in order, in one part or two."""
        begin, count = self._from % self._frame_count, self._seen - self._from
        parts = [(begin, min(begin + count, self._frame_count)), (0, begin + count - self._frame_count)]
        return [self._parse(first, end) for first, end in parts if end > first]

    def give_back(self) -> None:
        """Let the kernel use the frames of all segments that were looked at."""
        while self._from < self._seen:
            begin = self._from % self._frame_count
            end = min(begin + self._seen - self._from, self._frame_count)
            self._status[begin:end] = 0
            self._from += end - begin

    def _parse(self, begin: int, end: int) -> Segments:
        """Return the segments in these frames: those with plain headers together, odd ones by their headers."""
        net = self._net_offset(begin)
        first = self._frames[begin:end, net]
        if (first == _PLAIN_IPV4).all():
            return self._columns(slice(begin, end), 20, ipv4=True)
        behind: Column = np.where(first == _PLAIN_IPV4, 20, 0)
        behind[(first >> 4 == 6) & (self._frames[begin:end, net + 6] == socket.IPPROTO_TCP)] = 40
        for index in np.flatnonzero(behind == 0).tolist():
            behind[index] = tcp_offset(self._frames[begin + index, net : net + SNAP_BYTES].tobytes()) or 0
        order, groups = [], []
        for version, header in sorted({*zip((first >> 4).tolist(), behind.tolist(), strict=True)}):
            alike = np.flatnonzero((first >> 4 == version) & (behind == header))
            if header:
                order.append(alike)
                groups.append(self._columns(alike + begin, header, ipv4=version == 4))
        if not groups:
            return self._columns(slice(begin, begin), 20, ipv4=True)
        arrived = np.argsort(np.concatenate(order))
        return Segments(*(np.concatenate(columns)[arrived] for columns in zip(*groups, strict=True)))

    def _columns(self, index: Any, header: int, *, ipv4: bool) -> Segments:
        """Return the columns of frames whose TCP header begins `header` bytes after the beginning of the IP header."""
        net = self._net_offset(0)
        tcp = net + header
        halves, words = self._halves, self._words
        lengths = halves[index, (net + (2 if ipv4 else 4)) // 2].astype(np.int32)
        if not lengths.all():  # a packet that was merged to more than 64 KiB
            lengths = np.where(lengths == 0, words[index, _LENGTH].astype(np.int32) - (0 if ipv4 else 40), lengths)
        lengths -= header - (0 if ipv4 else 40)
        lengths -= (self._frames[index, tcp + 12] >> 4) * np.int32(4)
        source, destination = halves[index, tcp // 2], halves[index, tcp // 2 + 1]
        sent = ~self._engine_port[source]
        return Segments(
            local_port=np.where(sent, source, destination) if sent.any() else destination,
            sent=sent,
            sequence=self._big_words[index, tcp // 4 + 1],
            acknowledged=self._big_words[index, tcp // 4 + 2],
            length=lengths,
            flags=self._frames[index, tcp + 13],
            window=halves[index, tcp // 2 + 7],
            stamp_ns=words[index, _SECONDS].astype(np.int64) * NS_PER_S + words[index, _NANOSECONDS],
        )

    def count_drops(self) -> int:
        """Return how many segments the kernel could not log since the ring was opened."""
        _, drops = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._dropped += drops  # each question sets the kernel's count to zero
        return self._dropped

    def close(self) -> None:
        """Stop logging and unmap the ring; one inherited by fork continues in the process that opened it."""
        for name in ("_frames", "_words", "_halves", "_big_words", "_status"):
            delattr(self, name)
        self._memory.close()
        self._socket.close()


def _open(ring_bytes: int, frame_count: int) -> socket.socket:
    """Return a packet socket with a ring that logs nothing yet: what came before the ring is discarded with it."""
    sock: socket.socket = plain_socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_ALL))
    try:
        _attach(sock, [REFUSE])
        sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, struct.pack("i", _TPACKET_V2))
        layout = struct.pack("IIII", _BLOCK_BYTES, ring_bytes // _BLOCK_BYTES, FRAME_BYTES, frame_count)
        sock.setsockopt(_SOL_PACKET, _PACKET_RX_RING, layout)
    except BaseException:
        sock.close()
        raise
    return sock


def why_unavailable() -> str | None:
    """Return why this process can have no packet ring, with what would help; None where it can."""
    try:
        _open(_BLOCK_BYTES, _BLOCK_BYTES // FRAME_BYTES).close()
    except OSError as error:
        return _why_not(error)
    return None


def _attach(sock: socket.socket, instructions: Sequence[Instruction]) -> None:
    """Make this program the socket's filter."""
    code = ctypes.create_string_buffer(packed(instructions))
    attach = struct.pack("HL", len(instructions), ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attach)


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
