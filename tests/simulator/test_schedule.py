"""Tokens come when the formulas say: never early, late only by what the machine takes, lateness never adds up."""

import itertools
import json
import statistics
import threading
import time
from typing import Any

import pytest

from tests.simulator.conftest import Client, StartEngine

MS = 1_000_000


@pytest.fixture(scope="module")
def steady(start: StartEngine) -> Client:
    return start(
        ttft_s=0.05, prefill_s_per_token=0.001, itl_s=0.01, itl_load_factor=0.0, output_tokens=40, log_chunks=True
    )


def test_the_truth_log_has_the_stated_times_to_the_nanosecond(steady: Client) -> None:
    for _ in range(3):
        steady.chat("x" * 64)

    for row in steady.truth(3):
        assert row["prompt_tokens"] == 4 + 16
        assert row["admitted_ns"] == row["received_ns"]
        assert row["first_due_ns"] - row["received_ns"] == (50 + 20) * MS
        late_ns = [at - row["first_due_ns"] - k * 10 * MS for k, at in enumerate(row["chunk_ns"])]
        assert min(late_ns) >= 0
        assert statistics.median(late_ns) < 1 * MS
        assert row["max_late_ns"] == max(late_ns)


def test_a_client_sees_the_stated_first_token_time_and_gaps(steady: Client) -> None:
    before = len(steady.log.read_text().splitlines())
    ttfts_ns, spans_ns = [], []
    for _ in range(3):
        with steady.connect() as connection:
            sent_ns = time.monotonic_ns()
            connection.sendall(raw_request("x" * 64))
            seen = steady.read(connection)
        stamps = [at for at, data in seen.reads if b'"content":" ' in data]
        ttfts_ns.append(stamps[0] - sent_ns)
        spans_ns.append(stamps[-1] - stamps[0])

    steady.truth(before + 3)
    assert 70 * MS <= min(ttfts_ns) < 73 * MS
    assert statistics.median(spans_ns) == pytest.approx(39 * 10 * MS, abs=5 * MS)


def raw_request(text: str) -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "stream": True}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def ask_in_turn(client: Client, texts: list[str], apart_s: float) -> None:
    """Send each request on a new connection, `apart_s` after the one before; read all to the end."""
    threads = [threading.Thread(target=client.chat, args=(text,), kwargs={"quiet_s": 5}) for text in texts]
    for thread in threads:
        thread.start()
        time.sleep(apart_s)
    for thread in threads:
        thread.join()


def test_requests_beyond_the_slots_wait_first_in_first_out(start: StartEngine) -> None:
    client = start(slots=2, ttft_s=0.1, prefill_s_per_token=0.0, itl_s=0.02, itl_load_factor=0.0, output_tokens=6)
    ask_in_turn(client, ["one", "two", "three", "four", "five"], apart_s=0.015)
    one, two, three, four, five = sorted(client.truth(5), key=lambda row: row["received_ns"])
    lasts_ns = (100 + 5 * 20) * MS

    assert one["admitted_ns"] == one["received_ns"]
    assert two["admitted_ns"] == two["received_ns"]
    assert three["admitted_ns"] == one["admitted_ns"] + lasts_ns
    assert four["admitted_ns"] == two["admitted_ns"] + lasts_ns
    assert five["admitted_ns"] == three["admitted_ns"] + lasts_ns
    assert three["first_due_ns"] == three["admitted_ns"] + 100 * MS


def test_the_gap_is_longer_while_another_runs(start: StartEngine) -> None:
    client = start(
        slots=4,
        ttft_s=0.02,
        prefill_s_per_token=0.0,
        itl_s=0.02,
        itl_load_factor=1.0,
        output_tokens=20,
        log_chunks=True,
    )
    ask_in_turn(client, ["one", "two"], apart_s=0.2)
    one, two = sorted(client.truth(2), key=lambda row: row["received_ns"])

    def gaps_ms(row: dict[str, Any], begin_ns: int, end_ns: int) -> float:
        stamps: list[int] = [at for at in row["chunk_ns"] if begin_ns <= at <= end_ns]
        return statistics.median(b - a for a, b in itertools.pairwise(stamps)) / MS

    assert gaps_ms(one, 0, two["received_ns"]) == pytest.approx(20, abs=1)
    assert gaps_ms(one, two["first_write_ns"], one["last_write_ns"]) == pytest.approx(25, abs=1)
    assert gaps_ms(two, one["last_write_ns"] + 25 * MS, two["last_write_ns"]) == pytest.approx(20, abs=1)


def test_sixteen_streams_at_once_keep_their_schedules(start: StartEngine) -> None:
    client = start(slots=16, ttft_s=0.05, prefill_s_per_token=0.0, itl_s=0.02, itl_load_factor=0.0, output_tokens=50)
    ask_in_turn(client, [str(i) for i in range(16)], apart_s=0.003)
    rows = client.truth(16)

    assert all(row["output_tokens"] == 50 for row in rows)
    ends_late_ns = [row["last_write_ns"] - row["received_ns"] - (50 + 49 * 20) * MS for row in rows]
    assert min(ends_late_ns) >= 0
    assert statistics.median(ends_late_ns) < 2 * MS
