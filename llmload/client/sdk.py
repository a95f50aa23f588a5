"""The `openai` SDK as a client: the library that applications use, with its costs, and stamps by this process."""

import itertools
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final

import gevent
import httpcore2
import httpx2
import openai
from httpcore2._backends.sync import SyncStream

from llmload.client.api import ChatApi, StreamState
from llmload.client.client import Attempt, ChatClient, RequestInfo, Send
from llmload.client.errors import (
    AttemptError,
    error_in_object,
    from_connect_error,
    from_status,
    request_error,
    wrong_content_type,
)
from llmload.client.settings import FOREVER_NS, ClientSettings, Deadline, checked_headers, tls_context
from llmload.client.transport import Dialer, endpoint_of, proxy_url
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


def _watch(request: httpx2.Request) -> None:
    """Have the HTTP library report its steps to the timer of the greenlet's request."""
    request.extensions["trace"] = _current_timer.get().on_event


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


_BROKEN = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError)


def from_sdk(error: Exception) -> RequestError:
    """Return the error that an exception of the SDK or its HTTP library means."""
    if isinstance(error, openai.APIStatusError):
        return _from_response(error.response)
    if isinstance(error, (openai.APIConnectionError, httpx2.HTTPError)):
        return _from_transport(error)
    if isinstance(error, openai.APIError):
        return error_in_object({"error": error.body or error.message}) or request_error(
            ErrorType.ENGINE_ERROR, error.message, http_status=200
        )
    if isinstance(error, ValueError):
        return request_error(ErrorType.NOT_JSON, f"not JSON: {error}")
    return request_error(ErrorType.CLIENT, repr(error))


def error_in_response(response: httpx2.Response) -> RequestError | None:
    """Return the error of a response with another status or content type than requested, or None."""
    if response.status_code != 200:
        response.read()
        return _from_response(response)
    content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in ("", "text/event-stream", "application/json") or content_type.endswith("+json"):
        return None
    return wrong_content_type(content_type, response.read())


def _from_response(response: httpx2.Response) -> RequestError:
    try:
        body = response.content
    except httpx2.StreamError:
        body = b""
    return from_status(response.status_code, body, response.headers.get("retry-after"))


def _from_transport(error: Exception) -> RequestError:
    causes = list(_causes(error))
    where = error.request.url.netloc.decode() if isinstance(error, openai.APIConnectionError) else "the engine"
    for cause in causes:
        if isinstance(cause, (socket.gaierror, ssl.SSLError, ConnectionRefusedError)):
            return from_connect_error(cause, where)
    for cause in causes:
        if isinstance(cause, httpx2.ConnectTimeout):
            return request_error(ErrorType.CONNECT_TIMEOUT, f"{where}: no connection in time")
        if isinstance(cause, (httpx2.ConnectError, httpx2.ProxyError)):
            return request_error(ErrorType.CONNECT_FAILED, f"{where}: {cause}")
        if isinstance(cause, _BROKEN):
            return request_error(ErrorType.RESET, f"the connection broke: {cause}")
        if isinstance(cause, httpx2.RemoteProtocolError):
            return _from_protocol(str(cause))
    return request_error(ErrorType.CONNECT_FAILED, f"{where}: {error}")


def _from_protocol(text: str) -> RequestError:
    if "without sending a response" in text:
        return request_error(ErrorType.RESET, "the connection was closed before an answer")
    if "peer closed connection" in text or "incomplete" in text:
        return request_error(ErrorType.INCOMPLETE, "the connection was closed within the answer")
    return request_error(ErrorType.PROTOCOL, f"not HTTP: {text}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


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
        self._headers = _headers(settings)
        self._urls = [_base_url(url) for url in settings.base_urls]
        self._own: tuple[int, Iterator[openai.OpenAI], list[openai.OpenAI]] | None = None

    def _sender(self, prompt: Prompt, salt: str | None) -> Send:
        clients = self._clients()
        salted = prompt if salt is None else prompt.salted(salt)
        return lambda request, attempt: self._send(next(clients), salted, request, attempt)

    def prepare(self, prompt: Prompt, *, salted: bool = False) -> None:
        """Do nothing: the SDK encodes every request itself, when it sends it."""

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
        proxied = proxy_url(endpoint_of(base_url, "openai-chat", "")) is not None
        return openai.OpenAI(
            base_url=base_url,
            api_key=settings.api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(None, connect=settings.timeouts.connect_s),
            http_client=openai.DefaultHttpxClient(
                verify=context,
                limits=_LIMITS,
                follow_redirects=False,
                transport=None if proxied else DirectTransport(context),
                event_hooks={"request": [_watch]},
            ),
        )

    def _send(self, client: openai.OpenAI, prompt: Prompt, request: RequestInfo, attempt: Attempt) -> None:
        timer = DeadlineTimer(attempt.deadline, attempt.answer)
        _current_timer.set(timer)
        fields = self._chat.fields(prompt)
        rest = {name: value for name, value in fields.items() if name not in _PASSED_BY_NAME}
        stream: openai.Stream[object] | None = None
        try:
            with timer:
                raw: Any = client.chat.completions.with_raw_response.create(
                    **{name: fields[name] for name in _PASSED_BY_NAME},
                    extra_headers={**self._headers, "X-Request-Id": request.request_id},
                    extra_body=rest or None,
                )
            attempt.stamp_source = StampSource.USER
            stream = raw.parse() if self._settings.stream else None
            self._receive(raw.http_response, stream, attempt.answer, timer)
            attempt.done_ns = time.monotonic_ns()
        except (openai.OpenAIError, httpx2.HTTPError, ValueError) as error:
            attempt.error = from_sdk(error)
        finally:
            if stream is not None:
                stream.close()
        if attempt.answer.error is not None:
            attempt.error = attempt.answer.error
        elif attempt.error is None and not attempt.answer.finished:
            attempt.error = request_error(ErrorType.INCOMPLETE, "the answer ended without a finish_reason")

    def _receive(
        self, response: httpx2.Response, stream: openai.Stream[object] | None, answer: StreamState, timer: DeadlineTimer
    ) -> None:
        """Read the answer, streamed or not; raises the SDK's exceptions."""
        with timer:
            error = error_in_response(response)
        if error is not None:
            answer.fail(error)
        elif stream is None or "json" in response.headers.get("content-type", ""):
            with timer:
                answer.take_whole(response.read())
        else:
            self._read_stream(stream, answer, timer)

    def _read_stream(self, stream: openai.Stream[object], answer: StreamState, timer: DeadlineTimer) -> None:
        while True:
            with timer:
                chunk = next(stream, None)
            if chunk is None:
                return
            answer.take_object(time.monotonic_ns(), chunk.to_dict() if isinstance(chunk, openai.BaseModel) else chunk)


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
    headers: dict[str, Any] = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
    if not settings.api_key:
        headers["Authorization"] = openai.Omit()
    given = checked_headers(settings.headers)
    unset = {name.lower() for name in given}
    return {name: value for name, value in headers.items() if name.lower() not in unset} | given


def _base_url(url: str) -> str:
    """Return the base URL with the API's prefix, as the SDK expects it."""
    endpoint = endpoint_of(url, "openai-chat", "")
    return f"{endpoint.scheme}://{endpoint.authority}{endpoint.target}"
