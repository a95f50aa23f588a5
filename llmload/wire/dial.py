"""How a connection comes about: resolve the name, connect, tunnel through a proxy, shake hands."""

import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final

import gevent
import gevent.socket
from gevent import monkey

from llmload.measure.record import ErrorType
from llmload.wire.clock import ArrivalClock
from llmload.wire.connection import Connection, ask_for_stamps
from llmload.wire.endpoint import Endpoint
from llmload.wire.failure import AttemptError, failed, from_connecting, request_error
from llmload.wire.proxy import Proxy
from llmload.wire.tls import TlsLayer

_PROXY_ANSWER_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint, the way to it, and how it proves who it is (`tls` is None for plain HTTP)."""

    endpoint: Endpoint
    proxy: Proxy | None
    tls: ssl.SSLContext | None

    @property
    def target(self) -> str:
        """What the request line asks for: a proxy that forwards wants the whole URL."""
        if self.proxy is not None and self.tls is None:
            return f"http://{self.endpoint.host_header}{self.endpoint.target}"
        return self.endpoint.target


def dial(route: Route, clock: ArrivalClock, connect_s: float | None) -> Connection:
    """
    Return a new connection, opened within `connect_s` (name, tunnel and TLS included).

    Waits in the calling greenlet; raises `AttemptError`.
    """
    endpoint = route.endpoint
    limit = gevent.Timeout(connect_s)
    sock: Any = None
    try:
        with limit:
            if route.proxy is None:
                sock = _connect(endpoint.host, endpoint.port)
            else:
                sock = _connect(route.proxy.host, route.proxy.port)
            if route.tls is None:
                return Connection(_bare(sock), clock)
            if route.proxy is not None:
                _tunnel(sock, route.proxy, endpoint.authority)
            tls = _shake_hands(sock, route.tls, endpoint.host)
            return Connection(_bare(sock), clock, tls)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if error is limit:
            raise failed(ErrorType.CONNECT_TIMEOUT, f"{endpoint.authority}: no connection in {connect_s} s") from None
        if isinstance(error, OSError):
            raise AttemptError(from_connecting(error, endpoint.authority)) from error
        raise


def _connect(host: str, port: int) -> Any:
    """Return a gevent socket connected to the first address of the name that answers."""
    problem: OSError = OSError("no address")
    for family, kind, protocol, _, address in _addresses(host, port):
        sock = gevent.socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ask_for_stamps(sock)
            sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem


def _addresses(host: str, port: int) -> list[Any]:
    look_up = monkey.get_original("socket", "getaddrinfo")
    try:  # an address needs no resolver, whose thread would cost more than the connection
        found = look_up(host, port, 0, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
    except socket.gaierror:
        try:
            found = gevent.socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
    return list(found)


def _tunnel(sock: Any, proxy: Proxy, authority: str) -> None:
    sock.sendall(proxy.connect_request(authority))
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = sock.recv(4096)
        answer += piece
        if not piece or len(answer) > _PROXY_ANSWER_BYTES:
            raise failed(ErrorType.CONNECT_FAILED, f"{authority}: the proxy gave no tunnel")
    status_line = answer.partition(b"\r\n")[0].decode("latin-1")
    status = status_line.split(" ")[1] if " " in status_line else ""
    if not status.startswith("2"):
        raise AttemptError(
            request_error(
                ErrorType.CONNECT_FAILED,
                f"{authority}: the proxy said {status_line}",
                http_status=int(status) if status.isdigit() else None,
            )
        )


def _shake_hands(sock: Any, context: ssl.SSLContext, host: str) -> TlsLayer:
    tls = TlsLayer(context, host)
    while True:
        done = tls.handshake()
        if own := tls.encrypt(b""):
            sock.sendall(own)
        if done:
            return tls
        cipher = sock.recv(65_536)
        if not cipher:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the server closed the connection during the handshake")
        tls.take(cipher)


def _bare(sock: Any) -> socket.socket:
    """Return the plain socket behind a gevent one: from here on it is never waited for."""
    plain = monkey.get_original("socket", "socket")
    bare: socket.socket = plain(sock.family, sock.type, sock.proto, sock.detach())
    bare.setblocking(False)
    return bare
