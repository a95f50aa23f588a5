"""The `openai` SDK as a client: the library that applications use, with its costs, and stamps by this process."""

import itertools
import os
import ssl
import time
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import gevent
import httpcore2
import httpx2
import openai
from httpcore2._backends.sync import SyncStream

from llmload.client.answer import StreamState
from llmload.client.api import ChatApi
from llmload.client.client import Attempt, ChatClient, RequestInfo, Send
from llmload.client.dialer import Dialer
from llmload.client.errors import AttemptError, request_error
from llmload.client.sdk_answer import (
    SdkEvents,
    bound_body,
    content_type_of,
    error_of_response,
    form_of_response,
    from_sdk,
)
from llmload.client.settings import FOREVER_NS, ClientSettings, Deadline, checked_headers, tls_context
from llmload.client.transport import endpoint_of, proxy_url
from llmload.errors import ConfigError
from llmload.prompts.conversation import Prompt
from llmload.record import ErrorType, RequestError, StampSource
from llmload.units import NS_PER_S


class DeadlineTimer:
    """
    A request's time limits around a call that waits: `with timer:` raises `AttemptError` when one passes.

    For a client that does not see its own sockets: `on_event` learns from the SDK's HTTP library when it connects and
    when it sends, and stops a request whose deadline has passed before it is written.
    """

    _timer: gevent.Timeout

    def __init__(self, deadline: Deadline, answer: StreamState) -> None:
        self._deadline = deadline
        self._answer = answer
        self._began_ns = time.monotonic_ns()
        self._sent_ns: int | None = None
        self._too_late: RequestError | None = None

    def __enter__(self) -> None:
        self._start()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._timer.close()
        if error is not None and error is self._timer:
            raise AttemptError(self._too_late or self._passed()) from None
        if self._sent_ns is None:  # an answer came, though no event did
            self._sent_ns = time.monotonic_ns()

    def on_event(self, name: str, info: dict[str, Any]) -> None:
        """Take an event of the HTTP library: the request's head is about to be written, or its body was written."""
        if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            self._sent_ns = time.monotonic_ns()
            if self._sent_ns >= self._deadline.ends_ns:
                self._too_late = self._deadline.too_late()
                raise self._timer  # unlike an `Exception`, it leaves the SDK as it is
        elif name.endswith("send_request_body.complete") and self._sent_ns is not None:
            self._sent_ns = time.monotonic_ns()
        else:
            return
        self._timer.close()
        self._start()

    @property
    def left_s(self) -> float:
        """How long until the next time limit passes."""
        now_ns = time.monotonic_ns()
        return (self._check(now_ns)[0] - now_ns) / NS_PER_S

    def _start(self) -> None:
        self._timer = gevent.Timeout.start_new(self.left_s)

    def _passed(self) -> RequestError:
        _, passed = self._check(FOREVER_NS)
        return passed or request_error(ErrorType.TOTAL_TIMEOUT, "a time limit passed")

    def _check(self, now_ns: int) -> tuple[int, RequestError | None]:
        if self._sent_ns is None:
            return self._deadline.connecting(self._began_ns)
        chunk_ns = self._answer.chunk_ns
        last_ns = chunk_ns[-1] if chunk_ns else None
        return self._deadline.check(now_ns, self._sent_ns, last_ns, stream=self._deadline.stream)


_current_timer: ContextVar[DeadlineTimer] = ContextVar("current_timer")
"""The timer of the request that a greenlet sends."""


def _watch(request: httpx2.Request, query: str) -> None:
    """Have the HTTP library report its steps to the timer of the greenlet's request; put in the base URL's query."""
    request.extensions["trace"] = _current_timer.get().on_event
    if query:  # the SDK would write the path behind it
        request.url = request.url.copy_with(query=query.encode())


_LIMITS: Final = httpx2.Limits(max_connections=None, max_keepalive_connections=None)


class DialingBackend(httpcore2.SyncBackend):
    """The HTTP library's network, connected by the `Dialer`: its own gives each address the whole time to connect."""

    def __init__(self) -> None:
        self._dialer = Dialer()

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore2.NetworkStream:
        """Return a stream to the first address that accepts; the request's timer has its time limit."""
        try:
            return SyncStream(self._dialer.connect(host, port, _current_timer.get().left_s))
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error


class DirectTransport(httpx2.HTTPTransport):
    """The HTTP library's transport without a proxy, on a `DialingBackend`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(verify=context)
        self._pool.close()
        self._pool = httpcore2.ConnectionPool(
            ssl_context=context,
            max_connections=_LIMITS.max_connections,
            max_keepalive_connections=_LIMITS.max_keepalive_connections,
            keepalive_expiry=_LIMITS.keepalive_expiry,
            network_backend=DialingBackend(),
        )


_PASSED_BY_NAME: Final = ("model", "messages", "stream")
_WARM_UP_STREAM: Final = (
    b'data: {"id":"","object":"chat.completion.chunk","created":0,"model":"",'
    b'"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


class SdkClient(ChatClient):
    """
    A `ChatClient` on the SDK; needs gevent's patching.

    The SDK's own retries are off, and it is warmed up once per process. It tells neither when a connection opened
    nor when the request was sent.
    """

    def __init__(self, settings: ClientSettings) -> None:
        if settings.api != "openai-chat":
            raise ConfigError(f"client 'openai' cannot speak {settings.api!r}; use client 'wire'")
        self._chat = ChatApi(settings)
        super().__init__(settings, self._chat)
        self._headers, self._id_header = _headers(settings), settings.request_id_header
        self._urls = settings.base_urls
        self._own: tuple[int, Iterator[openai.OpenAI], list[openai.OpenAI]] | None = None

    def _sender(self, prompt: Prompt, salt: str | None) -> Send:
        clients = self._clients()
        salted = prompt if salt is None else prompt.salted(salt)
        return lambda request, attempt: self._send(next(clients), salted, request, attempt)

    def prepare(self, prompt: Prompt, *, salted: bool = False) -> None:
        """Do nothing: the SDK encodes every request itself, when it sends it."""

    def open(self) -> None:
        """Make the SDK's clients, and warm it up."""
        self._clients()

    def close(self) -> None:
        """Close every connection of this process."""
        if self._own is not None and self._own[0] == os.getpid():
            for client in self._own[2]:
                client.close()
        self._own = None

    def _clients(self) -> Iterator[openai.OpenAI]:
        """Return this process's SDK clients, one a base URL, in turns."""
        if self._own is None or self._own[0] != os.getpid():
            warm_up()
            clients = [self._client(url) for url in self._urls]
            self._own = os.getpid(), itertools.cycle(clients), clients
        return self._own[1]

    def _client(self, base_url: str) -> openai.OpenAI:
        settings = self._settings
        context = tls_context(settings)
        endpoint = endpoint_of(base_url, "openai-chat", "")
        path, _, query = endpoint.target.partition("?")
        proxied = proxy_url(endpoint) is not None
        return openai.OpenAI(
            base_url=f"{endpoint.scheme}://{endpoint.authority}{path}",
            api_key=settings.api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(None, connect=settings.timeouts.connect_s),
            http_client=openai.DefaultHttpxClient(
                verify=context,
                limits=_LIMITS,
                follow_redirects=False,
                transport=None if proxied else DirectTransport(context),
                event_hooks={"request": [partial(_watch, query=query)], "response": [bound_body]},
            ),
        )

    def _send(self, client: openai.OpenAI, prompt: Prompt, request: RequestInfo, attempt: Attempt) -> None:
        timer = DeadlineTimer(attempt.deadline, attempt.answer)
        _current_timer.set(timer)
        fields = self._chat.fields(prompt)
        rest = {name: value for name, value in fields.items() if name not in _PASSED_BY_NAME}
        stream: openai.Stream[object] | None = None
        broken: RequestError | None = None
        try:
            with timer:
                raw: Any = client.chat.completions.with_raw_response.create(
                    **{name: fields[name] for name in _PASSED_BY_NAME},
                    extra_headers=self._headers | ({self._id_header: request.request_id} if self._id_header else {}),
                    extra_body=rest or None,
                )
            attempt.stamp_source = StampSource.USER
            stream = raw.parse() if self._settings.stream else None
            self._receive(raw.http_response, stream, attempt.answer, timer)
            attempt.done_ns = time.monotonic_ns()
            attempt.body_bytes = raw.http_response.num_bytes_downloaded
        except (AttemptError, openai.OpenAIError, httpx2.HTTPError) as error:
            broken = from_sdk(error)
        finally:
            if stream is not None:
                stream.close()
        attempt.error = attempt.answer.failure(broken, ended=False)

    def _receive(
        self, response: httpx2.Response, stream: openai.Stream[object] | None, answer: StreamState, timer: DeadlineTimer
    ) -> None:
        """Read the answer, streamed or not; raises the SDK's exceptions."""
        pieces, start = response.iter_bytes(), b""
        if not content_type_of(response):
            with timer:
                start = next(pieces, b"")
            pieces = itertools.chain((start,), pieces)
        form = form_of_response(response, start)
        if form == "events" and stream is not None:
            self._read_stream(stream, SdkEvents(pieces, answer), timer)
        elif form == "error":
            with timer:
                answer.fail(error_of_response(response, b"".join(pieces)))
        else:
            with timer:
                answer.take_whole(b"".join(pieces))

    def _read_stream(self, stream: openai.Stream[object], events: SdkEvents, timer: DeadlineTimer) -> None:
        stream._decoder = events  # type: ignore[assignment]  # the SDK has no other place for a decoder
        while True:
            try:
                with timer:
                    chunk = next(stream, _END)
            finally:
                events.take()
            if chunk is _END:
                return


_END: Final = object()


def warm_up() -> None:
    """Run one answer through the SDK, so that its work at first use delays no request."""
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=_WARM_UP_STREAM)
    )
    with openai.OpenAI(
        base_url="http://warm.up/v1", api_key="none", http_client=httpx2.Client(transport=transport)
    ) as client:
        for chunk in client.chat.completions.create(model="", messages=[{"role": "user", "content": ""}], stream=True):
            chunk.to_dict()


def _headers(settings: ClientSettings) -> dict[str, Any]:
    """Return the settings' headers, and omit those that the SDK would read from the environment."""
    headers: dict[str, Any] = {
        "Accept-Encoding": "identity",
        "OpenAI-Organization": openai.Omit(),
        "OpenAI-Project": openai.Omit(),
    }
    if not settings.api_key:
        headers["Authorization"] = openai.Omit()
    given = checked_headers(settings.access.given_headers())
    unset = {name.lower() for name in given}
    return {name: value for name, value in headers.items() if name.lower() not in unset} | given
