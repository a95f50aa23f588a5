"""Metrics of a record by hand, and sums of records that merge."""

import numpy as np
import pytest

from llmload.metrics.checks import CHECKS, judge
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Reason, Verdict, nothing_measured
from llmload.record import ErrorType, Outcome, RequestError, RequestRecord, Slo, StampSource, TokenSource, Window
from llmload.runs.summary import Summary
from llmload.units import NS_PER_S

WHOLE = Window(start_ns=0)


def at(*seconds: float) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array([round(s * NS_PER_S) for s in seconds], dtype=np.int64)


def answer(start_s: float = 0.0, chunks: tuple[float, ...] = (0.5, 0.6, 0.7), tokens: int | None = 3) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        prompt_id="1",
        started_ns=round(start_s * NS_PER_S),
        done_ns=round((start_s + chunks[-1] + 0.1) * NS_PER_S),
        outcome=Outcome.COMPLETED,
        chunk_ns=at(*(start_s + c for c in chunks)),
        prompt_tokens=10,
        output_tokens=tokens,
        token_source=TokenSource.USAGE,
        stamp_source=StampSource.KERNEL,
        finish_reason="stop",
    )


def failure(start_s: float = 0.0) -> RequestRecord:
    return RequestRecord(
        request_id="f",
        prompt_id="2",
        started_ns=round(start_s * NS_PER_S),
        done_ns=round((start_s + 0.1) * NS_PER_S),
        outcome=Outcome.FAILED,
        error=RequestError(type=ErrorType.RESET, message="gone"),
    )


def totals_of(*records: RequestRecord, window: Window = WHOLE, slo: Slo | None = None) -> RunTotals:
    totals = RunTotals()
    for record in records:
        totals.started += 1
        totals.add(record, window=window, slo=slo or Slo(), run_start_ns=0)
    return totals


def sums(totals: RunTotals) -> dict[str, float]:
    message = totals.to_message()
    return {name: value for name, value in message.items() if isinstance(value, int | float)}


def test_metrics_follow_their_formulas() -> None:
    record = answer(start_s=1.0, chunks=(0.5, 0.6, 0.9), tokens=5)

    assert record.ttft_s == pytest.approx(0.5)
    assert record.itl_s == pytest.approx([0.1, 0.3])
    assert record.tpot_s == pytest.approx(0.4 / 4)
    assert record.e2e_s == pytest.approx(1.0)
    assert record.output_tokens_per_s == pytest.approx(5.0)
    assert record.schedule_lag_s is None


@pytest.mark.parametrize("tokens", [0, 1, None])
def test_tpot_is_unknown_below_two_tokens(tokens: int | None) -> None:
    assert answer(tokens=tokens).tpot_s is None


def test_an_answer_without_chunks_has_no_ttft() -> None:
    record = failure()

    assert (record.ttft_s, len(record.itl_s), record.coalesced_chunks) == (None, 0, 0)


def test_chunks_of_one_read_are_coalesced() -> None:
    assert answer(chunks=(0.5, 0.5, 0.6, 0.7, 0.7, 0.7)).coalesced_chunks == 3


def test_a_failed_request_is_counted_by_type_and_enters_no_mean() -> None:
    totals = totals_of(answer(), failure())

    assert (totals.started, totals.completed, totals.failed, totals.censored) == (2, 1, 1, 0)
    assert dict(totals.errors) == {"reset": 1}
    assert totals.distributions["e2e_s"].mean == pytest.approx(0.8)
    assert totals.distributions["e2e_s"].quantile(0.99, with_infinite=True) is None


def test_the_window_counts_answers_that_end_and_tokens_that_arrive_in_it() -> None:
    window = Window(start_ns=1 * NS_PER_S, end_ns=2 * NS_PER_S)
    before = answer(start_s=0.0, chunks=(0.4, 0.5))
    into = answer(start_s=0.9, chunks=(0.05, 0.2, 0.3), tokens=3)
    out_of = answer(start_s=1.8, chunks=(0.1, 0.3, 0.4, 0.5), tokens=4)

    totals = totals_of(before, into, out_of, window=window)

    assert totals.completed == 3
    assert totals.completed_in_window == 1  # `into` ended at 1.3 s
    assert totals.window_tokens == pytest.approx(2 + 1)
    assert totals.distributions["ttft_s"].count == 1  # only `out_of` started in it
    assert totals.output_tokens == 4


def test_nothing_is_in_a_window_that_has_not_opened() -> None:
    totals = totals_of(answer(), window=Window(start_ns=None))

    assert (totals.completed, totals.completed_in_window, totals.window_tokens) == (1, 0, 0.0)


def test_merged_totals_equal_those_of_all_records() -> None:
    records = [answer(start_s=0.1 * i, chunks=(0.2 + 0.01 * i, 0.5, 0.9)) for i in range(20)] + [failure(0.3)]
    whole = totals_of(*records)
    merged = totals_of(*records[:7])
    merged.merge(RunTotals.from_message(totals_of(*records[7:]).to_message()))

    assert sums(merged) == pytest.approx(sums(whole))
    assert merged.distributions["ttft_s"].quantile(0.9) == whole.distributions["ttft_s"].quantile(0.9)
    assert (merged.first_started_s, merged.last_done_s) == (whole.first_started_s, whole.last_done_s)


def test_a_good_request_meets_every_limit_that_is_set() -> None:
    record = answer(chunks=(0.5, 0.6, 0.7), tokens=3)

    assert Slo().met_by(record)
    assert Slo(ttft_s=0.5, tpot_s=0.1001, e2e_s=0.8).met_by(record)
    assert not Slo(ttft_s=0.49).met_by(record)
    assert not Slo(e2e_s=0.79).met_by(record)
    assert not Slo().met_by(failure())


def test_an_answer_whose_metric_is_unknown_does_not_meet_its_limit() -> None:
    assert not Slo(tpot_s=9.0).met_by(answer(tokens=None))
    assert Slo(tpot_s=0.001).met_by(answer(chunks=(0.5,), tokens=1))


def test_a_verdict_names_figure_limit_and_reason() -> None:
    verdict = judge({"error_share": 0.02, "censored_share": 0.0, "coalesced_share": None, "missing_workers": 1.0})

    assert verdict.level is Level.INVALID
    assert [reason.check for reason in verdict.reasons] == ["missing_workers", "error_share"]
    assert "0.02 of requests, limit 0" in verdict.reasons[1].text


def test_reasons_come_in_the_order_of_how_much_they_explain() -> None:
    checks = ["a", "error_share", "nothing_measured", "missing_workers", "b", "ended_early"]
    degraded = {"a", "error_share"}
    reasons = [
        Reason(check=check, level=Level.DEGRADED if check in degraded else Level.INVALID, text=check)
        for check in checks
    ]

    found = [reason.check for reason in Verdict.of(reasons).reasons]

    assert found == ["ended_early", "missing_workers", "nothing_measured", "b", "error_share", "a"]


def test_every_check_says_what_to_do_and_which_figures_it_spoils() -> None:
    known = {*Summary.model_fields, "all"}
    for check in CHECKS:
        assert check.remedy
        assert check.why
        assert {figure.split()[0] for figure in check.figures} <= known, check.name


def test_a_run_without_a_fault_is_valid() -> None:
    assert judge({"error_share": 0.0, "event_loop_lag_p99_s": 0.01}).level is Level.VALID


BEFORE, ACROSS, INSIDE, AFTER = (answer(start_s=start_s) for start_s in (0.0, 0.5, 1.5, 2.8))
FAILED = failure(start_s=1.5)


@pytest.mark.parametrize(
    ("records", "window_s", "says"),
    [
        ([INSIDE], None, "nothing was measured in the window: it never opened: give --run-time 9s"),
        ([BEFORE], 2.0, "no answer ended in its 2 s"),
        ([AFTER], 2.0, "no answer ended in its 2 s"),
        ([FAILED, FAILED], 2.0, 'all 2 requests that ended in its 2 s failed: reset, "gone"'),
        ([ACROSS, FAILED], 2.0, "no request that began in its 2 s was answered, so no latency is known"),
        ([INSIDE, FAILED], 2.0, None),
        ([ACROSS, AFTER], 2.0, None),
    ],
)
def test_a_window_without_answers_measured_nothing(
    records: list[RequestRecord], window_s: float | None, says: str | None
) -> None:
    totals = totals_of(*records, window=Window(start_ns=1 * NS_PER_S, end_ns=3 * NS_PER_S))

    reason = nothing_measured(totals, window_s, unopened="it never opened", remedy="--run-time 9s", where="the window")

    assert (reason is None) == (says is None)
    if reason is not None and says is not None:
        assert (reason.check, reason.level) == ("nothing_measured", Level.INVALID)
        assert says in reason.text


def test_a_burst_whose_answers_end_after_it_is_measured() -> None:
    totals = totals_of(AFTER, window=Window(start_ns=1 * NS_PER_S, end_ns=3 * NS_PER_S))

    assert nothing_measured(totals, 2.0, unopened="", remedy="", where="burst", by_start=True) is None


def test_the_whole_run_is_the_window_and_what_started_outside_it() -> None:
    window = Window(start_ns=1 * NS_PER_S)
    before, inside = answer(start_s=0.0, chunks=(0.4, 0.5)), answer(start_s=1.5, chunks=(0.1, 0.3, 0.4), tokens=4)

    totals = totals_of(before, inside, window=window, slo=Slo(ttft_s=0.2))
    there = RunTotals.from_message(totals.to_message())
    there.merge(RunTotals.from_message(totals.to_message(with_out_of_window=False)))

    assert totals.distributions["ttft_s"].mean == pytest.approx(0.1)
    assert totals.all_answers("ttft_s").mean == pytest.approx(0.25)
    assert (totals.all_answers("itl_s").count, totals.good) == (3, 1)
    assert (totals.arrived_tokens, totals.arrived_prompt_tokens) == (7, 20)
    assert (there.all_answers("ttft_s").count, there.distributions["ttft_s"].count) == (3, 2)


def test_what_a_lost_process_had_in_flight_counts_as_censored() -> None:
    totals = RunTotals(started=5, completed=2, failed=1)

    totals.cut_in_flight()

    assert (totals.censored, totals.in_flight) == (2, 0)
