"""An answer that arrives faster than it is decoded waits in the kernel."""

import select
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from llmload.client.api import ChatStream
from llmload.client.clock import ReceiveClock
from llmload.client.connection import Connection
from llmload.client.http_request import HttpRequest
from llmload.client.reactor import Reactor
from llmload.client.settings import FOREVER_NS, Deadline, Timeouts

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": "ab"}}]}) + b"\n\n"
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


class RecordingReactor:
    """A reactor that records the calls of its methods."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.calls.append(name)


@pytest.fixture
def http_request() -> Iterator[HttpRequest]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        limits = Deadline(Timeouts(), 0, stream=True)
        yield HttpRequest(Connection(ours, ReceiveClock()), cast("Reactor", RecordingReactor()), ChatStream(), limits)


def calls(http_request: HttpRequest) -> list[str]:
    return cast("RecordingReactor", http_request._reactor).calls


def stamped(data: bytes) -> Any:
    return data, [(1, 37, bytes(48))], 0, None


def append(http_request: HttpRequest, reads: int) -> None:
    """Append reads as the reactor does on the fast path."""
    response = http_request.response
    for _ in range(reads):
        response.raw.append(CHUNK)
        response.raw_stamps.append(5)
        response.pending_bytes += len(CHUNK)
        if response.pending_bytes > response.decode_at_bytes:
            http_request.on_backlog()


def test_a_stream_takes_the_fast_path_once_its_reads_are_small_stamped_and_chunked(http_request: HttpRequest) -> None:
    http_request.on_ready(select.EPOLLIN, stamped(HEAD[:20]))
    before = http_request.response.fast_path
    http_request.on_ready(select.EPOLLIN, stamped(HEAD[20:]))

    assert (before, http_request.response.fast_path) == (False, True)

    http_request.on_ready(select.EPOLLIN, stamped(CHUNK * 6))
    assert not http_request.response.fast_path, "the next read asks for more"


def test_a_full_read_makes_the_next_ones_large_until_reads_are_small_again(
    http_request: HttpRequest,
) -> None:
    connection = http_request.connection
    http_request.on_ready(select.EPOLLIN, stamped(HEAD))
    http_request.on_ready(select.EPOLLIN, stamped((CHUNK * 10)[: connection.bufsize]))

    assert not http_request.response.fast_path

    http_request.on_ready(select.EPOLLIN, stamped((CHUNK * 10)[479:500]))
    assert http_request.response.fast_path


def test_pending_reads_are_queued_for_decoding_and_far_too_many_pause_the_stream(
    http_request: HttpRequest,
) -> None:
    http_request.on_ready(select.EPOLLIN, stamped(HEAD))

    append(http_request, reads=20_000 // len(CHUNK))
    assert calls(http_request) == ["decode_later"]
    append(http_request, reads=60_000 // len(CHUNK))
    assert calls(http_request) == ["decode_later", "pause"]

    assert http_request.decode(FOREVER_NS)
    assert calls(http_request)[2:] == ["resume"]
    assert len(http_request.answer.chunk_ns) == 20_000 // len(CHUNK) + 60_000 // len(CHUNK)
    assert (http_request.response.pending_bytes, http_request.response.arrived_ns) == (0, 5)


def test_a_paused_stream_stays_paused_when_its_request_is_written(http_request: HttpRequest) -> None:
    http_request.on_ready(select.EPOLLIN, stamped(HEAD))
    append(http_request, reads=80_000 // len(CHUNK))

    http_request.on_ready(select.EPOLLOUT, stamped(CHUNK))

    assert calls(http_request) == ["decode_later", "pause", "pause"]


def test_the_time_of_segments_in_the_middle_of_an_answer_is_theirs_alone(http_request: HttpRequest) -> None:
    """An engine is read promptly for good where it seems slow: with TLS ten gaps were once taken for one."""
    pieces, stamps_ns = [HEAD, *[CHUNK] * 9], [number * 10_000_000 for number in range(10)]
    tap = SimpleNamespace(cut=lambda *_: (pieces, stamps_ns, True))
    noted: list[Any] = []
    reactor = cast("RecordingReactor", http_request._reactor)
    reactor.on_segments = lambda _, *segments: noted.append(segments)  # type: ignore[attr-defined]
    http_request.connection.tap = cast("Any", tap)

    http_request.on_bulk(b"".join(pieces), 1)
    http_request.decode(FOREVER_NS)

    [(sizes, _, span_ns)] = noted
    assert sizes == [len(CHUNK)] * 4, "two at the beginning and four at the end are not of the middle"
    assert span_ns == 4 * 10_000_000
