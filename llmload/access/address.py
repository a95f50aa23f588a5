"""Addresses of engines and of metrics as people write them: what can be used, and what is wrong with the others."""

import ipaddress
import re
import socket
from typing import Final, NoReturn
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

from llmload.access.secrecy import UnshownValueError, described, is_secret

_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")
HIGHEST_PORT: Final = 65535
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(:?)(//?)?")
_EXAMPLE: Final = "http://127.0.0.1:8000"


def url_parts(url: str) -> SplitResult:
    """
    Return the parts of an http or https URL, its scheme in lower case.

    Raises `ValueError` for a URL that no request can be sent to; its message names the mistake, never a password.
    `UnshownValueError` where the URL may have a secret in it.
    """
    try:
        return _checked_parts(url)
    except UnshownValueError:
        raise
    except ValueError as error:
        if "@" in url or "?" in url:
            raise UnshownValueError(str(error)) from None
        raise


def _checked_parts(url: str) -> SplitResult:
    if "@" in _authority(url):
        raise UnshownValueError(
            "it must not contain a user or password, since addresses are in logs: "
            "name an environment variable in engine.api_key_env or engine.headers"
        )
    if url != url.strip():
        raise ValueError("it begins or ends with white space: remove it")
    unseen = next((char for char in url if not char.isprintable()), None)
    if unseen is not None:
        raise ValueError(f"it contains {unseen!r}, {described(unseen)}, which no URL can: remove it")
    _check_beginning(url)
    try:
        parts = urlsplit(url)
    except ValueError as error:  # brackets and characters in the host
        raise ValueError(f"its host cannot be read: {error}") from None
    if parts.fragment or url.endswith("#"):
        raise ValueError("it has a fragment, which is never sent: remove everything from # on")
    _check_host(parts)
    wrong = next((char for char in url if not "!" <= char <= "~"), None)
    if wrong is not None:
        advice = f"write {quote(wrong, errors='replace')} in its place"
        raise ValueError(f"it contains {wrong!r}, {described(wrong)}, which no URL can: {advice}")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if _is_secret_parameter(name):
            raise UnshownValueError(
                f"its query has {name}, which looks like a key, and addresses are in logs: "
                "send it as a header, by the name of a variable in engine.headers"
            )
    return parts


def _is_secret_parameter(name: str) -> bool:
    return is_secret(name) or name.lower() in {"code", "sig", "signature", "auth", "authorization", "pwd"}


def _authority(url: str) -> str:
    """Return what may be user, password, host and port, in a URL of whatever form."""
    rest = url.partition("://")[2] or url.lstrip("/")
    return re.split(r"[/?#\\]", rest, maxsplit=1)[0]


def _check_beginning(url: str) -> None:
    """Raise `ValueError` for what does not begin with http:// or https://, and name what it is."""
    if "\\" in url:
        raise ValueError("it has a backslash: write / in its place")
    if url[:1] in {"'", '"', "<", "`"}:
        raise ValueError("it begins with a quotation mark or bracket: remove it")
    found = _SCHEME.match(url)
    scheme, colon, slashes = ("", "", "") if found is None else found.groups(default="")
    scheme = scheme.lower()
    if scheme not in {"http", "https"} or not (colon or slashes):
        _refuse_scheme(url, scheme if colon and slashes else "", scheme if colon else "")
    if not (colon and slashes == "//"):  # http:/host, http:host, http//host
        raise ValueError(f"it lacks :// after {scheme}: write {scheme}://host:port")
    rest = url[len(scheme) + 3 :]
    if twice := re.match(r"https?:?//?", rest, re.IGNORECASE):
        raise ValueError(f"it has {twice[0]} after {scheme}://: remove one of them")
    if rest[:1] in {"", "/", "?", "#"} or (rest[:1] == ":" and rest[:2] != "::"):
        raise ValueError(f"it has no host: write it as {scheme}://host:port or {scheme}://host/path")


def _refuse_scheme(url: str, scheme: str, perhaps_scheme: str) -> NoReturn:
    """Raise `ValueError` for another scheme than http, and for none: then what is before a colon may be a host."""
    parts = perhaps_scheme.split("+")
    if "unix" in parts or re.match("/(?!/)", url):
        raise ValueError(
            f"it is a Unix socket's or a file's, but llmload connects by TCP: let it listen on a port, as {_EXAMPLE}"
        )
    if perhaps_scheme in {"ws", "wss"}:
        http = perhaps_scheme.replace("ws", "http")
        raise ValueError(f"it is a WebSocket's: write {http}:// in place of {perhaps_scheme}://")
    if scheme:
        raise ValueError(f"its scheme is {scheme}: write it as http://host:port or https://host/path")
    bare = url.removeprefix("://").lstrip("/")
    if not bare:
        raise ValueError("it is empty: write it as http://host:port or https://host/path")
    if _is_ipv6(bare):
        bare = f"[{bare}]"
    written = f"http://{bare}" if _is_near(_authority(bare)) else f"https://{bare} (or http://, which encrypts nothing)"
    raise ValueError(f"it does not begin with http:// or https://: write {written}")


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_near(authority: str) -> bool:
    """Return whether a host is one of this machine or of a private network, where engines seldom have certificates."""
    host = authority.partition("]")[0].removeprefix("[") if authority[:1] == "[" else authority.partition(":")[0]
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal"))


def _check_host(parts: SplitResult) -> None:
    """Raise `ValueError` for a port that is none, and for what is neither an IP address nor a name."""
    host, netloc = parts.hostname or "", parts.netloc
    if netloc.count(":") > 1 and "[" not in netloc and re.fullmatch(r"[0-9A-Fa-f:.]+", netloc):
        raise ValueError("its host is an IPv6 address, which has brackets in a URL: write http://[::1]:8000")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port is not None and not 1 <= port <= HIGHEST_PORT:
        raise ValueError(f"its port is not a number from 1 to {HIGHEST_PORT}")
    if "[" in netloc:
        _check_ipv6(host)
    else:
        _check_name(host)


def _check_name(host: str) -> None:
    strange = next((char for char in host if not (char.isascii() or char.isalpha() or char.isdecimal())), None)
    if strange is not None:
        raise ValueError(f"its host has {described(strange)} in it, which no name has: write it again")
    if not host.isascii():
        try:
            advice = f": write {host.encode('idna').decode()}"
        except UnicodeError:
            advice = ""
        raise ValueError(f"its host {host!r} has letters outside ASCII{advice}")
    if not _HOST.fullmatch(host) or any(not 1 <= len(label) <= 63 for label in host.removesuffix(".").split(".")):
        raise ValueError(f"its host {host!r} is not a name or IP address")
    if host.rpartition(".")[2].isdecimal():
        try:
            socket.inet_aton(host)
        except OSError:
            raise ValueError(f"its host {host!r} is not an IPv4 address") from None


def _check_ipv6(host: str) -> None:
    address, percent, zone = host.partition("%")
    if not _is_ipv6(address):
        raise ValueError(f"its host {address!r} is not an IPv6 address")
    if percent:
        raise ValueError(
            f"its IPv6 address has a zone (%{zone.removeprefix('25')}), which llmload does not send to: "
            "give an address without one, or a name that /etc/hosts has"
        )


Origin = tuple[str, str | None, int | None]
"""Scheme, host and port of a URL."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def origin_of(url: str) -> Origin:
    """Return the origin of a URL, with the port that its scheme has by default; ValueError for a wrong port."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


# The address of an engine, below which requests have their paths.

_REQUEST: Final = re.compile(r"/(chat/completions|generate_stream|generate)/*$")
_OTHER_REQUEST: Final = re.compile(r"/(?:completions|responses|embeddings|(?<=/v1/)models)/*$")


def checked_url(url: str) -> str:
    """Return a URL that requests can be sent to, its scheme in lower case; `ValueError` as `url_parts`."""
    scheme = url_parts(url).scheme
    return scheme + url[len(scheme) :]


def checked_base_url(url: str) -> str:
    """Return an engine's address, its scheme in lower case; `ValueError` for one that is of something else."""
    checked = checked_url(url)
    if (path := without_request(urlsplit(checked).path)[0]) and (other := _OTHER_REQUEST.search(path)):
        raise ValueError(f"it is the address of another request than llmload sends: remove {other[0]}")
    return checked


def without_request(path: str) -> tuple[str, bool]:
    """Return an address's path without that of a chat request and slashes at its end, and whether it had one."""
    prefix = _REQUEST.sub("", path)
    return prefix.rstrip("/"), prefix != path


def root_of(base_url: str) -> tuple[str, str]:
    """Return an engine's address without `/v1`, below which it says what it is; and the query, with its `?`."""
    parts = urlsplit(base_url)
    path = without_request(parts.path)[0].removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}", f"?{parts.query}" if parts.query else ""


def shown(url: str) -> str:
    """Return an address for people, whether it can be used or not: `***` for one that may have a secret in it."""
    try:
        url_parts(url)
    except UnshownValueError:
        return "***"
    except ValueError:
        pass  # what is wrong with it is said elsewhere
    return url
