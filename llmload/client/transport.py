"""Connections: the URL and the proxy they go to, how they are opened, and the pool that keeps them alive."""

import base64
import socket
import ssl
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined] # stubs lack it

import gevent
import gevent.select
import gevent.socket

from llmload.access.address import url_parts, without_request
from llmload.client.connection import Connection, TlsLayer, enable_timestamps
from llmload.client.dialer import Dialer
from llmload.client.errors import AttemptError, attempt_error, from_connect_error, request_error
from llmload.client.loop import plain_socket
from llmload.client.packet_tap import Tap
from llmload.client.reactor import Reactor
from llmload.client.settings import FOREVER_NS, Api, Deadline
from llmload.errors import ConfigError
from llmload.record import ErrorType
from llmload.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server, and the target of requests to it."""

    scheme: str
    host: str
    port: int
    target: str
    """Path and query of a request."""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """Host and port as in a URL, with brackets around an IPv6 address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of `Host`, without the port if it is the scheme's default."""
        own = 443 if self.tls else 80
        return self.authority.removesuffix(f":{own}") if self.port == own else self.authority


def endpoint_of(base_url: str, api: Api, path: str) -> Endpoint:
    """
    Return the endpoint of the API's path below a base URL, which may have the API's prefix or not.

    OpenAI's API is below `/v1` if the URL has no path; TGI's own API is beside `/v1`. A URL may also be that of chat
    requests, with the whole path. Raises `ConfigError` for a URL that cannot be used.
    """
    try:
        parts = url_parts(base_url)
    except ValueError as error:
        raise ConfigError(f"base URL: {error}") from None
    host, port = str(parts.hostname), parts.port
    prefix, is_whole = without_request(parts.path)
    if api != "openai-chat":
        prefix = prefix.removesuffix("/v1")
    elif not prefix and not is_whole:
        prefix = "/v1"
    query = f"?{parts.query}" if parts.query else ""
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), f"{prefix}{path}{query}")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy reached by plain HTTP: it forwards http requests and opens tunnels to https servers."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """The value of `Proxy-Authorization`."""

    def connect_request(self, authority: str) -> bytes:
        """Return the request for a tunnel to `authority` (host:port)."""
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def proxy_url(endpoint: Endpoint) -> str | None:
    """Return the URL of the endpoint's proxy by `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`."""
    proxies = getproxies_environment()
    url: str | None = proxies.get(endpoint.scheme) or proxies.get("all")
    return url if url and not proxy_bypass_environment(endpoint.authority, proxies) else None


def proxy_for(endpoint: Endpoint) -> Proxy | None:
    """Return the endpoint's proxy by `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`; raises `ConfigError`."""
    url = proxy_url(endpoint)
    if url is None:
        return None
    unusable = ConfigError(
        f"{endpoint.scheme}_proxy, the environment variable: only proxies of the form http://host:port can be used"
    )
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = 80 if parts.port is None else parts.port
    except ValueError:  # a port that is not a number, or brackets: no message may show what is before them
        raise unusable from None
    if parts.scheme != "http" or not parts.hostname or not port:
        raise unusable
    authorization = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode("ascii")
    return Proxy(parts.hostname, port, authorization)


_PROXY_ANSWER_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint, its proxy if any, and the TLS context that verifies it (None for plain HTTP)."""

    endpoint: Endpoint
    proxy: Proxy | None
    tls: ssl.SSLContext | None

    @property
    def target(self) -> str:
        """The target of the request line: the whole URL for a proxy that forwards."""
        if self.proxy is not None and self.tls is None:
            return f"http://{self.endpoint.host_header}{self.endpoint.target}"
        return self.endpoint.target


def dial(route: Route, reactor: Reactor, dialer: Dialer, deadline: Deadline) -> Connection:
    """
    Return a new connection, opened within `connect_s` and before the deadline (names, tunnel and TLS included).

    Waits in the calling greenlet; raises `AttemptError`.
    """
    endpoint, began_ns = route.endpoint, time.monotonic_ns()
    until_ns, too_late = deadline.connecting(began_ns)
    if until_ns <= began_ns:
        raise AttemptError(deadline.too_late())
    within_s = (until_ns - began_ns) / NS_PER_S if until_ns < FOREVER_NS else None
    limit = gevent.Timeout(within_s)
    sock: socket.socket | None = None
    tap: Tap | None = None
    try:
        with limit:
            server = endpoint if route.proxy is None else route.proxy
            sock = dialer.connect(server.host, server.port, within_s)
            tap = None if reactor.tap is None else reactor.tap.connected(sock)
            if tap is None and reactor.stamps != "user":
                enable_timestamps(sock)
            if route.tls is None:
                return Connection(_plain_socket(sock), reactor.clock, tap=tap)
            received = 0 if route.proxy is None else _tunnel(sock, route.proxy, endpoint.authority)
            tls, handshake = _shake_hands(sock, route.tls, endpoint.host)
            return Connection(_plain_socket(sock), reactor.clock, tls, tap, received + handshake)
    except BaseException as error:
        if tap is not None:
            tap.close()
        if sock is not None:
            sock.close()
        if error is limit:
            raise attempt_error(too_late.type, f"{endpoint.authority}: {too_late.message}") from None
        if isinstance(error, OSError):
            raise AttemptError(from_connect_error(error, endpoint.authority)) from error
        raise


def _tunnel(sock: socket.socket, proxy: Proxy, authority: str) -> int:
    """Ask the proxy for a tunnel, and return how many bytes it answered."""
    sock.sendall(proxy.connect_request(authority))
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = sock.recv(4096)
        answer += piece
        if not piece or len(answer) > _PROXY_ANSWER_BYTES:
            raise attempt_error(ErrorType.CONNECT_FAILED, f"{authority}: the proxy gave no tunnel")
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
    return len(answer)


def _shake_hands(sock: socket.socket, context: ssl.SSLContext, host: str) -> tuple[TlsLayer, int]:
    """Return the session, and how many bytes of the server's it took to agree on it."""
    tls, received = TlsLayer(context, host), 0
    while True:
        done = tls.handshake()
        if own := tls.encrypt(b""):
            sock.sendall(own)
        if done:
            return tls, received
        cipher = sock.recv(65_536)
        if not cipher:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the server closed the connection during the handshake")
        received += len(cipher)
        tls.take(cipher)


def _plain_socket(sock: socket.socket) -> socket.socket:
    """Return the plain socket behind a gevent one, non-blocking: the reactor waits for it from here on."""
    bare: socket.socket = plain_socket(sock.family, sock.type, sock.proto, sock.detach())
    bare.setblocking(False)
    return bare


class Pool:
    """The idle connections of one process, by route; last in, first out."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._dialer = Dialer(reactor.tap)
        self._closed = False
        self._idle: defaultdict[Route, list[Connection]] = defaultdict(list)

    def take(self, route: Route) -> tuple[Connection | None, bool]:
        """Return an idle connection that is still open, and whether a closed one was discarded."""
        idle = self._idle[route]
        stale = False
        while idle:
            connection = idle.pop()
            if connection.is_alive():
                return connection, stale
            connection.close()
            stale = True
        return None, stale

    def open(self, route: Route, deadline: Deadline) -> Connection:
        """Return a new connection; raises `AttemptError`."""
        return dial(route, self._reactor, self._dialer, deadline)

    def give_back(self, route: Route, connection: Connection) -> None:
        """Keep a connection for the next request; close it if the pool is closed."""
        if self._closed:
            connection.close()
            return
        connection.used = True
        self._idle[route].append(connection)

    def close(self) -> None:
        """Close every idle connection, and each one that is given back."""
        self._closed = True
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
