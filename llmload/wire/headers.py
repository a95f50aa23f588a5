"""The headers of every request, and which of them are secrets."""

from collections.abc import Mapping
from typing import Final

from llmload.errors import ConfigError
from llmload.wire.client import ClientSettings

_SECRET_WORDS: Final = ("auth", "key", "token", "secret", "cookie", "password")
_SHORTEST_SECRET: Final = 4


def request_headers(settings: ClientSettings) -> dict[str, str]:
    """Return the headers that the settings ask for, theirs above our own; raises `ConfigError` for a broken one."""
    headers = {
        "User-Agent": "llmload",
        "Accept": "text/event-stream, application/json" if settings.stream else "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
    }
    if settings.api_key:
        headers["Authorization"] = f"Bearer {settings.api_key}"
    given = checked_headers(settings.headers)
    replaced = {name.lower() for name in given}
    own = {name: value for name, value in headers.items() if name.lower() not in replaced}
    return checked_headers(own) | given


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers; raises `ConfigError` for a name or value that could break the request's head."""
    for name, value in headers.items():
        if not (name and (name + value).isascii() and (name + value).isprintable()) or ":" in name:
            raise ConfigError(f"header {name!r}: name and value must be printable ASCII")
    return dict(headers)


def secrets_in(settings: ClientSettings) -> tuple[str, ...]:
    """Return every value of the settings that must not show in a message, the longest first."""
    values = [settings.api_key or ""]
    for name, value in settings.headers.items():
        if any(word in name.lower() for word in _SECRET_WORDS):
            values += [value, value.removeprefix("Bearer ")]
    return tuple(sorted({value for value in values if len(value) >= _SHORTEST_SECRET}, key=len, reverse=True))
