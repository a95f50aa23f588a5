"""A prompt in, a record out: what every client does around sending, and llmload's own client, stamped by the kernel."""

import dataclasses
import itertools
import logging
import math
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, final

import gevent
from gevent import GreenletExit

from llmload.client.answer import StreamState
from llmload.client.api import ApiProtocol, ChatApi, TgiApi
from llmload.client.errors import AttemptError, request_error, without_secrets
from llmload.client.http_request import HttpRequest
from llmload.client.reactor import Reactor, current_reactor
from llmload.client.segments import WireFacts
from llmload.client.settings import ClientSettings, Deadline, request_headers, tls_context, to_ns
from llmload.client.transport import Pool, Route, endpoint_of, proxy_for
from llmload.client.words import Words
from llmload.errors import ConfigError
from llmload.prompts.conversation import Prompt
from llmload.record import ErrorType, Outcome, RequestError, RequestRecord, StampSource

# A prompt in, a record out: what every client does around sending, the attempts at a request and their record.

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 8.0
_RETRYABLE: Final = frozenset(
    {
        ErrorType.DNS,
        ErrorType.CONNECT_REFUSED,
        ErrorType.CONNECT_TIMEOUT,
        ErrorType.CONNECT_FAILED,
        ErrorType.NO_DESCRIPTOR,
        ErrorType.FIRST_TOKEN_TIMEOUT,
        ErrorType.BETWEEN_TOKENS_TIMEOUT,
        ErrorType.RESET,
        ErrorType.INCOMPLETE,
        ErrorType.ENGINE_ERROR,
        ErrorType.ABORTED,
        ErrorType.RATE_LIMITED,
        ErrorType.HTTP_SERVER_ERROR,
        ErrorType.PROTOCOL,
    }
)
"""Failures after which another attempt may succeed."""

_logger = logging.getLogger(__name__)


class RequestInfo(NamedTuple):
    """The caller's part of a record: whose request it is and when it started; monotonic ns."""

    request_id: str
    prompt_id: str
    stage: str | None
    scheduled_ns: int | None
    started_ns: int
    name: str | None = None
    asked_prompt_tokens: int | None = None
    asked_output_tokens: int | None = None


@dataclass(slots=True, kw_only=True)
class Attempt:
    """What one attempt came to, filled in while it runs; monotonic ns."""

    answer: StreamState
    deadline: Deadline
    connected_ns: int | None = None
    sent_ns: int | None = None
    done_ns: int | None = None
    reconnects: int = 0
    stamp_source: StampSource = StampSource.NONE
    body_bytes: int = 0
    wire: WireFacts | None = None
    error: RequestError | None = None
    censored: bool = False


Send = Callable[[RequestInfo, Attempt], None]
"""Makes one attempt and fills it in; raises `AttemptError`, or what killed its wait."""


class ChatClient(ABC):
    """
    Sends prompts and says what happened; one per process, used by all its users at once.

    May be made before a fork and used after it. Raises `ConfigError` when made from settings that cannot be used.
    """

    def __init__(self, settings: ClientSettings, api: ApiProtocol) -> None:
        if not settings.base_urls:
            raise ConfigError("base_urls: at least one URL is needed")
        self._settings = settings
        self._api = api
        self._secrets = settings.access.secrets()

    @final
    def complete(
        self,
        prompt: Prompt,
        *,
        request_id: str,
        stage: str | None = None,
        scheduled_ns: int | None = None,
        salt: str | None = None,
        words: Words | None = None,
    ) -> RequestRecord:
        """
        Send the prompt, its messages salted if there is a salt, wait for the answer and return its record.

        What the answer says is kept in `words`, where they are given.

        Never raises for what an engine or network does: a failure is a record with an error. When its greenlet is
        killed while it waits, it closes the stream and returns a record with outcome `censored` instead of raising
        `GreenletExit`: the caller counts the record, then ends its greenlet.
        """
        send = self._sender(prompt, salt)
        settings, started_ns = self._settings, time.monotonic_ns()
        request = RequestInfo(
            request_id=request_id,
            prompt_id=prompt.prompt_id,
            stage=stage,
            scheduled_ns=scheduled_ns,
            started_ns=started_ns,
            name=prompt.name,
            asked_prompt_tokens=prompt.asked.input_tokens,
            asked_output_tokens=prompt.asked.output_tokens,
        )
        due_ns = started_ns if scheduled_ns is None else scheduled_ns
        deadline = Deadline(settings.timeouts, due_ns, stream=settings.stream)
        new_answer = self._api.new_answer if words is None else partial(self._api.new_answer, words)
        return send_with_retries(request, deadline, new_answer, send, retries=settings.retries, secrets=self._secrets)

    @abstractmethod
    def _sender(self, prompt: Prompt, salt: str | None) -> Send:
        """Return what sends the prompt once; all that costs time before the request is done here."""

    def check(self, prompt: Prompt) -> None:
        """Raise TypeError, KeyError or ValueError for a prompt that cannot be sent, before a request is counted."""
        self._api.encode(prompt)

    @abstractmethod
    def prepare(self, prompt: Prompt, *, salted: bool = False) -> None:
        """Encode the prompt's request ahead of the run, with room for its salt, so that sending costs no work."""

    @abstractmethod
    def open(self) -> None:
        """Make what this process sends with, before the load begins: the first request would wait for it."""

    @property
    def dropped_segments(self) -> int | None:
        """How many segments this process's packet ring had no room for since `open`; None without one."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Close every connection of this process."""


def send_with_retries(
    request: RequestInfo,
    deadline: Deadline,
    new_answer: Callable[[], StreamState],
    send: Send,
    *,
    retries: int,
    secrets: Iterable[str],
) -> RequestRecord:
    """
    Send the request until it succeeds, at most `retries` times again, and return its record.

    A retry waits as long as the engine's Retry-After says; without one half a second and twice as long each time, at
    most 8 s. A retry whose pause would not end before the deadline is not made: the record has the failure before it.
    """
    retried = reconnects = 0
    while True:
        attempt = Attempt(answer=new_answer(), deadline=deadline)
        _send_once(request, attempt, send)
        reconnects += attempt.reconnects
        error = None if attempt.censored else attempt.error
        if error is None or error.type not in _RETRYABLE or retried >= retries:
            break
        if not _pause(attempt, error, retried):
            break
        retried += 1
    attempt.reconnects = reconnects
    if attempt.error is not None:
        attempt.error = without_secrets(attempt.error, secrets)
    return _record(request, attempt, retried)


def _send_once(request: RequestInfo, attempt: Attempt, send: Send) -> None:
    try:
        send(request, attempt)
    except AttemptError as failure:
        attempt.error = failure.error
    except (GreenletExit, gevent.Timeout):
        attempt.censored = True
    except Exception as bug:
        _logger.exception("a request failed in the client itself")
        attempt.error = request_error(ErrorType.CLIENT, repr(bug))


def _pause(attempt: Attempt, error: RequestError, retried: int) -> bool:
    """Wait before the next attempt; return whether there is one."""
    deadline, pause_s = attempt.deadline, error.retry_after_s
    if pause_s is None:
        pause_s = min(_FIRST_PAUSE_S * 2 ** min(retried, 10), _LONGEST_PAUSE_S)
    if time.monotonic_ns() + to_ns(pause_s) >= deadline.ends_ns:
        attempt.error = _not_sent_again(error, pause_s, deadline)
        return False
    try:
        gevent.sleep(pause_s)
    except (GreenletExit, gevent.Timeout):
        attempt.censored = True
        attempt.done_ns = time.monotonic_ns()
        return False
    if time.monotonic_ns() >= deadline.ends_ns:  # the process was busy when the pause ended
        attempt.error = _not_sent_again(error, pause_s, deadline)
        return False
    return True


def _not_sent_again(error: RequestError, pause_s: float, deadline: Deadline) -> RequestError:
    """Return the error with the reason why there is no further attempt at its front: a long message is cut."""
    pause = "a pause" if error.retry_after_s is None else "Retry-After"
    why = f"not sent again, {pause} of {math.ceil(pause_s):g} s does not fit in total_s = {deadline.timeouts.total_s}"
    shown = request_error(error.type, f"{why}: {error.message}")
    return dataclasses.replace(error, message=shown.message)


def _record(request: RequestInfo, attempt: Attempt, retried: int) -> RequestRecord:
    outcome = Outcome.COMPLETED if attempt.error is None else Outcome.FAILED
    if attempt.censored:
        outcome = Outcome.CENSORED
    return RequestRecord(
        **request._asdict(),
        **attempt.answer.record_fields(),
        **({} if attempt.wire is None else attempt.wire._asdict()),
        connected_ns=attempt.connected_ns,
        sent_ns=attempt.sent_ns,
        done_ns=time.monotonic_ns() if attempt.done_ns is None else attempt.done_ns,
        outcome=outcome,
        error=None if attempt.censored else attempt.error,
        stamp_source=attempt.stamp_source,
        body_bytes=attempt.body_bytes,
        reconnects=attempt.reconnects,
        retries=retried,
    )


class WireClient(ChatClient):
    """A `ChatClient` on the process's reactor."""

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings, ChatApi(settings) if settings.api == "openai-chat" else TgiApi(settings))
        self._heads = [(route, _head(route, settings)) for route in _routes(settings, self._api.path)]
        self._turns = itertools.cycle(self._heads)
        self._prepared: dict[int, tuple[Prompt, bytes]] = {}
        self._prepared_around: dict[int, tuple[Prompt, bytes, bytes]] = {}
        self._placeholder = secrets.token_hex(8)  # random, so no prompt contains it
        self._pools: dict[int, tuple[Reactor, Pool]] = {}
        self._dropped_before = 0

    def _sender(self, prompt: Prompt, salt: str | None) -> Send:
        body = self._encoded(prompt) if salt is None else self._salted(prompt, salt)
        return partial(self._send, body)

    def prepare(self, prompt: Prompt, *, salted: bool = False) -> None:
        """Encode the prompt's request ahead of the run, with room for its salt, so that sending costs no work."""
        if salted:
            before, _, after = self._api.encode(prompt.salted(self._placeholder)).partition(self._placeholder.encode())
            self._prepared_around[id(prompt)] = (prompt, before, after)
        else:
            self._prepared[id(prompt)] = (prompt, self._api.encode(prompt))

    def open(self) -> None:
        """Make the reactor, whose packet ring takes some tens of milliseconds."""
        reactor, _ = self._reactor_and_pool()
        self._dropped_before = 0 if reactor.tap is None else reactor.tap.count_drops()

    @property
    def dropped_segments(self) -> int | None:
        """How many segments this process's packet ring had no room for since `open`; None without one."""
        reactor, _ = self._reactor_and_pool()
        return None if reactor.tap is None else reactor.tap.count_drops() - self._dropped_before

    def close(self) -> None:
        """Close every idle connection of this process."""
        _, pool = self._pools.pop(os.getpid(), (None, None))
        if pool is not None:
            pool.close()

    def _encoded(self, prompt: Prompt) -> bytes:
        prepared = self._prepared.get(id(prompt))
        return self._api.encode(prompt) if prepared is None else prepared[1]

    def _salted(self, prompt: Prompt, salt: str) -> bytes:
        prepared = self._prepared_around.get(id(prompt))
        if prepared is None:
            return self._api.encode(prompt.salted(salt))
        return prepared[1] + salt.encode() + prepared[2]

    def _send(self, body: bytes, request: RequestInfo, attempt: Attempt) -> None:
        route, head = next(self._turns)
        message = head % (request.request_id.encode("ascii", "replace"), len(body)) + body
        reactor, pool = self._reactor_and_pool()
        deadline = attempt.deadline
        connection, stale = pool.take(route)
        attempt.reconnects = int(stale)
        while True:
            if connection is None:
                connection = pool.open(route, deadline)
                attempt.connected_ns = time.monotonic_ns()
            if time.monotonic_ns() >= deadline.ends_ns:
                pool.give_back(route, connection)
                raise AttemptError(deadline.too_late())
            patient = request.scheduled_ns is not None
            http_request = HttpRequest(connection, reactor, attempt.answer, deadline, patient=patient)
            try:
                http_request.run(message)
            finally:
                attempt.sent_ns = http_request.sent_ns
                attempt.stamp_source = http_request.stamp_source
                attempt.body_bytes = http_request.response.body_bytes
                attempt.wire = http_request.wire_facts
                if http_request.reusable:
                    pool.give_back(route, connection)
                else:
                    connection.close()
            if not http_request.stale:
                attempt.done_ns = http_request.done_ns
                attempt.error = http_request.error
                return
            connection = None
            attempt.reconnects += 1

    def _reactor_and_pool(self) -> tuple[Reactor, Pool]:
        """Return the reactor and the pool of this process; those inherited by fork are closed."""
        own = self._pools.get(os.getpid())
        if own is None or own[0].inherited:
            for _, pool in self._pools.values():
                pool.close()
            reactor = current_reactor(self._settings.stamps)
            own = reactor, Pool(reactor)
            self._pools = {os.getpid(): own}
        return own


def _routes(settings: ClientSettings, path: str) -> list[Route]:
    endpoints = [endpoint_of(url, settings.api, path) for url in settings.base_urls]
    tls = tls_context(settings) if any(endpoint.tls for endpoint in endpoints) else None
    return [Route(endpoint, proxy_for(endpoint), tls if endpoint.tls else None) for endpoint in endpoints]


def _head(route: Route, settings: ClientSettings) -> bytes:
    """Return the request's head, with placeholders for its id and the length of its body."""
    headers = {"Host": route.endpoint.host_header, **request_headers(settings)}
    if route.proxy is not None and route.tls is None and route.proxy.authorization:
        headers["Proxy-Authorization"] = route.proxy.authorization
    lines = [f"POST {route.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    escaped = "\r\n".join(lines).replace("%", "%%")
    named = settings.request_id_header
    id_line = f"{named.replace('%', '%%')}: %s\r\n" if named else "%.0s"  # which writes nothing of the id
    return f"{escaped}\r\n{id_line}Content-Length: %d\r\n\r\n".encode("latin-1")
