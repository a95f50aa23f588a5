"""llmload's own client: stamps by the kernel, one reactor for all streams of the process."""

import itertools
import os
import secrets
import time
from functools import partial

from llmload.client.api import ChatApi, TgiApi
from llmload.client.client import Attempt, ChatClient, RequestInfo, Send
from llmload.client.http_request import HttpRequest
from llmload.client.reactor import Reactor, current_reactor
from llmload.client.settings import ClientSettings, TimeLimits, request_headers, tls_context
from llmload.client.transport import Pool, Route, endpoint_of, proxy_for
from llmload.prompts.conversation import Prompt


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
        limits = TimeLimits(self._settings.timeouts, request.started_ns, self._settings.stream)
        connection, stale = pool.take(route)
        attempt.reconnects = int(stale)
        while True:
            if connection is None:
                connection = pool.open(route)
                attempt.connected_ns = time.monotonic_ns()
            http_request = HttpRequest(connection, reactor, attempt.answer, limits)
            try:
                http_request.run(message)
            finally:
                attempt.sent_ns = http_request.sent_ns
                attempt.stamp_source = http_request.stamp_source
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
            reactor = current_reactor()
            own = reactor, Pool(reactor.clock, self._settings.timeouts.connect_s)
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
    return f"{escaped}\r\nX-Request-Id: %s\r\nContent-Length: %d\r\n\r\n".encode("latin-1")
