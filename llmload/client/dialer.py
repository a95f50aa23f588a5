"""Opens TCP connections to names: which address is tried when, and from which local port."""

import errno
import os
import select
import socket
import time
from collections import Counter, deque
from contextlib import suppress
from typing import Any, Final

import gevent
import gevent.select
import gevent.socket
from gevent import monkey

from llmload.client.loop import plain_socket
from llmload.client.packet_tap import PacketTap
from llmload.units import NS_PER_S

_STAGGER_S: Final = 0.25
"""How long an address may be silent before the next one is tried beside it: RFC 8305, section 5."""
_SHORTEST_STAGGER_S: Final = 0.01
_REMEMBERED_NS: Final = 600 * NS_PER_S
"""How long an address that did not answer comes last: RFC 8305, section 4."""


class Dialer:
    """
    Opens TCP connections to names: their addresses in turn, as in RFC 8305, one that did not answer lately last.

    The resolver's order is not changed otherwise, so a name with several replicas shares the load as before.
    """

    def __init__(self, tap: PacketTap | None = None) -> None:
        self._tap = tap
        self._last_until_ns: dict[Any, int] = {}

    def connect(self, host: str, port: int, within_s: float | None) -> socket.socket:
        """
        Return a gevent socket connected to the first address that accepts; `OSError` if none does.

        The next address is tried at once when one fails, and beside a silent one after 0.25 s, or sooner if there are
        many for `within_s`. The caller limits the time.
        """
        addresses = _addresses(host, port)
        if len(addresses) > 1:
            sock, tried = _race(self._in_order(addresses), within_s, self._tap)
            until_ns = time.monotonic_ns() + _REMEMBERED_NS
            self._last_until_ns |= dict.fromkeys(tried, until_ns)
        else:
            sock = _connected(addresses[0], self._tap)
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _in_order(self, addresses: list[Any]) -> list[Any]:
        """Return the addresses, families in turn, those that did not answer lately last."""
        now_ns = time.monotonic_ns()
        seen: Counter[int] = Counter()
        ranks = []
        for number, (family, *_, address) in enumerate(addresses):
            ranks.append((self._last_until_ns.get(address, 0) > now_ns, seen[family], number))
            seen[family] += 1
        return [addresses[number] for *_, number in sorted(ranks)]


def _race(addresses: list[Any], within_s: float | None, tap: PacketTap | None) -> tuple[socket.socket, list[Any]]:
    """Return a gevent socket connected to one of the addresses, and the addresses that were tried before it."""
    stagger_s = _STAGGER_S
    if within_s is not None:
        stagger_s = max(_SHORTEST_STAGGER_S, min(_STAGGER_S, within_s / (len(addresses) + 1)))
    waiting = deque(addresses)
    tried: list[Any] = []
    problems: list[OSError] = []
    pending: dict[int, tuple[socket.socket, Any]] = {}
    poller = gevent.select.poll()
    try:
        while waiting or pending:
            if waiting:
                target = waiting.popleft()
                address = target[-1]
                tried.append(address)
                try:
                    sock, connected = _opened(target, tap)
                except OSError as problem:
                    problems.append(problem)
                    continue
                if connected:
                    return sock, tried[:-1]
                pending[sock.fileno()] = sock, address
                poller.register(sock.fileno(), select.POLLOUT)
            for fd, _ in poller.poll(stagger_s * 1000 if waiting else None):
                poller.unregister(fd)
                sock, address = pending.pop(fd)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    return sock, [other for other in tried if other != address]
                sock.close()
                problems.append(OSError(code, os.strerror(code)))
    finally:
        for sock, _ in pending.values():
            sock.close()
    refused = (problem for problem in problems if isinstance(problem, ConnectionRefusedError))
    raise next(refused, problems[-1])  # a refusal says more than an address family without a route


def _connected(target: Any, tap: PacketTap | None) -> socket.socket:
    """Return a gevent socket that is connected to one of `getaddrinfo`'s targets."""
    sock, connected = _opened(target, tap)
    if not connected:
        try:
            sock.setblocking(True)
            sock.connect(target[-1])
        except BaseException:
            sock.close()
            raise
    return sock


def _opened(target: Any, tap: PacketTap | None) -> tuple[socket.socket, bool]:
    """
    Return a non-blocking gevent socket to one of `getaddrinfo`'s targets, and whether it is connected by now.

    Its local port is from another range if one is used up.
    """
    family, socket_type, protocol, _, address = target
    while True:
        sock = gevent.socket.socket(family, socket_type, protocol)
        try:
            sock.setblocking(False)
            if tap is not None:
                tap.before_connect(sock, address)
            return sock, _connects(sock, address)
        except BaseException as problem:
            sock.close()
            used_up = isinstance(problem, OSError) and problem.errno == errno.EADDRNOTAVAIL
            if not (used_up and tap is not None and _has_route(family, address) and tap.claim_more_ports(address)):
                raise


def _connects(sock: socket.socket, address: Any) -> bool:
    """Begin to connect, and return whether that is done."""
    for _ in range(2):  # an engine of this host has accepted by the second time, without a wait
        with suppress(BlockingIOError):
            sock.connect(address)
            return True
    return False


def _has_route(family: int, address: Any) -> bool:
    """Return whether this host has an address to send from: without one it says the same as where ports are used up."""
    with plain_socket(family, socket.SOCK_DGRAM) as datagrams, suppress(OSError):
        datagrams.connect(address)  # sends nothing
        return True
    return False


def _addresses(host: str, port: int) -> list[Any]:
    getaddrinfo = monkey.get_original("socket", "getaddrinfo")
    try:  # a numeric address needs no resolver, whose thread would cost more than the connection
        found = getaddrinfo(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except socket.gaierror:
        try:
            found = gevent.socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
    return list(found)
