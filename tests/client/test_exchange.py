"""An answer that comes faster than it is understood waits in the kernel."""

import select
import socket
from collections.abc import Iterator
from typing import Any, cast

import orjson
import pytest

from llmload.client.api import ChatStream
from llmload.client.connection import Connection, ReceiveClock
from llmload.client.http_request import HttpRequest
from llmload.client.reactor import Reactor
from llmload.client.settings import FOREVER_NS, Limits, Timeouts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": "ab"}}]}) + b"\n\n"
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


class Noting:
    """A reactor that keeps what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.asked.append(name)


@pytest.fixture
def exchange() -> Iterator[HttpRequest]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        limits = Limits(Timeouts(), 0, stream=True)
        yield HttpRequest(Connection(ours, ReceiveClock()), cast("Reactor", Noting()), ChatStream(), limits)


def asked(exchange: HttpRequest) -> list[str]:
    return cast("Noting", exchange._reactor).asked


def stamped(data: bytes) -> Any:
    return data, [(1, 37, bytes(48))], 0, None


def keep(exchange: HttpRequest, reads: int) -> None:
    """Keep reads as the reactor does with those of a steady stream."""
    response = exchange.response
    for _ in range(reads):
        response.reads.append(CHUNK)
        response.read_stamps.append(5)
        response.waiting_bytes += len(CHUNK)
        if response.waiting_bytes > response.enough_bytes:
            exchange.on_enough()


def test_a_stream_is_steady_once_its_small_stamped_reads_are_chunks(exchange: HttpRequest) -> None:
    exchange.on_ready(select.EPOLLIN, stamped(HEAD[:20]))
    before = exchange.response.steady
    exchange.on_ready(select.EPOLLIN, stamped(HEAD[20:]))

    assert (before, exchange.response.steady) == (False, True)

    exchange.on_ready(select.EPOLLIN, stamped(CHUNK * 6))
    assert not exchange.response.steady, "the next read asks for more"


def test_a_read_that_fills_what_was_asked_for_asks_for_more_until_reads_are_small_again(exchange: HttpRequest) -> None:
    connection = exchange.connection
    exchange.on_ready(select.EPOLLIN, stamped(HEAD))
    exchange.on_ready(select.EPOLLIN, stamped((CHUNK * 10)[: connection.asked]))

    assert not exchange.response.steady

    exchange.on_ready(select.EPOLLIN, stamped((CHUNK * 10)[479:500]))
    assert exchange.response.steady


def test_what_is_kept_is_understood_once_there_is_enough_and_read_no_more_where_there_is_much(
    exchange: HttpRequest,
) -> None:
    exchange.on_ready(select.EPOLLIN, stamped(HEAD))

    keep(exchange, reads=20_000 // len(CHUNK))
    assert asked(exchange) == ["decode_later"]
    keep(exchange, reads=60_000 // len(CHUNK))
    assert asked(exchange) == ["decode_later", "pause"]

    assert exchange.decode(FOREVER_NS)
    assert asked(exchange)[2:] == ["resume"]
    assert len(exchange.answer.chunk_ns) == 20_000 // len(CHUNK) + 60_000 // len(CHUNK)
    assert (exchange.response.waiting_bytes, exchange.response.arrived_ns) == (0, 5)


def test_a_stream_that_waits_in_the_kernel_stays_there_when_its_request_is_written(exchange: HttpRequest) -> None:
    exchange.on_ready(select.EPOLLIN, stamped(HEAD))
    keep(exchange, reads=80_000 // len(CHUNK))

    exchange.on_ready(select.EPOLLOUT, stamped(CHUNK))

    assert asked(exchange) == ["decode_later", "pause", "pause"]
