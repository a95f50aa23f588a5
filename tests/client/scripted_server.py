"""A server that plays given bytes at given times, on separate threads, and remembers what it received."""

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

Step = bytes | float | str
"""Bytes are sent, seconds are waited; `read` takes a request, `hold` waits for the end, `reset` breaks the connection,
`tunnel PORT` carries bytes to a port."""


def chunked(*pieces: bytes) -> bytes:
    """Return pieces in HTTP's chunked framing, its end included."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def chunk(piece: bytes) -> bytes:
    """Return one piece in HTTP's chunked framing."""
    return b"%x\r\n%s\r\n" % (len(piece), piece)


EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(body: bytes, status: str = "200 OK", content_type: str = "application/json", more: str = "") -> bytes:
    """Return a response whose length is given."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


@dataclass
class ScriptedServer:
    """
    Plays one script per connection, the last one for every further connection.

    `requests` are the requests read, `sent_ns` the monotonic moments at which bytes were handed to the kernel.
    """

    scripts: Sequence[Sequence[Step]]
    family: socket.AddressFamily = socket.AF_INET
    tls: ssl.SSLContext | None = None
    requests: list[bytes] = field(default_factory=list)
    sent_ns: list[int] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(
            ("::1" if self.family is socket.AF_INET6 else "127.0.0.1", 0), family=self.family, backlog=512
        )
        self._open: list[socket.socket] = []
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """The base URL."""
        host = "[::1]" if self.family is socket.AF_INET6 else "127.0.0.1"
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(2)
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(2)

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self.scripts[min(self.connections, len(self.scripts) - 1)]
            self.connections += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(sock)
            thread = threading.Thread(target=self._play, args=(sock, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, sock: socket.socket, script: Sequence[Step]) -> None:
        with contextlib.suppress(OSError):
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self._open.append(sock)
            for step in script:
                self._do(sock, step)
            sock.close()

    def _do(self, sock: socket.socket, step: Step) -> None:
        if isinstance(step, bytes):
            self.sent_ns.append(time.monotonic_ns())
            sock.sendall(step)
        elif isinstance(step, float):
            time.sleep(step)
        elif step == "read":
            self.requests.append(read_request(sock))
        elif step == "hold":
            while sock.recv(65536):
                pass
        elif step.startswith("tunnel "):
            carry(sock, int(step.removeprefix("tunnel ")))
        elif step == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def read_request(sock: socket.socket) -> bytes:
    """Return one request; raises `OSError` if the connection ends before it is complete."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    parts = [body]
    missing = length - len(body)
    while missing > 0:
        parts.append(_more(sock))
        missing -= len(parts[-1])
    return head + b"\r\n\r\n" + b"".join(parts)


def carry(sock: socket.socket, port: int) -> None:
    """Carry bytes between a connection and a port of this machine until either ends."""
    with socket.create_connection(("127.0.0.1", port)) as other:
        while True:
            for ready in select.select([sock, other], [], [])[0]:
                data = ready.recv(65536)
                if not data:
                    return
                (other if ready is sock else sock).sendall(data)


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 20)
    if not data:
        raise ConnectionResetError
    return data
