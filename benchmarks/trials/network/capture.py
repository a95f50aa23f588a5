"""
A second opinion: all packets of the engine's ports, each with the kernel's stamp, and when each chunk could be read.

`python -m benchmarks.trials.network.capture FILE PORT...` logs until it is terminated; it prints a line once it does.
The evaluation follows the definition, byte by byte, and shares no code with llmload.
"""

import re
import signal
import socket
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

_SO_TIMESTAMPNS: Final = 35
_SO_RCVBUFFORCE: Final = 33
_OUTGOING: Final = 4
_ETH_ALL: Final = 3
_SYN: Final = 2
HEAD: Final = struct.Struct("!qHHIBI")
"""Monotonic ns of the arrival, source port, destination port, sequence number, what it is, bytes."""
SENT, OPENS = 1, 2
"""What a packet is: one that the client sent, and one that opens a connection."""
_CHUNK: Final = re.compile(
    rb'"delta":\{"content":"[^"]+"\},"logprobs":null,"finish_reason":null,"token_ids":null\}\]\}\n\n'
)
_ID: Final = re.compile(rb"X-Request-Id: ([^\r]+)\r\n", re.IGNORECASE)


def capture(file: Path, ports: set[int]) -> None:
    """Log packets until SIGTERM."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_ALL))
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 256 << 20)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    offset_ns = min((time.monotonic_ns() - wall_ns, wall_ns) for wall_ns in (time.time_ns() for _ in range(100)))[0]
    print("capturing", flush=True)
    with file.open("wb", buffering=1 << 20) as out:
        while True:
            packet, ancillary, _, address = sock.recvmsg(1 << 17, 64)
            head = tcp_of(packet)
            if head is None:
                continue
            source, destination, sequence, opens, payload = head
            if source not in ports and destination not in ports:
                continue
            sent = destination in ports
            if (payload or opens) and (sent or address[2] != _OUTGOING):
                seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
                stamp_ns = seconds * 10**9 + nanoseconds + offset_ns
                kind = SENT * sent | OPENS * opens
                out.write(HEAD.pack(stamp_ns, source, destination, sequence, kind, len(payload)) + payload)


def tcp_of(packet: bytes) -> tuple[int, int, int, bool, bytes] | None:
    """
    Return ports, sequence number, whether it opens a connection, and payload of a TCP packet without odd headers.

    None for another packet.
    """
    version = packet[0] >> 4
    if version == 4 and packet[9] == socket.IPPROTO_TCP:
        at, end = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0] or len(packet)
    elif version == 6 and packet[6] == socket.IPPROTO_TCP:
        at, end = 40, 40 + struct.unpack_from("!H", packet, 4)[0]
    else:
        return None
    source, destination, sequence = struct.unpack_from("!HHI", packet, at)
    opens = bool(packet[at + 13] & _SYN)
    return source, destination, sequence, opens, packet[at + (packet[at + 12] >> 4) * 4 : end]


class Captured:
    """What a capture says of each request: when each of its chunks could be read, and when it left."""

    def __init__(self, file: Path) -> None:
        content, at = file.read_bytes(), 0
        streams: dict[tuple[int, int, int, int], list[tuple[int, int, bytes]]] = defaultdict(list)
        opened: Counter[tuple[int, int]] = Counter()  # many connections, one after the other, have the same ports
        while at + HEAD.size <= len(content):
            stamp_ns, source, destination, sequence, kind, length = HEAD.unpack_from(content, at)
            at += HEAD.size
            sent = kind & SENT
            ends = (source, destination) if sent else (destination, source)
            opened[ends] += kind == SENT | OPENS
            if length:
                streams[*ends, opened[ends], sent].append((stamp_ns, sequence, content[at : at + length]))
            at += length
        self.chunk_ns: dict[str, list[int]] = {}
        self.sent_ns: dict[str, int] = {}
        for (client, engine, number, sent), packets in streams.items():
            if sent and (client, engine, number, 0) in streams:
                self._evaluate(packets, streams[client, engine, number, 0])

    def _evaluate(self, sent: list[tuple[int, int, bytes]], received: list[tuple[int, int, bytes]]) -> None:
        requests, sent_ns = _assemble(sent)
        ids = [
            (match.group(1).decode(), requests.rfind(b"POST ", 0, match.start())) for match in _ID.finditer(requests)
        ]
        answers, stamps_ns = _assemble(received)
        starts = [match.start() for match in re.finditer(rb"HTTP/1\.1 200 OK", answers)]
        bounds = zip(starts, [*starts[1:], len(answers)], strict=True)
        request_ends = [*(at for _, at in ids[1:]), len(requests)]
        for (name, _), begin_end, request_end in zip(ids, bounds, request_ends, strict=False):
            found = _CHUNK.finditer(answers, *begin_end)
            self.chunk_ns[name] = [stamps_ns[match.end() - 1] for match in found]
            self.sent_ns[name] = sent_ns[request_end - 1]


def _assemble(packets: list[tuple[int, int, bytes]]) -> tuple[bytes, list[int]]:
    """Return the bytes in order, and when each could be read: when it and all before it had come."""
    first = packets[0][1]
    for _, sequence, _ in packets[:10]:  # the first may have been overtaken
        if (sequence - first) % 2**32 > 2**31:
            first = sequence
    size = max(((sequence - first) % 2**32) + len(payload) for _, sequence, payload in packets)
    content, came_ns = bytearray(size), [0] * size
    for stamp_ns, sequence, payload in packets:
        begin = (sequence - first) % 2**32
        for offset in range(begin, begin + len(payload)):
            if not came_ns[offset]:
                came_ns[offset] = stamp_ns
        content[begin : begin + len(payload)] = payload
    return bytes(content), list(accumulate(came_ns, max))


def differences_us(captured: Captured, records: Sequence[Mapping[str, Any]]) -> list[float]:
    """
    Return how far the stamps lie apart, in order, for each chunk that both know.

    Two listeners get a packet one after the other, so a few lie apart by as long as something came between.
    """
    found: list[int] = []
    for record in records:
        theirs = captured.chunk_ns.get(record["request_id"], [])
        if len(theirs) == len(record["chunk_ns"]):
            found += (abs(a - b) for a, b in zip(theirs, record["chunk_ns"], strict=True))
    return [each / 1000 for each in sorted(found)]


def departures_off_us(captured: Captured, records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the same of the moments at which requests left."""
    both = ((captured.sent_ns.get(record["request_id"]), record["wire_sent_ns"]) for record in records)
    return sorted(abs(ours - theirs) / 1000 for theirs, ours in both if theirs is not None and ours is not None)


if __name__ == "__main__":
    capture(Path(sys.argv[1]), set(map(int, sys.argv[2:])))
