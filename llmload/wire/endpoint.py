"""Where requests go: a base URL taken apart, and the path of an API below it."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from llmload.errors import ConfigError
from llmload.wire.client import Api


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and the path of requests to it."""

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
        """Host and port as in a URL, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of `Host`: the port is left out where it is the scheme's own."""
        own = 443 if self.tls else 80
        return self.authority.removesuffix(f":{own}") if self.port == own else self.authority


def endpoint(base_url: str, api: Api, path: str) -> Endpoint:
    """
    Return where requests of the API go below a base URL, given with or without the API's prefix.

    OpenAI's API lies below `/v1` where the URL has no path; TGI's own API lies beside it. Raises `ConfigError`
    for a URL that cannot be used.
    """
    parts = urlsplit(base_url)
    if parts.username or parts.password:
        raise ConfigError("base URL: put no user or password into it; use the API key or headers")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"base URL {base_url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"base URL {base_url!r}: write it as http://host:port or https://host/v1")
    prefix = parts.path.rstrip("/")
    prefix = (prefix or "/v1") if api == "openai-chat" else prefix.removesuffix("/v1")
    query = f"?{parts.query}" if parts.query else ""
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), f"{prefix}{path}{query}")
