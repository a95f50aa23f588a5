"""Ranges of local ports for this process alone, so that its packet filter passes no other process's segments."""

import socket
import struct
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from llmload.client.loop import plain_socket
from llmload.client.packet_filter import PortRange

_BLOCK_PORTS: Final = 1024
_IP_LOCAL_PORT_RANGE: Final = 51
"""A socket's own range of ports to choose from, since Linux 6.3."""
_SYSTEM_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")


class LocalPorts:
    """
    The local ports that this process's connections are opened from: blocks of 1,024, claimed as they are needed.

    A claim is a name in the kernel (an abstract Unix socket), in the same network namespace as the ports, and ends with
    the process. When no block is left, or the kernel knows no ranges, connections are opened from any port, and the
    segments of others are separated afterwards.
    """

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []
        self._blocks = _blocks()
        self._current: PortRange | None = None
        self._unlimited = False
        self.ranges: list[PortRange] = []
        """What is claimed; empty if connections may come from any port."""

    def claim(self, avoid: frozenset[int] = frozenset()) -> None:
        """Claim one more block without these ports (engines listen there); without one left, use any port."""
        while self._blocks:
            first, last = self._blocks.pop(0)
            if any(first <= port <= last for port in avoid):
                continue
            name = plain_socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with suppress(OSError):
                name.bind(f"\0llmload-ports-{first}")
                self._claims.append(name)
                weakref.finalize(self, name.close)
                self._current = first, last
                self.ranges = _merged([*self.ranges, self._current])
                return
            name.close()
        self.give_up()

    def give_up(self) -> None:
        """Open connections from any port from now on."""
        self._current, self._unlimited, self.ranges = None, True, []

    @property
    def exhausted(self) -> bool:
        """Whether there is no range to choose from."""
        return self._unlimited

    def limit(self, sock: socket.socket) -> None:
        """Let the socket choose its port from the newest block."""
        if self._current is None:
            return
        first, last = self._current
        try:
            sock.setsockopt(socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, struct.pack("=I", last << 16 | first))
        except OSError:
            self.give_up()

    def close(self) -> None:
        """Give up the claims; a process that inherited them by fork keeps them until it ends."""
        for name in self._claims:
            name.close()


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
