"""The HTTP proxy that the environment names (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`)."""

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined] # stubs lack it

from llmload.errors import ConfigError
from llmload.wire.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy spoken to in plain HTTP: it forwards http requests, and tunnels to https servers."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """The value of `Proxy-Authorization`."""

    def connect_request(self, authority: str) -> bytes:
        """Return the request that asks for a tunnel to `host:port`."""
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def proxy_for(endpoint: Endpoint) -> Proxy | None:
    """Return the proxy that requests to the endpoint go through; raises `ConfigError` for one of another kind."""
    proxies = getproxies_environment()
    url = proxies.get(endpoint.scheme) or proxies.get("all")
    if not url or proxy_bypass_environment(endpoint.authority, proxies):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"{endpoint.scheme}_proxy: only proxies of the form http://host:port can be used")
    authorization = None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode("ascii")
    return Proxy(parts.hostname, parts.port or 80, authorization)
