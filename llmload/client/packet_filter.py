"""The classic BPF program that decides, in the kernel, which packets the ring logs and how much of each."""

import ipaddress
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

SNAP_BYTES: Final = 128
"""How much of a packet is kept: its IP and TCP headers, and no text."""
_MAX_INSTRUCTIONS: Final = 4096
"""The kernel's limit."""

Peer = tuple[str, int]
"""An engine's numeric address and its port."""
PortRange = tuple[int, int]
"""The first and the last local port of a range."""

_LD_WORD, _LD_HALF, _LD_BYTE = 0x20, 0x28, 0x30
_IND_HALF, _IND_BYTE = 0x48, 0x50
_LDX_IMM, _LDX_IP_HEADER = 0x01, 0xB1
_JUMP, _JEQ, _JGT, _JGE, _JSET, _RETURN = 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
_STORE, _LDX_STORED, _SUBTRACT_X, _AND, _SHIFT_RIGHT = 0x02, 0x61, 0x1C, 0x54, 0x74
_PROTOCOL, _PACKET_TYPE = 0xFFFFF000, 0xFFFFF004
"""Offsets at which the kernel answers with a fact about the packet: SKF_AD_PROTOCOL, SKF_AD_PKTTYPE."""
_OUTGOING: Final = 4
_ETH_IPV4, _ETH_IPV6 = 0x0800, 0x86DD
_TCP: Final = 6
EXTENSIONS: Final = (0, 43, 44, 51, 60)
"""IPv6 headers that may stand before TCP: the process looks behind them."""
_FIN_SYN_RST_PSH: Final = 0x0F
_FIN_RST: Final = 0x05

Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if true, if false, and operand."""


def program(peers: Iterable[Peer], ranges: Sequence[PortRange]) -> list[Instruction]:
    """
    Return the program that passes the TCP segments of connections between the local ports and the peers.

    Of what the engine sends every segment passes; of what this host sends, those that end something (a request, a
    connection) or close the window. Without ranges every local port passes. For a socket of type SOCK_DGRAM, whose
    packets begin with the IP header. Raises `ValueError` for more peers than a program can compare.
    """
    return _by_version(peers, ranges, {4: [], 6: []}, with_sent=True)


def notices(peers: Iterable[Peer], ranges: Sequence[PortRange], usual: tuple[int, int] | None) -> list[Instruction]:
    """
    Return the program that passes of these segments those from the engine that may be an answer's last.

    That is those with a payload that is not within the `usual` bytes, ends included, and those that end a connection.
    It is never longer than `program` for the same peers and ranges but by the comparison of payloads.
    """
    unusual = {version: _refuse_usual(usual, version) for version in (4, 6)}
    return _by_version(peers, ranges, unusual, with_sent=False)


def _by_version(
    peers: Iterable[Peer],
    ranges: Sequence[PortRange],
    first: Mapping[int, list[Instruction]],
    *,
    with_sent: bool,
) -> list[Instruction]:
    """Return the program; `first`, by version of IP, runs before addresses are compared, with X where TCP begins."""
    by_version: dict[int, list[tuple[bytes, int]]] = {4: [], 6: []}
    for address, port in sorted(set(peers)):
        parsed = ipaddress.ip_address(address.partition("%")[0])
        by_version[parsed.version].append((parsed.packed, port))
    ipv4 = _ipv4(_both_directions(by_version[4], ranges, 12, 16, with_sent=with_sent), first[4])
    ipv6 = _ipv6(_both_directions(by_version[6], ranges, 8, 24, with_sent=with_sent), first[6], by_version[6])
    instructions: list[Instruction] = [
        (_LD_WORD, 0, 0, _PROTOCOL),
        (_JEQ, 1, 0, _ETH_IPV4),
        (_JUMP, 0, 0, len(ipv4)),
        *ipv4,
        (_JEQ, 1, 0, _ETH_IPV6),
        REFUSE,
        *ipv6,
    ]
    if len(instructions) > _MAX_INSTRUCTIONS:
        raise ValueError(f"{sum(map(len, by_version.values()))} engine addresses are too many for one packet filter")
    return instructions


def packed(instructions: Sequence[Instruction]) -> bytes:
    """Return the instructions as the kernel's array of `struct sock_filter`."""
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


REFUSE: Final = (_RETURN, 0, 0, 0)
_PASS: Final = (_RETURN, 0, 0, SNAP_BYTES)


_FIND_TCP: Final[Mapping[int, Instruction]] = {4: (_LDX_IP_HEADER, 0, 0, 0), 6: (_LDX_IMM, 0, 0, 40)}
"""Sets X to where TCP begins behind an IP header, by the version of IP."""


def _ipv4(connections: list[Instruction], first: list[Instruction]) -> list[Instruction]:
    """Refuse what is not TCP or a later fragment, find the TCP header behind the IP header, compare the ends."""
    return [
        (_LD_BYTE, 0, 0, 9),
        (_JEQ, 1, 0, _TCP),
        REFUSE,
        (_LD_HALF, 0, 0, 6),
        (_JSET, 0, 1, 0x1FFF),
        REFUSE,
        _FIND_TCP[4],
        *first,
        *connections,
    ]


def _ipv6(
    connections: list[Instruction], first: list[Instruction], peers: list[tuple[bytes, int]]
) -> list[Instruction]:
    """The same; a packet with extension headers passes by its addresses alone, since it is rare."""
    extended: list[Instruction] = []
    for address, _ in peers:
        for at in (8, 24):
            extended += _if_address(address, at, [_PASS])
    kinds = [(_JEQ, len(EXTENSIONS) - index, 0, kind) for index, kind in enumerate(EXTENSIONS)]
    return [
        (_LD_BYTE, 0, 0, 6),
        (_JEQ, 0, 1, _TCP),
        (_JUMP, 0, 0, len(kinds) + 1 + len(extended) + 1),
        *kinds,
        REFUSE,
        *extended,
        REFUSE,
        _FIND_TCP[6],
        *first,
        *connections,
    ]


def _both_directions(
    peers: list[tuple[bytes, int]],
    ranges: Sequence[PortRange],
    source_at: int,
    destination_at: int,
    *,
    with_sent: bool,
) -> list[Instruction]:
    """
    Compare addresses and ports, X being where TCP begins.

    Loopback shows a packet twice, as it leaves and as it arrives: there only what arrives counts, both ways.
    """
    received: list[Instruction] = []
    sent: dict[bool, list[Instruction]] = {True: [], False: []}
    for address, port in peers:
        received += _if_address(address, source_at, _if_port(port, 0, _in_ranges(ranges, 2)))
        if with_sent:
            ends = _if_flags_or_closed_window(_in_ranges(ranges, 0))
            loopback = ipaddress.ip_address(address).is_loopback
            sent[loopback] += _if_address(address, destination_at, _if_port(port, 2, ends))
    return [
        (_LD_WORD, 0, 0, _PACKET_TYPE),
        (_JEQ, 1, 0, _OUTGOING),
        (_JUMP, 0, 0, len(sent[False]) + 1),
        *sent[False],
        REFUSE,
        *received,
        *sent[True],
        REFUSE,
    ]


def _if_address(address: bytes, at: int, then: list[Instruction]) -> list[Instruction]:
    """Run `then`, which must return, if the address is at this offset; else go on behind it."""
    result = then
    words = struct.unpack(f"!{len(address) // 4}I", address)
    for index in range(len(words) - 1, -1, -1):
        result = [(_LD_WORD, 0, 0, at + 4 * index), (_JEQ, 1, 0, words[index]), (_JUMP, 0, 0, len(result)), *result]
    return result


def _if_port(port: int, at: int, then: list[Instruction]) -> list[Instruction]:
    return [(_IND_HALF, 0, 0, at), (_JEQ, 1, 0, port), (_JUMP, 0, 0, len(then)), *then]


def _if_flags_or_closed_window(then: list[Instruction]) -> list[Instruction]:
    return [
        (_IND_BYTE, 0, 0, 13),
        (_JSET, 3, 0, _FIN_SYN_RST_PSH),
        (_IND_HALF, 0, 0, 14),
        (_JEQ, 1, 0, 0),
        REFUSE,
        *then,
    ]


def _refuse_usual(usual: tuple[int, int] | None, version: int) -> list[Instruction]:
    """Refuse a segment without FIN and RST that has no payload or a usual one; X is where TCP begins, as it was."""
    low, high = usual or (0, 0)
    compared = [
        (_IND_BYTE, 0, 0, 12),
        (_AND, 0, 0, 0xF0),
        (_SHIFT_RIGHT, 0, 0, 2),
        (_STORE, 0, 0, 0),
        *([(_LD_HALF, 0, 0, 2), (_SUBTRACT_X, 0, 0, 0)] if version == 4 else [(_LD_HALF, 0, 0, 4)]),
        (_LDX_STORED, 0, 0, 0),
        (_SUBTRACT_X, 0, 0, 0),
        (_JEQ, 2, 0, 0),
        (_JGE, 0, 2, low),
        (_JGT, 1, 0, high),
        REFUSE,
    ]
    return [(_IND_BYTE, 0, 0, 13), (_JSET, len(compared), 0, _FIN_RST), *compared, _FIND_TCP[version]]


def _in_ranges(ranges: Sequence[PortRange], at: int) -> list[Instruction]:
    """Pass if the port at this offset of the TCP header is in one of the ranges, refuse if not."""
    if not ranges:
        return [_PASS]
    result: list[Instruction] = [(_IND_HALF, 0, 0, at)]
    for first, last in ranges:
        result += [(_JGE, 0, 2, first), (_JGT, 1, 0, last), _PASS]
    return [*result, REFUSE]
