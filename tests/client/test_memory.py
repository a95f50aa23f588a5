"""What hostile answers cost: the memory of eight of them at once, beside that of eight ordinary ones."""

from collections.abc import Iterator

import pytest

from llmload.client import ClientKind
from llmload.client.settings import Timeouts
from llmload.record import ErrorType
from tests.client.conftest import PatchedProcess
from tests.client.engine_streams import DONE, STOP, A
from tests.client.scripted_server import EVENTS_HEAD, ScriptedServer, Step, chunk, chunked
from tests.client.test_conformance import Serve, settings

USERS = 8
MOST_MB = 50
ENDLESS = 16
"""MB: more than a client may ever hold."""
PIECE = 65_536

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON_HEAD = HEAD % b"application/json"
ERROR_HEAD = b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def endless(text: bytes, *, framed: bool = True) -> list[Step]:
    """Return steps that send the text again and again."""
    piece = (text * (PIECE // len(text) + 1))[:PIECE]
    return [chunk(piece) if framed else piece] * (ENDLESS * 1_000_000 // PIECE)


def within(start: bytes, text: bytes, end: bytes, size: int) -> bytes:
    """Return the text again and again between start and end, as large as that."""
    return start + text * ((size - len(start) - len(end)) // len(text)) + end


LARGE = 2_000_000
"""Bytes: just within the limits."""
TOO_LARGE, PROTOCOL, NOT_JSON = ErrorType.TOO_LARGE, ErrorType.PROTOCOL, ErrorType.NOT_JSON
HOSTILE: dict[str, tuple[list[Step], ErrorType | None]] = {
    "endless JSON": ([JSON_HEAD, chunk(b'{"choices":["'), *endless(b"x")], TOO_LARGE),
    "endless JSON of lists": ([JSON_HEAD, chunk(b'{"choices":['), *endless(b"[],")], TOO_LARGE),
    "endless event": ([EVENTS_HEAD, chunk(b'data: {"a":"'), *endless(b"x")], TOO_LARGE),
    "endless comment": ([EVENTS_HEAD, chunk(b": "), *endless(b"x")], TOO_LARGE),
    "endless lines of one event": ([EVENTS_HEAD, *endless(b"data: ab\n")], TOO_LARGE),
    "endless empty lines of one event": ([EVENTS_HEAD, *endless(b"data\n")], TOO_LARGE),
    "endless words": ([EVENTS_HEAD, *endless(b"sorry\n"), chunked(b"\n")], TOO_LARGE),
    "endless head": ([b"HTTP/1.1 200 OK\r\nX-Long: ", *endless(b"x", framed=False)], PROTOCOL),
    "endless headers": ([b"HTTP/1.1 200 OK\r\n", *endless(b"X-A: b\r\n", framed=False)], PROTOCOL),
    "endless status line": ([b"HTTP/1.1 200 ", *endless(b"x", framed=False)], PROTOCOL),
    "endless trailers": ([EVENTS_HEAD, chunk(A), b"0\r\nX-A: ", *endless(b"x", framed=False)], PROTOCOL),
    "endless extension of a chunk": ([EVENTS_HEAD, b"5;", *endless(b"x", framed=False)], PROTOCOL),
    "endless error": ([ERROR_HEAD, *endless(b"sorry ")], ErrorType.HTTP_SERVER_ERROR),
    "endless page": ([HEAD % b"text/html", *endless(b"<p>sorry")], ErrorType.CONTENT_TYPE),
    "endless usage": (
        [EVENTS_HEAD, chunked(within(b'data: {"choices":[],"usage":{"a":[', b"1.5,", b"1]}}\n\n", 700_000), A, STOP)],
        None,
    ),
    "300,000 tiny events": ([EVENTS_HEAD, *[chunk(A * 1_000)] * 300, chunked(STOP, DONE)], TOO_LARGE),
    "a large event of objects": ([EVENTS_HEAD, chunked(within(b"data: [", b"{},", b"{}]\n\n", LARGE))], TOO_LARGE),
    "a large event within the limit of values": (
        [EVENTS_HEAD, chunked(within(b"data: [", b'{"a":1},', b"{}]\n\n", 700_000))],
        NOT_JSON,
    ),
    "a large string": ([EVENTS_HEAD, chunked(within(b'data: "', b"\xf0\x9f\x98\x80", b'"\n\n', LARGE))], NOT_JSON),
    "a large object of one string": (
        [JSON_HEAD, chunked(within(b'{"error":"', b"no ", b'"}', LARGE))],
        ErrorType.ENGINE_ERROR,
    ),
    "deep nesting": ([EVENTS_HEAD, chunked(within(b"data: ", b"[", b"\n\n", 190_000))], NOT_JSON),
    "deep objects": ([JSON_HEAD, chunked(within(b"", b'{"error":', b"1", 700_000))], NOT_JSON),
    "a huge number": (
        [EVENTS_HEAD, chunked(within(b'data: {"choices":[],"usage":{"completion_tokens":', b"9", b"}}\n\n", LARGE))],
        ErrorType.INCOMPLETE,
    ),
    "huge fields that are not known": (
        [
            EVENTS_HEAD,
            *[chunk(b'data: {"%b%d":"x"}\n\n' % (b"k" * 60_000, number)) for number in range(100)],
            chunked(),
        ],
        ErrorType.UNKNOWN_TEXT,
    ),
    "a huge finish_reason": (
        [EVENTS_HEAD, chunked(A, within(b'data: {"choices":[{"finish_reason":"', b"y", b'"}]}\n\n', LARGE))],
        None,
    ),
    "choices without number": (
        [
            EVENTS_HEAD,
            *[chunk(b'data: {"choices":[{"index":%d}]}\n\n' % number) for number in range(1_100)],
            chunked(DONE),
        ],
        NOT_JSON,
    ),
}
SLOW_IN_THE_SDK = {"300,000 tiny events"}
"""It takes 0.1 ms an event."""


ORDINARY: list[Step] = ["read", EVENTS_HEAD, chunked(*[A] * 200, STOP, DONE)]


@pytest.fixture(scope="module")
def measured() -> Iterator[PatchedProcess]:
    """A patched process whose memory is that of these tests, measured from that of ordinary answers on."""
    process, server = PatchedProcess(), ScriptedServer([ORDINARY])
    process("peak_of", settings(server), "wire", at_once=USERS)
    server.close()
    yield process
    process.close()


@pytest.mark.parametrize("kind", ["wire", "openai"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_costs_no_more_memory_than_an_ordinary_one(
    kind: ClientKind, name: str, serve: Serve, measured: PatchedProcess
) -> None:
    steps, error = HOSTILE[name]
    if kind == "openai" and name in SLOW_IN_THE_SDK:
        steps, error = [EVENTS_HEAD, chunked(*[A] * 1_000, STOP)], None
    hostile = settings(serve(["read", *steps]), timeouts=Timeouts(total_s=60))

    records, most_mb = measured("peak_of", hostile, kind, at_once=USERS)

    assert [record.error and record.error.type for record in records] == [error] * USERS
    assert most_mb < MOST_MB
