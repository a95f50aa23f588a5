"""Which figures are in doubt, by how much, and what that means for the level of a run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmload.metrics.checks import judge
from llmload.metrics.doubts import doubt_of, doubts_of, footnotes, marked
from llmload.metrics.objective import Objective
from llmload.metrics.requests import QUANTILES
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Doubt, Level, Reason
from llmload.record import Outcome, RequestRecord, Slo, StampSource, TokenSource, Window
from llmload.scenario.load_protocol import HEADLINE

MS = 1_000_000


def answer(
    stamps_ns: list[int], *, stamps: StampSource = StampSource.KERNEL, late_ns: int | None = None
) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        prompt_id="1",
        started_ns=0,
        done_ns=stamps_ns[-1] + MS,
        scheduled_ns=None if late_ns is None else -late_ns,
        outcome=Outcome.COMPLETED,
        chunk_ns=np.array(stamps_ns, dtype=np.int64),
        prompt_tokens=10,
        output_tokens=len(stamps_ns),
        token_source=TokenSource.USAGE,
        stamp_source=stamps,
        finish_reason="stop",
    )


def totals_of(*records: RequestRecord) -> RunTotals:
    totals = RunTotals()
    for record in records:
        totals.started += 1
        totals.add(record, window=Window(start_ns=0), slo=Slo(), run_start_ns=0)
    return totals


def even(first_ms: int, chunks: int = 20, gap_ms: int = 10) -> list[int]:
    return [(first_ms + gap_ms * index) * MS for index in range(chunks)]


def doubted(doubts: tuple[Doubt, ...], check: str) -> set[tuple[str, str | None]]:
    return {(doubt.figure, doubt.statistic) for doubt in doubts if doubt.check == check}


def read_together(true_ns: list[int], reads: list[int]) -> list[int]:
    """The stamps of chunks where each read takes a number of them: all have the last one's of its read."""
    stamps, at = [], 0
    for size in reads:
        part = true_ns[at : at + size]
        stamps += [part[-1]] * len(part) if part else []
        at += size
    return stamps + true_ns[at:]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_the_true_quantiles_of_itl_lie_where_shared_reads_say(data: st.DataObject) -> None:
    records, true_gaps = [], list[int]()
    for _ in range(data.draw(st.integers(1, 6))):
        gaps = data.draw(st.lists(st.integers(1, 60), min_size=3, max_size=60))
        true_ns = [50 * MS, *(50 * MS + int(total) * MS for total in np.cumsum(gaps))]
        reads = [1, *data.draw(st.lists(st.integers(1, 4), max_size=30))]
        records.append(answer(read_together(true_ns, reads)))
        true_gaps += gaps
    totals = totals_of(*records)
    measured = totals.distributions["itl_s"]

    for doubt in doubts_of(totals):
        if doubt.check != "coalesced_share":
            continue
        share = 1.0 if doubt.statistic == "max" else QUANTILES[str(doubt.statistic)]
        true_s = float(np.quantile(np.array(true_gaps) / 1000, share, method="inverted_cdf"))
        assert doubt.low is not None
        assert doubt.high is not None
        assert doubt.low * 0.995 <= true_s <= doubt.high * 1.005
    assert measured.mean == pytest.approx(np.mean(true_gaps) / 1000)


def test_shared_reads_mark_a_percentile_of_itl_and_leave_the_level() -> None:
    """1.5 % of the gaps are 0: that moves the p99 to the greatest gap, and no other percentile by 5 %."""
    whole, shared = answer(even(50)), answer(read_together(even(50), [1, 1, 1, 2]))
    totals = totals_of(*[whole] * 143, *[shared] * 57)

    verdict = judge({}, totals=totals, relied_on=HEADLINE)

    assert (verdict.level, verdict.reasons) == (Level.VALID, ())
    assert doubted(verdict.doubts, "coalesced_share") == {("itl_s", "p99"), ("itl_s", "max")}
    assert doubt_of(verdict.doubts, "itl_s", "p99").startswith("in doubt, between 10.01 and 20.00 ms: chunks that were")
    assert doubt_of(verdict.doubts, "itl_s", "mean") == ""


@pytest.mark.parametrize(("limit_s", "level"), [(0.015, Level.DEGRADED), (0.5, Level.VALID), (0.005, Level.VALID)])
def test_a_gate_on_what_is_in_doubt_lowers_the_level_if_it_may_come_out_otherwise(limit_s: float, level: Level) -> None:
    whole, shared = answer(even(50)), answer(read_together(even(50), [1, 1, 1, 2]))
    gate = Objective.parse(f"itl_s p99 < {limit_s}")

    verdict = judge({}, totals=totals_of(*[whole] * 143, *[shared] * 57), relied_on=HEADLINE, gates=[gate])

    assert verdict.level is level
    for reason in verdict.reasons:
        assert "ITL p99 between 10.01 and 20.00 ms" in reason.text
        assert "--processes 2" in reason.text


def test_ttft_is_in_doubt_only_where_the_first_chunk_shares_its_read() -> None:
    early = [answer(even(50 + index % 7)) for index in range(500)]
    late = [answer(read_together(even(100), [2])) for _ in range(60)]
    later = [answer(read_together(even(100), [1, 2])) for _ in range(60)]

    first = judge({}, totals=totals_of(*early, *late), relied_on=HEADLINE)
    second = judge({}, totals=totals_of(*early, *later), relied_on=HEADLINE)

    assert [reason.check for reason in first.reasons] == ["first_chunk_shared"]
    assert doubted(first.doubts, "first_chunk_shared") == {("ttft_s", "p95"), ("ttft_s", "p99")}
    assert second.level is Level.VALID


@pytest.mark.parametrize(("lag_s", "level"), [(0.002, Level.VALID), (0.004, Level.DEGRADED)])
def test_the_processs_own_stamps_count_by_its_lag(lag_s: float, level: Level) -> None:
    totals = totals_of(*[answer(even(50), stamps=StampSource.USER)] * 500)
    totals.distributions["event_loop_lag_s"].add_many(np.full(100, lag_s))

    verdict = judge({}, totals=totals, relied_on=HEADLINE)

    assert verdict.level is level
    assert ("itl_s", "p50") in doubted(verdict.doubts, "user_stamp_share")  # 2 ms of 10
    assert (("ttft_s", "p50") in doubted(verdict.doubts, "user_stamp_share")) is (level is Level.DEGRADED)


@pytest.mark.parametrize(("late_ms", "level"), [(2, Level.VALID), (5, Level.DEGRADED)])
def test_a_schedule_lag_counts_by_what_it_adds(late_ms: int, level: Level) -> None:
    totals = totals_of(*[answer(even(50), late_ns=late_ms * MS)] * 500)

    verdict = judge({}, totals=totals, relied_on=("ttft_from_schedule_s p50",))

    assert verdict.level is level
    if level is Level.DEGRADED:
        assert "TTFT from schedule p50 between 50" in verdict.reasons[0].text


def test_a_delay_counts_against_how_long_a_request_takes() -> None:
    figures = {"event_loop_lag_p99_s": 0.08}

    assert judge(figures, totals=totals_of(answer(even(50)))).level is Level.DEGRADED  # of 241 ms
    assert judge(figures, totals=totals_of(answer(even(50, gap_ms=200)))).level is Level.VALID  # of 3.9 s


def test_percentiles_of_few_values_are_marked_and_means_are_not() -> None:
    totals = totals_of(*(answer(even(50 + index, chunks=2)) for index in range(100)))

    verdict = judge({}, totals=totals, relied_on=HEADLINE)

    assert verdict.level is Level.VALID
    few = {statistic for figure, statistic in doubted(verdict.doubts, "few_values") if figure == "ttft_s"}
    assert few == {"p90", "p95", "p99"}
    p95 = next(doubt for doubt in verdict.doubts if doubt.is_of("ttft_s", "p95"))
    assert p95.low == pytest.approx(0.139, rel=0.003)
    assert p95.high == pytest.approx(0.149, rel=0.003)
    assert marked("139.2", verdict.doubts, "ttft_s", "p95") == "139.2~"
    assert marked("99.2", verdict.doubts, "ttft_s", "mean") == "99.2"
    assert footnotes(verdict.doubts, ("ttft_s", "e2e_s")) == [
        "TTFT, e2e latency: few values: p90 needs 200, p95 needs 400, p99 needs 2,000"
    ]


@pytest.mark.parametrize(
    ("gate", "undecided"),
    [
        ("ttft_s p95 < 0.2", False),  # beyond the interval: passed
        ("ttft_s p95 < 0.1", False),  # below it: failed
        ("ttft_s p95 < 0.145", True),
        ("ttft_s p99 < 0.2", True),  # so few values do not bound it from above
        ("ttft_s mean < 0.1", False),
    ],
)
def test_a_gate_on_few_values_degrades_the_run_if_it_may_come_out_otherwise(gate: str, undecided: bool) -> None:
    totals = totals_of(*(answer(even(50 + index, chunks=2)) for index in range(100)))

    verdict = judge({}, totals=totals, relied_on=HEADLINE, gates=[Objective.parse(gate)])

    assert (verdict.level is Level.DEGRADED) is undecided
    if undecided:
        assert "may come out otherwise" in verdict.reasons[0].text
        assert f"--requests {2000 if 'p99' in gate else 400}" in verdict.reasons[0].text


def test_a_check_marks_its_figures_and_counts_only_where_they_are_relied_on() -> None:
    totals = totals_of(answer(even(50)))

    of_rates = judge({"worker_cpu_share": 0.95}, totals=totals, relied_on=("ttft_s p95",))
    relied = judge({"worker_cpu_share": 0.95}, totals=totals, relied_on=("ttft_s p95", "requests_per_min"))

    assert of_rates.level is Level.VALID
    assert ("requests_per_min", None) in doubted(of_rates.doubts, "worker_cpu_share")
    assert relied.level is Level.DEGRADED


def test_a_reason_of_the_whole_run_lowers_every_level() -> None:
    own = Reason(check="internal_error", level=Level.INVALID, text="KeyError")

    assert judge({}, [own], totals=RunTotals(), relied_on=("ttft_s p95",)).level is Level.INVALID
