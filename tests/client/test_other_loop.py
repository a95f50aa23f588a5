"""Reading without gevent: an answer on asyncio, by the same reactor, stamps and decoders."""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from llmload.client.answer import StreamState
from llmload.client.api import ChatStream
from llmload.client.connection import Connection, enable_timestamps
from llmload.client.http_request import HttpRequest
from llmload.client.reactor import Reactor
from llmload.client.settings import Deadline, Stamps, Timeouts
from tests.best_stamps import EXPECTED
from tests.client.engine_streams import DONE, word
from tests.client.scripted_server import EVENTS_HEAD, ScriptedServer, chunk


class AsyncioLoop:
    """The running loop of asyncio, as a reactor needs it."""

    foreign = False

    def timer(self, every_s: float, callback: Callable[[], None]) -> "Repeated":
        """Return a timer that calls back at this interval."""
        return Repeated(every_s, callback)

    def readable(self, fd: int, callback: Callable[[], None]) -> "Readable":
        """Return a watch that calls back while the descriptor can be read."""
        return Readable(fd, callback)

    def waiting(self) -> "Waiting":
        """Return a wait for the calling task."""
        return Waiting()


class Repeated:
    """Calls back at an interval while it is started."""

    def __init__(self, every_s: float, callback: Callable[[], None]) -> None:
        self._every_s = every_s
        self._callback = callback
        self._next: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Call back from now on."""
        self._next = asyncio.get_running_loop().call_later(self._every_s, self._call)

    def _call(self) -> None:
        self.start()
        self._callback()

    def stop(self) -> None:
        """Do not call back until the next start."""
        if self._next is not None:
            self._next.cancel()

    close = stop


class Readable:
    """Calls back while a descriptor can be read."""

    def __init__(self, fd: int, callback: Callable[[], None]) -> None:
        self._fd = fd
        self._callback = callback

    def start(self) -> None:
        """Call back from now on."""
        asyncio.get_running_loop().add_reader(self._fd, self._callback)

    def stop(self) -> None:
        """Do not call back until the next start."""
        asyncio.get_running_loop().remove_reader(self._fd)

    close = stop


class Waiting:
    """One wait of a task, which awaits `ended` instead of calling `wait`."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def wait(self) -> None:
        """Not for tasks."""
        raise NotImplementedError

    def wake(self) -> None:
        """Let the wait end."""
        self.ended.set()


async def answer_to(server: ScriptedServer, stamps: Stamps) -> tuple[StreamState, HttpRequest]:
    """Return the answer to one request on the asyncio loop."""
    with closing(Reactor(AsyncioLoop(), stamps)) as reactor:
        sock = socket.socket()
        address = ("127.0.0.1", server.port)
        if reactor.tap is not None:
            reactor.tap.before_connect(sock, address)
        sock.connect(address)
        sock.setblocking(False)
        tap = None if reactor.tap is None else reactor.tap.connected(sock)
        if tap is None and stamps != "user":
            enable_timestamps(sock)
        connection, waiting = Connection(sock, reactor.clock, tap=tap), Waiting()
        deadline = Deadline(Timeouts(total_s=20), time.monotonic_ns(), stream=True)
        request = HttpRequest(connection, reactor, ChatStream(), deadline)
        request.start(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", waiting)
        await asyncio.wait_for(waiting.ended.wait(), 20)
        connection.close()
        return request.answer, request


@pytest.mark.parametrize("stamps", ["auto", "socket", "user"])
def test_an_answer_is_read_on_asyncio(stamps: Stamps, serve: Callable[..., ScriptedServer]) -> None:
    first, last = EVENTS_HEAD + chunk(word("a")), chunk(word("c", "stop")) + chunk(DONE) + b"0\r\n\r\n"
    server = serve(["read", first, 0.1, chunk(word("b")), 0.1, last, "hold"])

    answer, request = asyncio.run(answer_to(server, stamps))

    assert (request.error, answer.finish_reason) == (None, "stop")
    gaps_s = [(b - a) / 1e9 for a, b in zip(answer.chunk_ns, answer.chunk_ns[1:], strict=False)]
    assert gaps_s == pytest.approx([0.1, 0.1], abs=0.05)
    assert request.stamp_source is EXPECTED[stamps]
