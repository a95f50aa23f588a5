"""The trial of stamps on networks: what its capture says, and one row."""

import json
from pathlib import Path

import pytest

from benchmarks.tools.truth_engine.engine import Schedule
from benchmarks.trials.network.capture import HEAD, OPENS, SENT, Captured, departures_off_us, differences_us
from benchmarks.trials.network.rows import Row
from benchmarks.trials.network.trial import run_row
from llmload.record import StampSource
from tests.best_stamps import BEST_STAMPS

CLIENT, ENGINE = 40_000, 8_000


def chunk(text: str) -> bytes:
    delta = json.dumps({"content": text}, separators=(",", ":"))
    return b'"delta":%b,"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n' % delta.encode()


def test_a_capture_is_evaluated_as_the_stack_would_deliver(tmp_path: Path) -> None:
    """The second segment comes late and the third twice; numbers wrap."""
    head, first, second = b"HTTP/1.1 200 OK\r\n\r\n" + chunk("a"), chunk("b")[:20], chunk("b")[20:] + chunk("c")
    begin = 2**32 - 10
    places = [begin, begin + len(head), begin + len(head) + len(first)]
    request = b"POST / HTTP/1.1\r\nX-Request-Id: one\r\n\r\n"
    packets = [
        (1_000, CLIENT, 7, True, request),
        (2_000, ENGINE, places[0], False, head),
        (3_000, ENGINE, places[2] % 2**32, False, second),
        (4_000, ENGINE, places[1] % 2**32, False, first),
        (5_000, ENGINE, places[2] % 2**32, False, second),
    ]
    file = tmp_path / "capture"
    file.write_bytes(
        b"".join(
            HEAD.pack(stamp_ns, source, CLIENT + ENGINE - source, sequence, sent, len(payload)) + payload
            for stamp_ns, source, sequence, sent, payload in packets
        )
    )

    captured = Captured(file)
    assert captured.chunk_ns == {"one": [2_000, 4_000, 4_000]}
    record = {"request_id": "one", "chunk_ns": [2_000, 4_000, 9_000], "wire_sent_ns": 1_500}
    assert differences_us(captured, [record]) == [0, 0, 5]
    assert departures_off_us(captured, [record]) == [0.5]


def test_connections_with_the_same_ports_are_evaluated_one_by_one(tmp_path: Path) -> None:
    """Their sequence numbers have nothing to do with each other: together they would be an answer of gigabytes."""
    head, file = b"HTTP/1.1 200 OK\r\n\r\n", tmp_path / "capture"
    packets = []
    for name, moment_ns, sequence in (("one", 1_000, 7), ("two", 9_000, 2**31)):
        request = b"POST / HTTP/1.1\r\nX-Request-Id: %b\r\n\r\n" % name.encode()
        packets += [
            (moment_ns, CLIENT, sequence, SENT | OPENS, b""),
            (moment_ns + 100, ENGINE, sequence, OPENS, b""),
            (moment_ns + 200, CLIENT, sequence + 1, SENT, request),
            (moment_ns + 300, ENGINE, sequence + 1, 0, head + chunk("a")),
        ]
    file.write_bytes(
        b"".join(
            HEAD.pack(stamp_ns, source, CLIENT + ENGINE - source, sequence, kind, len(payload)) + payload
            for stamp_ns, source, sequence, kind, payload in packets
        )
    )

    assert Captured(file).chunk_ns == {"one": [1_300], "two": [9_300]}


@pytest.mark.skipif(BEST_STAMPS is not StampSource.PACKET, reason="needs CAP_NET_RAW")
def test_a_row(tmp_path: Path) -> None:
    row = Row(name="small", schedule=Schedule(tokens=20, gap_s=0.005), users=4, turns=3, ramp_s=0.02, turnaround=False)
    result = run_row(row, tmp_path)
    assert (result.cells["answers"], result.cells["compared"]) == ("12/12", "240")
    assert not result.cells["dropped"].strip("0")
