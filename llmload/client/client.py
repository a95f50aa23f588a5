"""What every client promises, the settings that all clients read, and the headers of every request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from llmload.errors import ConfigError
from llmload.prompts.conversation import Prompt
from llmload.record import RequestRecord

Api = Literal["openai-chat", "tgi-generate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each part of a request may take, in seconds; None: no limit. A limit is noticed within 0.1 s."""

    connect_s: float | None = 10.0
    """To an open connection: the name, a proxy's tunnel and TLS included."""
    first_token_s: float | None = 120.0
    """From sending to the first text of a streamed answer: an empty chunk or a comment is none."""
    between_tokens_s: float | None = 60.0
    """Between two chunks with text, and from the last of them to the end."""
    total_s: float | None = 600.0
    """From the start to the last byte, retries included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """Where to send, what to send besides the messages, and how long to wait."""

    base_urls: tuple[str, ...]
    """Without a path (`http://127.0.0.1:8000`) or with the API's prefix (`https://host/v1`); several take turns."""
    model: str
    api: Api = "openai-chat"
    stream: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the request besides model, messages, stream and stream_options: only what the scenario sets."""
    include_usage: bool | None = None
    """Whether `stream_options.include_usage` is sent: None sends it whenever `stream` is true."""
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers besides our own, or in their place; they may be secrets, so they are not shown either."""
    timeouts: Timeouts = Timeouts()
    retries: int = 0
    """How often a failed request is sent again; every retry is counted in its record."""
    ca_file: str | None = None
    verify_tls: bool = True


class ChatClient(Protocol):
    """Sends a prompt and says what happened; one per process, used by all its users at once."""

    def complete(
        self,
        prompt: Prompt,
        *,
        request_id: str,
        stage: str | None = None,
        scheduled_ns: int | None = None,
        salt: str | None = None,
    ) -> RequestRecord:
        """
        Send the prompt, its messages salted where there is a salt, wait for the answer and return its record.

        Never raises for what an engine or network does: a failure is a record with an error. When its greenlet is
        killed while it waits, it closes the stream and returns a record with outcome `censored` instead of raising
        `GreenletExit`: the caller counts the record, then ends its greenlet.
        """

    def prepare(self, prompt: Prompt, *, salted: bool = False) -> None:
        """Encode the prompt's request ahead of the run, with a place for its salt, so that sending costs no work."""

    def close(self) -> None:
        """Close every connection."""


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
