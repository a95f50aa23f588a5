"""What the packet ring shows of client and network, and which figures that puts in doubt."""

from typing import Any

import numpy as np
import pytest

from llmload.metrics.checks import health, judge
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Verdict
from llmload.record import Outcome, RequestRecord, Slo, StampSource, TokenSource, Window
from llmload.scenario.load_protocol import HEADLINE

MS = 1_000_000
ROUND_TRIP_S = 0.0002


def answer(
    *, delay_ms: float = 0.1, connecting_ms: float = 0.0, wire_ttft_ms: float = 50, gap_ms: float = 10, **further: Any
) -> RequestRecord:
    """An answer of 20 chunks, as the packet ring sees it."""
    sent_ns = round((connecting_ms + delay_ms) * MS)
    chunk_ns = sent_ns + round(wire_ttft_ms * MS) + round(gap_ms * MS) * np.arange(20)
    facts = {
        "connected_ns": round(connecting_ms * MS) if connecting_ms else None,
        "wire_sent_ns": sent_ns,
        "stamp_source": StampSource.PACKET,
        "rtt_s": ROUND_TRIP_S,
        "retransmissions": 0,
        "late_segments": 0,
        "engine_closed_windows": 0,
        "client_closed_windows": 0,
        "missed_bytes": 0,
    }
    return RequestRecord(
        request_id="r",
        prompt_id="1",
        started_ns=0,
        done_ns=int(chunk_ns[-1]) + MS,
        outcome=Outcome.COMPLETED,
        chunk_ns=chunk_ns,
        prompt_tokens=10,
        output_tokens=20,
        token_source=TokenSource.USAGE,
        finish_reason="stop",
        **{**facts, **further},
    )


def totals_of(*records: RequestRecord, lag_s: float | None = 0.001) -> RunTotals:
    totals = RunTotals()
    for record in records:
        totals.started += 1
        totals.add(record, window=Window(start_ns=0), slo=Slo(), run_start_ns=0)
    if lag_s is not None:
        totals.distributions["event_loop_lag_s"].add_many(np.full(100, lag_s))
    return totals


def verdict_of(totals: RunTotals, relied_on: tuple[str, ...] = HEADLINE) -> Verdict:
    return judge(health(totals), totals=totals, relied_on=relied_on)


def doubted(verdict: Verdict) -> set[str]:
    return {f"{doubt.check}: {doubt.figure}" for doubt in verdict.doubts if doubt.check != "few_values"}


def various(count: int, **further: Any) -> list[RequestRecord]:
    return [answer(wire_ttft_ms=50 + index % 9, gap_ms=9 + index % 3, **further) for index in range(count)]


@pytest.mark.parametrize(
    "usual",
    [
        various(2_000),
        various(2_000, connecting_ms=120.0, rtt_s=0.04),
        [*various(1_995), *various(5, delay_ms=30.0)],
        [*various(1_990), *various(10, late_segments=1)],
        various(2_000, retransmissions=3),
        [*various(1_990), *various(10, client_closed_windows=1)],
        [*various(1_997), *various(3, stamp_source=StampSource.USER, missed_bytes=300)],
        various(2_000, engine_closed_windows=1, retries=1, delay_ms=500.0),
    ],
    ids=[
        "loopback",
        "far away, always a new connection",
        "few late",
        "few lost",
        "many came twice",
        "few full",
        "few missed",
        "retries",
    ],
)
def test_what_moves_no_figure_by_much_puts_none_in_doubt(usual: list[RequestRecord]) -> None:
    verdict = verdict_of(totals_of(*usual))

    assert (verdict.level, doubted(verdict)) == (Level.VALID, set())


def test_a_starved_client_doubts_what_contains_its_delay_and_the_load_and_nothing_else() -> None:
    late = [answer(delay_ms=delay, wire_ttft_ms=50 + delay % 7) for delay in np.linspace(10, 90, 500)]
    totals = totals_of(*late, lag_s=0.080)

    verdict = verdict_of(totals)

    assert verdict.level is Level.DEGRADED
    assert {each.check for each in verdict.reasons} == {"event_loop_lag_p99_s", "departure_delay"}
    assert {"departure_delay: ttft_s", "departure_delay: e2e_s"} <= doubted(verdict)
    assert not {each for each in doubted(verdict) if each.endswith((": itl_s", ": tpot_s", ": ttft_wire_s"))}
    median = next(each for each in verdict.doubts if (each.figure, each.statistic) == ("ttft_s", "p50"))
    assert median.low == pytest.approx(0.053, abs=0.001), "that on the wire"


def test_a_late_client_lowers_the_level_of_a_run_for_the_speed_of_a_request() -> None:
    late = [answer(delay_ms=30) for _ in range(200)]

    verdict = verdict_of(totals_of(*late), ("request_output_tokens_per_s",))

    assert [reason.check for reason in verdict.reasons] == ["departure_delay"]
    assert "output tokens/s of a request" in verdict.reasons[0].text
    assert "--processes 2" in verdict.reasons[0].text


def test_many_missed_segments_doubt_the_figures_that_they_may_move() -> None:
    missed = various(300, stamp_source=StampSource.USER, missed_bytes=300)

    verdict = verdict_of(totals_of(*various(1_700), *missed))

    assert "missed_segments: itl_s" in doubted(verdict)
    assert not {each for each in doubted(verdict) if each.startswith("user_stamp_share")}
    median = {each.statistic for each in verdict.doubts if each.figure == "e2e_s"}
    assert "p50" not in median, "51 ms of 250 ms, but only of 15 % of the answers"


def test_lost_segments_doubt_the_percentiles_of_itl_that_they_may_have_made() -> None:
    lost = [answer(late_segments=1) for _ in range(100)]
    for record in lost:
        record.chunk_ns[10:] += 200 * MS  # a retransmission time-out

    verdict = verdict_of(totals_of(*various(150), *lost), ("itl_s",))

    assert [reason.check for reason in verdict.reasons] == ["late_segments"]
    doubts = [each for each in verdict.doubts if each.check == "late_segments"]
    assert [each.statistic for each in doubts] == ["p99"]
    assert doubts[0].low == pytest.approx(0.011, rel=0.01)


def test_a_client_that_takes_no_more_bytes_doubts_what_waits_for_it() -> None:
    full = various(100, client_closed_windows=1)

    verdict = verdict_of(totals_of(*various(900), *full), ("itl_s",))

    assert [reason.check for reason in verdict.reasons] == ["client_closed_window_share"]
    assert "client_closed_window_share: itl_s" in doubted(verdict)
    assert "client_closed_window_share: ttft_s" not in doubted(verdict)


def test_whether_a_window_closed_is_not_known_without_the_ring() -> None:
    read = various(3, stamp_source=StampSource.KERNEL, client_closed_windows=None)

    assert health(totals_of(*read))["client_closed_window_share"] is None


def test_a_delay_of_departure_is_the_clients_alone() -> None:
    assert answer(delay_ms=3.0).departure_delay_s == pytest.approx(0.003)
    assert answer(delay_ms=3.0, connecting_ms=80.0).departure_delay_s == pytest.approx(0.003)
    assert answer(delay_ms=300.0, sent_ns=2 * MS).departure_delay_s == pytest.approx(0.002), "a long request"
    assert answer(retries=1).departure_delay_s is None
