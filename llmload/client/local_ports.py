"""Ranges of local ports for this process alone, so that its packet filter passes no other process's segments."""

import socket
import struct
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from llmload.client.loop import plain_socket
from llmload.client.packet_filter import Peer, PortRange

_BLOCK_PORTS: Final = 1024
_IP_LOCAL_PORT_RANGE: Final = 51
"""A socket's own range of ports to choose from, since Linux 6.3."""
_SYSTEM_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class LocalPorts:
    """
    The local ports that this process's connections are opened from: blocks of 1,024, claimed as they are needed.

    Each engine has its own: the kernel gives one port to connections with different engines, and a segment is known by
    its port. A claim is a name in the kernel (an abstract Unix socket), in the same network namespace as the ports, and
    ends with the process. When no block is left, or the kernel knows no ranges, connections are opened from any port,
    and the segments of others are separated afterwards.
    """

    def __init__(self) -> None:
        self._blocks = _blocks()
        self._claims: dict[Peer, list[tuple[PortRange, socket.socket]]] = {}
        self.exhausted = False
        """Whether there is no range to choose from."""

    @property
    def ranges(self) -> list[PortRange]:
        """What is claimed; empty if connections may come from any port."""
        return [] if self.exhausted else _merged([block for own in self._claims.values() for block, _ in own])

    def has(self, peer: Peer) -> bool:
        """Return whether a block is claimed for this engine."""
        return bool(self._claims.get(peer))

    def claim(self, peer: Peer, avoid: frozenset[int] = frozenset()) -> None:
        """Claim one more block for this engine, without these ports (engines listen there); else use any port."""
        for first, last in [] if self.exhausted else self._blocks:
            if any(first <= port <= last for port in avoid):
                continue
            name = plain_socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with suppress(OSError):
                name.bind(f"\0llmload-ports-{first}")
                weakref.finalize(self, name.close)
                self._blocks.remove((first, last))
                self._claims.setdefault(peer, []).append(((first, last), name))
                return
            name.close()
        self.exhausted = True

    def release(self, peer: Peer) -> None:
        """Give up the blocks of an engine that has no connection."""
        for block, name in self._claims.pop(peer, ()):
            name.close()
            self._blocks.append(block)

    def limit(self, sock: socket.socket, peer: Peer) -> None:
        """Let the socket choose its port from the engine's newest block."""
        if self.exhausted:
            return
        first, last = self._claims[peer][-1][0]
        try:
            sock.setsockopt(socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, struct.pack("=I", last << 16 | first))
        except OSError:
            self.exhausted = True

    def close(self) -> None:
        """Give up the claims; a process that inherited them by fork keeps them until it ends."""
        for peer in list(self._claims):
            self.release(peer)


def _blocks() -> list[PortRange]:
    """Return the blocks of the system's range; none if it cannot be read."""
    try:
        low, high = map(int, _SYSTEM_RANGE.read_text().split())
    except (OSError, ValueError):
        return []
    starts = range(-(-low // _BLOCK_PORTS) * _BLOCK_PORTS, high + 1, _BLOCK_PORTS)
    return [(first, first + _BLOCK_PORTS - 1) for first in starts if first + _BLOCK_PORTS - 1 <= high]


def _merged(ranges: list[PortRange]) -> list[PortRange]:
    merged: list[PortRange] = []
    for first, last in sorted(ranges):
        if merged and merged[-1][1] + 1 == first:
            merged[-1] = merged[-1][0], last
        else:
            merged.append((first, last))
    return merged
