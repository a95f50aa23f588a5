"""One GET: credentials stay at their origin, a slow or long answer is not read without end."""

import contextlib
import http.client
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError

import pytest

from llmload.fetch import AnswerTooLongError, RedirectError, http_get

KEY = {"Authorization": "Bearer key"}


class Server(socketserver.ThreadingTCPServer):
    """Gives every connection the same answer, `pause_s` after each byte of it, and keeps the requests' heads."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, answer: bytes, pause_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.pause_s = answer, pause_s
        self.heads: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.rfile.readline()
        self.server.heads.append(head.decode())
        if not self.server.pause_s:
            self.wfile.write(self.server.answer)
            return
        for at in range(len(self.server.answer)):
            self.wfile.write(self.server.answer[at : at + 1])
            time.sleep(self.server.pause_s)


@contextmanager
def serving(answer: bytes, pause_s: float = 0.0) -> Iterator[Server]:
    with Server(answer, pause_s) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def redirect(to: str, status: int = 307) -> bytes:
    return f"HTTP/1.1 {status} Elsewhere\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


def get(url: str, *, timeout_s: float = 5.0, max_bytes: int = 1000) -> bytes:
    return http_get(url, headers=KEY, timeout_s=timeout_s, max_bytes=max_bytes).body


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["{other}/there?key=1", "//{address}/there", "{other}"])
def test_a_redirect_to_another_origin_is_not_followed(status: int, to: str) -> None:
    with serving(ok(b"there")) as other:
        target = to.format(other=other.url, address=other.url.removeprefix("http://"))
        with serving(redirect(target, status)) as server:
            with pytest.raises(RedirectError) as refused:
                get(server.url)
            assert refused.value.target.startswith(other.url)
            assert "key=1" not in refused.value.target
            assert refused.value.code == status
            assert "Authorization: Bearer key" in server.heads[0]
        assert other.heads == []


@pytest.mark.parametrize("to", ["https://127.0.0.1:{port}/", "http://localhost:{port}/", "http://127.0.0.1:99999/"])
def test_another_scheme_or_name_is_another_origin(to: str) -> None:
    with serving(ok(b"")) as server:
        server.answer = redirect(to.format(port=server.server_address[1]))
        with pytest.raises(RedirectError, match="which is not followed"):
            get(server.url)
        assert len(server.heads) == 1


def test_a_password_in_a_redirect_is_not_shown() -> None:
    answer = redirect("http://me:hunter2@other.example/?token=hunter2")
    with serving(answer) as server, pytest.raises(RedirectError) as refused:
        get(server.url)
    assert "hunter2" not in f"{refused.value} {refused.value.target}"


def test_a_redirect_within_the_origin_keeps_them() -> None:
    with serving(redirect("/again")) as server:
        with pytest.raises(HTTPError, match="redirect"):
            get(server.url)
        assert len(server.heads) > 1
        assert all("Authorization: Bearer key" in head for head in server.heads)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_only_http_is_followed_and_opened(to: str) -> None:
    with serving(redirect(to)) as server, pytest.raises(URLError):
        get(server.url)
    with pytest.raises(URLError, match="unknown url type"):
        get(to)


@pytest.mark.parametrize(
    "answer", [ok(b"slow" * 100), b"HTTP/1.1 200 OK\r\nX-Slow: " + b"w" * 400], ids=["body", "head"]
)
def test_an_answer_that_drips_ends_at_the_deadline(answer: bytes) -> None:
    with serving(answer, pause_s=0.02) as server:
        begun_s = time.monotonic()
        with pytest.raises(TimeoutError):
            get(server.url, timeout_s=0.3)
        assert time.monotonic() - begun_s < 1.0


def test_a_name_of_many_addresses_that_do_not_answer_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(3):  # as many as wait to be accepted: the next gets no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        found = socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found * 5)
        begun_s = time.monotonic()
        with pytest.raises((TimeoutError, URLError)):
            get(f"http://many.example:{port}/", timeout_s=0.3)

    assert 0.2 < time.monotonic() - begun_s < 1.0


def test_the_second_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(ok(b"here")) as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        ports = [unused.getsockname()[1], server.server_address[1]]
        found = [each for port in ports for each in socket.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

        assert get("http://two.example/") == b"here"


def test_redirects_do_not_lengthen_the_deadline() -> None:
    with serving(redirect("/again"), pause_s=0.002) as server:
        begun_s = time.monotonic()
        with pytest.raises(TimeoutError):
            get(server.url, timeout_s=0.3)
        assert time.monotonic() - begun_s < 1.0


def test_an_answer_that_is_too_long_is_refused() -> None:
    with serving(ok(b"x" * 1001)) as server, pytest.raises(AnswerTooLongError, match="more than 1000 bytes"):
        get(server.url)
    with serving(ok(b"x" * 1000)) as server:
        assert get(server.url) == b"x" * 1000


def test_what_is_not_http_is_said() -> None:
    with serving(b"220 smtp ready\r\n") as server, pytest.raises(http.client.HTTPException):
        get(server.url)
