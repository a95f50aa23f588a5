"""
Who may use the web UI and `/metrics`: requests for names of ours, from pages of ours; no page of another origin.

A browser sends what any page asks it to, also to servers that only its own machine reaches, with this server's cookies.
It says where a request comes from, in headers that no page can change: `Sec-Fetch-Site`, `Origin`, `Referer`. A name of
the attacker's that resolves to this machine (DNS rebinding) makes his page one of our origin, but it is in `Host`.
A script that sends none of these headers is not a browser: only the address to reach and the login hold it back.
"""

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from llmload.errors import ConfigError

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]

_LOCALHOST: Final = "localhost"
_NOT_PUBLIC: Final = (".internal", ".local", ".svc")
"""Ends of names that the public DNS does not have, beside names without a dot: nobody can own one to attack with it."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_SHOWN: Final = re.compile(r"[A-Za-z0-9:/\[\]._-]{1,100}")
"""What of a header an answer may repeat."""
_NAMES_OPTION: Final = "--web-allowed-hosts"


class AllowedHosts:
    """
    The names that a server answers to, in `Host`: any IP address, localhost, and what the user names.

    An address in a URL leads nowhere else, so it needs no list. One that listens beyond loopback has also the machine's
    name, and names that the public DNS does not have. ConfigError for a named one that is not `NAME` or `NAME:PORT`.
    """

    def __init__(self, bound: str, named: str = "") -> None:
        self._named = {_split(name) for name in map(str.strip, named.split(",")) if name}
        for host, _ in self._named:
            if host is None:
                raise ConfigError(f"command line: {_NAMES_OPTION} {named}: write names, as in load.example.com,load2")
        self._hosts = {host for host, _ in self._named} | {_LOCALHOST, bound.lower()}
        self._beyond_loopback = not _is_loopback(bound)
        if self._beyond_loopback:
            self._hosts.add(socket.gethostname().lower())

    def allow(self, header: str) -> bool:
        """Return whether a request's `Host` is one of the names; ports may differ, for those are forwarded."""
        host, _ = _split(header)
        if host is None:
            return False
        if host in self._hosts or host.endswith(f".{_LOCALHOST}") or _address(host) is not None:
            return True
        return self._beyond_loopback and ("." not in host or host.endswith(_NOT_PUBLIC))

    def is_own(self, url: str, header: str | None) -> bool:
        """Return whether an `Origin` or `Referer` is of this server: of `Host`, or of a named host behind a proxy."""
        scheme, _, rest = url.partition("://")
        port = _DEFAULT_PORTS.get(scheme.lower())
        host, given = _split(re.split(r"[/?#]", rest, maxsplit=1)[0])
        if port is None or host is None:
            return False
        if header is not None:
            asked, asked_port = _split(header)
            if (host, given or port) == (asked, asked_port or port):
                return True
        return (host, given or port) in {(name, number or port) for name, number in self._named}


def _split(authority: str) -> tuple[str | None, int | None]:
    """Return a host in small letters and the port; no host where it is none."""
    try:
        parts = urlsplit(f"//{authority}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None, None
    if not host or parts.netloc != authority or "@" in authority or not _SHOWN.fullmatch(authority):
        return None, None
    return host.removesuffix("."), port


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(bound: str) -> bool:
    address = _address(bound)
    return bound == _LOCALHOST if address is None else address.is_loopback


_SAFE: Final = frozenset({"GET", "HEAD"})
_OWN_SITE: Final = frozenset({"same-origin", "none"})
_CORS: Final = "access-control-"
DEFAULT_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "object-src 'none'; base-uri 'self'; frame-ancestors 'self'",
}
"""Headers of each answer that does not set its own. Pages of ours and of Locust's have a policy that says more."""


class OriginGuard:
    """
    Guards a WSGI application: refuses requests of strangers with 403, and gives no page of theirs an answer.

    `pages` are the paths that a link elsewhere may open. Every answer has `DEFAULT_HEADERS`, and none allows another
    origin to read it, whatever the application says.
    """

    def __init__(self, app: Wsgi, hosts: AllowedHosts, pages: frozenset[str] = frozenset()) -> None:
        self._app, self._hosts, self._pages = app, hosts, pages

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request, by the application where it may."""

        def start(status: str, headers: list[tuple[str, str]], *further: Any) -> Any:
            kept = [(name, value) for name, value in headers if not name.lower().startswith(_CORS)]
            given = {name.lower() for name, _ in kept}
            kept += [(name, value) for name, value in DEFAULT_HEADERS.items() if name.lower() not in given]
            return start_response(status, kept, *further)

        text = self.refusal(environ)
        if text is None:
            return self._app(environ, start)
        body = b"" if environ["REQUEST_METHOD"] == "HEAD" else f"{text}\n".encode()
        forbidden = HTTPStatus.FORBIDDEN
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start(f"{forbidden.value} {forbidden.phrase}", headers)
        return [body]

    def refusal(self, environ: dict[str, Any]) -> str | None:
        """Return why a request is refused, and what to do; None where it is not."""
        host = environ.get("HTTP_HOST")  # a browser always sends one
        if host is not None and not self._hosts.allow(host):
            name = _split(host)[0] or "NAME"
            return (
                f"Refused: {_shown(host)} is not a name of this server. Open it by its IP address or as localhost, "
                f"or start Locust with {_NAMES_OPTION} {name}"
            )
        if self._is_own(environ, host) or self._is_link(environ):
            return None
        source = _shown(environ.get("HTTP_ORIGIN") or environ.get("HTTP_REFERER") or "")
        return (
            f"Refused: the request comes from another page ({source}). Use the web UI's own; where a proxy gives it "
            f"another name, start Locust with {_NAMES_OPTION} NAME; a script sends no Origin, Referer or Sec-Fetch-Site"
        )

    def _is_own(self, environ: dict[str, Any], host: str | None) -> bool:
        """Return whether nothing says that the request comes from a page of another origin."""
        site, origin, referer = (environ.get(f"HTTP_{name}") for name in ("SEC_FETCH_SITE", "ORIGIN", "REFERER"))
        if site is not None and site not in _OWN_SITE:
            return False
        if origin is not None:
            return self._hosts.is_own(origin, host)
        return site is not None or not referer or self._hosts.is_own(referer, host)

    def _is_link(self, environ: dict[str, Any]) -> bool:
        """Return whether a person follows a link from elsewhere to a page: nothing of it is shown to where it was."""
        if environ["REQUEST_METHOD"] not in _SAFE or environ["PATH_INFO"] not in self._pages:
            return False
        if "HTTP_SEC_FETCH_SITE" not in environ:
            return "HTTP_ORIGIN" not in environ
        mode, target = environ.get("HTTP_SEC_FETCH_MODE"), environ.get("HTTP_SEC_FETCH_DEST", "document")
        return (mode, target) == ("navigate", "document") and "HTTP_ORIGIN" not in environ


def _shown(header: str) -> str:
    """Return a header's text as far as an answer may repeat it."""
    authority = "/".join(header.split("/")[:3])  # of a URL, its origin
    return authority if _SHOWN.fullmatch(authority) else "a name that cannot be shown"
