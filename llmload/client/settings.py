"""The settings of a client, headers and TLS included; and what a running engine reports about itself."""

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Final, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from llmload.access.address import root_of
from llmload.access.secrecy import NOBODY, Access
from llmload.client.errors import request_error
from llmload.client.said import MAX_MODELS, Hide, bounded, cut
from llmload.errors import ConfigError, EngineError
from llmload.fetch import AnswerTooLongError, RedirectError, http_get, ssl_context
from llmload.portable import carried
from llmload.record import ErrorType, RequestError
from llmload.units import NS_PER_S

# What a running engine reports about itself: its models, its version, and whether it is simulated.

TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 1_000_000
PATHS: Final = ("/v1/models", "/version", "/info", "/props", "/health")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """An engine's answers by path; a path that it does not serve is absent."""

    base_url: str
    answers: Mapping[str, Any] = field(default_factory=dict)
    hide: Hide = field(default=str, repr=False, compare=False)
    """Removes keys from what is shown or kept of the answers."""

    @property
    def models(self) -> tuple[str, ...]:
        """The names in `/v1/models`, as they are, to be compared; empty if the engine lists none."""
        return tuple(str(row["id"]) for row in self._rows)

    @property
    def base_models(self) -> tuple[str, ...]:
        """The same without adapters of another model, and one name of a model that has several, as vLLM says."""
        own = [row for row in self._rows if not row.get("parent")]
        return tuple({str(row.get("root") or row["id"]): str(row["id"]) for row in reversed(own)}.values())[::-1]

    @property
    def _rows(self) -> list[dict[str, Any]]:
        listed = self.answers.get("/v1/models")
        rows = listed.get("data") if isinstance(listed, dict) else None
        return [row for row in rows or () if isinstance(row, dict) and "id" in row]

    @property
    def version(self) -> str | None:
        """The engine's version, bounded and without keys; None if it reports none."""
        for path, key in (("/version", "version"), ("/info", "version"), ("/props", "build_info")):
            said = self._table(path).get(key)
            if isinstance(said, str):
                return cut(said, self.hide)
        return None

    @property
    def max_model_len(self) -> int | None:
        """The most tokens that a prompt and its answer may have together; None if it does not say."""
        said = [row.get("max_model_len") for row in self._rows]
        said.append(self._table("/info").get("max_total_tokens"))
        slot = self._table("/props").get("default_generation_settings")  # llama.cpp's, of each slot alone
        said.append(slot.get("n_ctx") if isinstance(slot, dict) else None)
        return min((each for each in said if type(each) is int and each > 0), default=None)

    @property
    def loaded(self) -> str | None:
        """The model that TGI's `/info` reports as loaded, as it is; None if the engine does not serve it."""
        named = self._table("/info").get("model_id")
        return str(named) if named else None

    @property
    def simulated(self) -> bool:
        """Whether llmload's simulated engine answered."""
        return "simulated" in str(self._table("/version").get("engine", ""))

    def _table(self, path: str) -> dict[str, Any]:
        """Return the object that the engine answers there; empty where it answers nothing, or something else."""
        answer = self.answers.get(path)
        return answer if isinstance(answer, dict) else {}

    def to_dict(self) -> dict[str, Any]:
        """Return the answers as plain values for the manifest, bounded and without keys."""
        return {
            "base_url": self.base_url,
            "version": self.version,
            "models": [cut(name, self.hide) for name in self.models[:MAX_MODELS]],
            "simulated": self.simulated,
            "answers": {path: bounded(answer, self.hide) for path, answer in self.answers.items()},
        }


def ask_engine(
    base_url: str, *, access: Access = NOBODY, ca_file: str | None = None, verify_tls: bool = True
) -> EngineInfo:
    """
    Return what the engine at the URL reports about itself; `EngineError` if nothing answers there.

    An engine that answers but serves none of the paths is not an error.
    """
    (root, query), context = root_of(base_url), context_of(base_url, ca_file, verify_tls)
    answers = {}
    for path in PATHS:
        answer = _get(root, path, query, access, context)
        if answer is not None:
            answers[path] = answer
    return EngineInfo(base_url=base_url, answers=answers, hide=access.hider())


_UNKNOWN_PATH: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


def is_ready(
    base_url: str,
    *,
    access: Access = NOBODY,
    ca_file: str | None = None,
    verify_tls: bool = True,
    if_it_does_not_say: bool = False,
) -> bool:
    """
    Return whether the engine is ready by `/health`, or by `/v1/models` if it has no `/health`.

    `if_it_does_not_say` is the answer where it has neither, as some gateways. `EngineError` if it refuses the key.
    """
    (root, query), context = root_of(base_url), context_of(base_url, ca_file, verify_tls)
    status: int | None = HTTPStatus.NOT_FOUND
    for path in ("/health", "/v1/models"):
        if status in _UNKNOWN_PATH:
            status = _status(f"{root}{path}{query}", access.all_headers(), context)
            if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise EngineError(f"{root}{path} answers {status}: {_wrong_key(access)}")
    return if_it_does_not_say if status in _UNKNOWN_PATH else status in {HTTPStatus.OK, HTTPStatus.NO_CONTENT}


def _status(url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None) -> int | None:
    try:
        return http_get(url, headers=headers, tls=tls, timeout_s=TIMEOUT_S, max_bytes=_MAX_BYTES).status
    except HTTPError as error:
        return error.code
    except (OSError, ValueError, HTTPException):
        return None


def context_of(base_url: str, ca_file: str | None, verify_tls: bool) -> ssl.SSLContext | None:
    """Return how an https server is to prove who it is; None for http, EngineError for a file that cannot be used."""
    if not base_url.startswith("https:"):
        return None
    try:
        return ssl_context(ca_file, verify=verify_tls)
    except OSError as error:
        raise EngineError(f"engine.ca_file: {ca_file} cannot be used: {error.strerror or error}") from None


def _get(root: str, path: str, query: str, access: Access, tls: ssl.SSLContext | None) -> object:
    headers = access.all_headers()
    try:
        answer = http_get(f"{root}{path}{query}", headers=headers, tls=tls, timeout_s=TIMEOUT_S, max_bytes=_MAX_BYTES)
    except AnswerTooLongError:
        return None
    except RedirectError as error:
        if path != "/v1/models":
            return None
        target = access.hider()(error.target)
        raise EngineError(
            f"{root}{path} redirects to {target}: give that address, {target.removesuffix(path)}, in engine.base_url"
        ) from None
    except HTTPError as error:
        if error.code in {401, 403} and path == "/v1/models":
            raise EngineError(f"{root}{path} answers {error.code}: {_wrong_key(access)}") from None
        return None
    except (OSError, ValueError, HTTPException) as error:
        raise EngineError(_no_answer(root, error)) from None
    return _parsed(answer.body)


def _wrong_key(access: Access) -> str:
    if access.secret_headers:
        return "are the values of engine.headers, and their names, the right ones?"
    return "is the key in engine.api_key_env's variable the right one?"


def _no_answer(root: str, error: Exception) -> str:
    """Return what is wrong where no answer came, and what to do about it."""
    reason = getattr(error, "reason", error)
    text = reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {root} is not trusted ({reason.verify_message}): "
            "set engine.ca_file, or engine.verify_tls = false"
        )
    parts = urlsplit(root)
    if parts.scheme in getproxies() and not proxy_bypass(parts.netloc):
        return (
            f"the proxy in {parts.scheme}_proxy does not reach {root} ({text}): "
            "correct the variable, or add the engine's host to no_proxy"
        )
    if isinstance(reason, socket.gaierror):
        return f"the host of {root} has no address ({text}): check its spelling in engine.base_url"
    if not isinstance(reason, ConnectionRefusedError):
        other = "http" if parts.scheme == "https" else "https"
        if _answers_by(other, parts.netloc):
            return f"what listens at {root} answers by {other} only: write {other}:// in engine.base_url"
    if isinstance(reason, HTTPException) and not isinstance(reason, OSError):
        return f"what listens at {root} does not speak HTTP ({type(reason).__name__})"
    return (
        f"the engine at {root} does not answer ({text}): start it, or give its address "
        "(llmload run --base-url, locust --host)"
    )


def _answers_by(scheme: str, netloc: str) -> bool:
    """Return whether there is an HTTP server by this scheme; sends no key and checks no certificate."""
    tls = ssl_context(None, verify=False) if scheme == "https" else None
    return _status(f"{scheme}://{netloc}/v1/models", {}, tls) is not None


def _parsed(text: bytes) -> object:
    """Return an answer as the manifest can carry it; None where it is not JSON."""
    try:
        return carried(json.loads(text) if text.strip() else {})
    except (ValueError, RecursionError):
        return None


Api = Literal["openai-chat", "tgi-generate"]
Stamps = Literal["auto", "packet", "socket", "user"]
"""Who takes time stamps: the kernel's packet ring, the kernel as sockets are read, the process; `auto`: the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each part of a request may take, in seconds; None: no limit. A limit takes effect within 0.1 s."""

    connect_s: float | None = 10.0
    """Until the connection is open: name resolution, all addresses of the name, a proxy's tunnel and TLS included."""
    first_token_s: float | None = 120.0
    """From sending to the first text of a streamed answer; empty chunks and comments do not count."""
    between_tokens_s: float | None = 60.0
    """Between two chunks with text, and from the last of them to the end."""
    total_s: float | None = 600.0
    """From when the request was due to its last byte: connecting, retries and the pauses before them included."""


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
    """Headers beside the client's own, or instead of them; not shown, since they may be secrets."""
    secret_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The same, of which each value is a secret: in no message, whatever its name is."""
    request_id_header: str | None = "X-Request-Id"
    """The header with the request's id; None sends none."""
    timeouts: Timeouts = Timeouts()
    retries: int = 0
    """How often a failed request is sent again; every retry is counted in its record."""
    ca_file: str | None = None
    verify_tls: bool = True
    stamps: Stamps = "auto"
    reasoning_in_tags: bool = False
    """Whether reasoning is between `<think>` and `</think>` in the text, and not only in separate fields."""

    @property
    def access(self) -> Access:
        """The key and the headers."""
        return Access(api_key=self.api_key, headers=self.headers, secret_headers=self.secret_headers)


def request_headers(settings: ClientSettings) -> dict[str, str]:
    """Return the headers that the settings ask for, theirs above our own; raises `ConfigError` for a broken one."""
    headers = {
        "User-Agent": "llmload",
        "Accept": "text/event-stream, application/json" if settings.stream else "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
    }
    given = checked_headers(settings.access.all_headers())
    replaced = {name.lower() for name in given}
    return {name: value for name, value in headers.items() if name.lower() not in replaced} | given


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers; raises `ConfigError` for a name or value that could corrupt the request's head."""
    for name, value in headers.items():
        if not (name and (name + value).isascii() and (name + value).isprintable()) or ":" in name:
            raise ConfigError(f"header {name!r}: name and value must be printable ASCII")
    return dict(headers)


FOREVER_NS: Final = 1 << 62


def to_ns(seconds: float | None) -> int:
    """Return a limit in nanoseconds; None becomes `FOREVER_NS`, longer than any run, and so does a longer limit."""
    return FOREVER_NS if seconds is None or seconds * NS_PER_S > FOREVER_NS else int(seconds * NS_PER_S)


_WAITED: Final = {
    ErrorType.FIRST_TOKEN_TIMEOUT: "no text within first_token_s = {} of sending",
    ErrorType.BETWEEN_TOKENS_TIMEOUT: "no further text within between_tokens_s = {}",
    ErrorType.TOTAL_TIMEOUT: "no end of the answer within total_s = {}",
}


class Deadline:
    """
    The time limits of one request, shared by all its attempts and counted from when it was due; monotonic ns.

    `ends_ns` is when `total_s` has passed: nothing is sent from then on.
    """

    __slots__ = ("ends_ns", "stream", "timeouts")

    def __init__(self, timeouts: Timeouts, due_ns: int, *, stream: bool) -> None:
        self.timeouts = timeouts
        self.stream = stream
        self.ends_ns = due_ns + to_ns(timeouts.total_s)

    def too_late(self) -> RequestError:
        """Return the error of a request that is not sent because `total_s` has passed."""
        message = f"not sent: total_s = {self.timeouts.total_s} had passed since it was due"
        return request_error(ErrorType.TOTAL_TIMEOUT, message)

    def connecting(self, began_ns: int) -> tuple[int, RequestError]:
        """Return until when a connection may be opened that was begun at `began_ns`, and the error of that limit."""
        connect_ns = began_ns + to_ns(self.timeouts.connect_s)
        if self.ends_ns <= connect_ns:
            message = f"no connection before total_s = {self.timeouts.total_s} had passed"
            return self.ends_ns, request_error(ErrorType.TOTAL_TIMEOUT, message)
        message = f"no connection in connect_s = {self.timeouts.connect_s}"
        return connect_ns, request_error(ErrorType.CONNECT_TIMEOUT, message)

    def next_check_ns(self, sent_ns: int) -> int:
        """Return the earliest moment at which any limit can pass, even if nothing arrives until then."""
        if not self.stream:
            return self.ends_ns
        token_ns = sent_ns + min(to_ns(self.timeouts.first_token_s), to_ns(self.timeouts.between_tokens_s))
        return min(self.ends_ns, token_ns)

    def check(
        self, now_ns: int, sent_ns: int, last_chunk_ns: int | None, *, stream: bool
    ) -> tuple[int, RequestError | None]:
        """
        Return when to check again, and the error of a limit that has passed by now.

        `stream` says whether the answer comes in chunks: an answer in one piece has no first token to wait for.
        """
        timeouts = self.timeouts
        limits_ns = {ErrorType.TOTAL_TIMEOUT: (self.ends_ns, timeouts.total_s)}
        if stream and last_chunk_ns is None:
            limits_ns[ErrorType.FIRST_TOKEN_TIMEOUT] = (sent_ns + to_ns(timeouts.first_token_s), timeouts.first_token_s)
        elif stream and last_chunk_ns is not None:
            quiet_ns = last_chunk_ns + to_ns(timeouts.between_tokens_s)
            limits_ns[ErrorType.BETWEEN_TOKENS_TIMEOUT] = (quiet_ns, timeouts.between_tokens_s)
        error_type, (limit_ns, limit_s) = min(limits_ns.items(), key=lambda item: item[1][0])
        if now_ns < limit_ns:
            return limit_ns, None
        return limit_ns, request_error(error_type, _WAITED[error_type].format(limit_s))


def tls_context(settings: ClientSettings) -> ssl.SSLContext:
    """Return the context for HTTPS endpoints; raises `ConfigError` if the CA file cannot be used."""
    try:
        context = ssl_context(settings.ca_file, verify=settings.verify_tls)
    except OSError as error:
        raise ConfigError(f"ca_file {settings.ca_file!r}: {error}") from None
    context.set_alpn_protocols(["http/1.1"])
    return context
