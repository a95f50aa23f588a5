"""HTTP/1.1 over one socket: requests one after another, answers that may go wrong on the wire."""

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


class Request:
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
        """X-Request-Id as the client sent it."""
        return self.headers.get("x-request-id")

    def truth(self) -> dict[str, Any]:
        """What the truth log says of a request as such."""
        return {"request_id": self.request_id, "path": self.path, "received_ns": self.received_ns}


class Connection(asyncio.Protocol):
    """
    Reads requests, hands them to `handle` one at a time, writes what it is told to.

    `left` is called when the client is gone while a request was being answered.
    """

    def __init__(
        self, server: str, handle: "Callable[[Request, Connection], None]", left: "Callable[[Connection], None]"
    ) -> None:
        self._server = server
        self._handle = handle
        self._left = left
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[Request] = deque()
        self._answering: Request | None = None
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._read_ns = 0
        self.write: Callable[[bytes], None] = _nowhere

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Small writes leave at once (TCP_NODELAY)."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio gives a TCP protocol
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self.write = transport.write

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Whatever is still written goes nowhere."""
        self._transport = None
        self.write = _nowhere
        self._queue.clear()
        self._left(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is no HTTP is answered with 400 and a closed connection."""
        self._read_ns = monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # not the client's fault: asyncio prints it and closes the connection
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.close()

    def on_message_begin(self) -> None:
        """A new request begins."""
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """A client that asks first is told to send its body."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The request is complete: answer it, after those before it."""
        method = self._parser.get_method().decode("latin-1")
        path = self._url.decode("latin-1").partition("?")[0]
        request = Request(method, path, self._headers, self._parser.should_keep_alive(), self._read_ns)
        request.body = b"".join(self._body)
        self._queue.append(request)
        if self._answering is None:
            self._next()

    def reply(
        self, request: Request, status: int, body: bytes, kind: str = "application/json", more: tuple[Header, ...] = ()
    ) -> None:
        """Answer with one body."""
        self.write(self._head(request, status, kind, (("content-length", str(len(body))), *more)) + body)
        self.end_reply(request)

    def begin_stream(self, request: Request) -> None:
        """Write the head of an event stream; its chunks follow by `write`, then `end_reply`."""
        self.write(self._head(request, 200, "text/event-stream; charset=utf-8", (("transfer-encoding", "chunked"),)))

    def begin_whole(self, request: Request, body: bytes, *, chunked: bool) -> None:
        """Write the head and half of the body of an answer that will break; `chunked`: a length that is no number."""
        if chunked:
            head = self._head(request, 200, "application/json", (("transfer-encoding", "chunked"),))
            self.write(head + b"zz\r\n" + body)
        else:
            head = self._head(request, 200, "application/json", (("content-length", str(len(body))),))
            self.write(head + body[: len(body) // 2])

    def end_reply(self, request: Request) -> None:
        """The answer is complete: take the next request, or close."""
        self._answering = None
        if request.close_after or not request.keep_alive:
            self.close()
        else:
            self._next()

    def close(self) -> None:
        """Close after what was written has left."""
        self._queue.clear()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Close so that the client sees a reset: a socket that lingers for no time sends RST."""
        if self._transport is not None:
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._transport.abort()

    def _next(self) -> None:
        if self._queue:
            self._answering = self._queue.popleft()
            self._handle(self._answering, self)

    def _head(self, request: Request, status: int, kind: str, more: tuple[Header, ...]) -> bytes:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"server: {self._server}", f"content-type: {kind}"]
        lines += [f"{name}: {value}" for name, value in more]
        if request.request_id is not None:
            lines.append(f"x-request-id: {request.request_id}")
        lines.append("connection: keep-alive" if request.keep_alive else "connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _nowhere(data: bytes) -> None:
    """Where writes go when the client has left."""
