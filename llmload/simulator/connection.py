"""HTTP/1.1 on one socket: requests one after another, and answers that may break on the wire."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic_ns
from typing import Any

import httptools

Header = tuple[str, str]


class ReceivedRequest:
    """One HTTP request; `received_ns` is CLOCK_MONOTONIC when its last byte was read."""

    __slots__ = ("body", "close_after", "headers", "keep_alive", "method", "path", "received_ns")

    def __init__(self, method: str, path: str, headers: dict[str, str], keep_alive: bool, received_ns: int) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.keep_alive = keep_alive
        self.received_ns = received_ns
        self.body = b""
        self.close_after = False

    @property
    def request_id(self) -> str | None:
        """The client's X-Request-Id."""
        return self.headers.get("x-request-id")

    def truth_fields(self) -> dict[str, Any]:
        """Return the request's own fields of the truth log."""
        return {"request_id": self.request_id, "path": self.path, "received_ns": self.received_ns}


class ServerConnection(asyncio.Protocol):
    """
    Reads requests, passes them to `handle` one at a time, and writes the answers.

    `on_disconnect` is called when the connection is lost, also while a request is being answered.
    """

    def __init__(
        self,
        server: str,
        handle: "Callable[[ReceivedRequest, ServerConnection], None]",
        on_disconnect: "Callable[[ServerConnection], None]",
    ) -> None:
        self._server = server
        self._handle = handle
        self._on_disconnect = on_disconnect
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[ReceivedRequest] = deque()
        self._answering: ReceivedRequest | None = None
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._read_ns = 0
        self.write: Callable[[bytes], None] = _discard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send small writes at once (TCP_NODELAY)."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio gives a TCP protocol
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self.write = transport.write

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Discard further writes."""
        self._transport = None
        self.write = _discard
        self._queue.clear()
        self._on_disconnect(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; bytes that are not HTTP are answered with 400 and a closed connection."""
        self._read_ns = monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # not the client's fault: asyncio prints it and closes the connection
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.close()

    def on_message_begin(self) -> None:
        """Begin a new request."""
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Answer `Expect: 100-continue`."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer the complete request, after those before it."""
        method = self._parser.get_method().decode("latin-1")
        path = self._url.decode("latin-1").partition("?")[0]
        request = ReceivedRequest(method, path, self._headers, self._parser.should_keep_alive(), self._read_ns)
        request.body = b"".join(self._body)
        self._queue.append(request)
        if self._answering is None:
            self._next()

    def reply(
        self,
        request: ReceivedRequest,
        status: int,
        body: bytes,
        content_type: str = "application/json",
        extra_headers: tuple[Header, ...] = (),
    ) -> None:
        """Answer with one body."""
        self.write(
            self._head(request, status, content_type, (("content-length", str(len(body))), *extra_headers)) + body
        )
        self.end_reply(request)

    def begin_stream(self, request: ReceivedRequest) -> None:
        """Write the head of an event stream; its chunks follow by `write`, then `end_reply`."""
        self.write(self._head(request, 200, "text/event-stream; charset=utf-8", (("transfer-encoding", "chunked"),)))

    def begin_broken(self, request: ReceivedRequest, body: bytes, *, chunked: bool) -> None:
        """Write the head of an answer and half of its body, or, `chunked`, a chunk size that is not a number."""
        if chunked:
            head = self._head(request, 200, "application/json", (("transfer-encoding", "chunked"),))
            self.write(head + b"zz\r\n" + body)
        else:
            head = self._head(request, 200, "application/json", (("content-length", str(len(body))),))
            self.write(head + body[: len(body) // 2])

    def end_reply(self, request: ReceivedRequest) -> None:
        """Finish the answer: take the next request, or close."""
        self._answering = None
        if request.close_after or not request.keep_alive:
            self.close()
        else:
            self._next()

    def close(self) -> None:
        """Close once all written bytes are sent."""
        self._queue.clear()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Close with a reset: a socket with SO_LINGER 0 sends RST."""
        if self._transport is not None:
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()

    def _next(self) -> None:
        if self._queue:
            self._answering = self._queue.popleft()
            self._handle(self._answering, self)

    def _head(
        self, request: ReceivedRequest, status: int, content_type: str, extra_headers: tuple[Header, ...]
    ) -> bytes:
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"server: {self._server}",
            f"content-type: {content_type}",
        ]
        lines += [f"{name}: {value}" for name, value in extra_headers]
        if request.request_id is not None:
            lines.append(f"x-request-id: {request.request_id}")
        lines.append("connection: keep-alive" if request.keep_alive else "connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _discard(data: bytes) -> None:
    """Take the writes for a client that has disconnected."""
