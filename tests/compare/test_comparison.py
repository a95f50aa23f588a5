"""Comparisons of runs whose truth is known: what is called equal, worse or undecided, and how often wrongly."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pytest

from llmload.compare import comparison
from llmload.compare.comparison import (
    ERROR_RATE,
    Comparison,
    Finding,
    Outcome,
    RunSample,
    blocks_over,
    compare,
    figure_of,
    rates_of,
)
from llmload.metrics.lines import columns_of
from llmload.metrics.objective import METRICS, Metric
from llmload.metrics.requests import LINE_KEYS, RequestTable
from llmload.stats import bootstrap
from llmload.stats.bootstrap import Blocks
from llmload.units import NS_PER_S

MEANS = tuple(metric for metric in METRICS if metric.statistic == "mean" and not metric.higher_is_better)
NO_WORSE = {metric.name: 0.0 for metric in METRICS}
"""Accept no worsening at all: then what fails between equal systems is the interval's own error."""


@pytest.fixture(autouse=True)
def few_replicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of comparisons are made, and more replicates would not change what they show."""
    monkeypatch.setattr(bootstrap, "REPLICATES", 1000)


def line(time_s: float, e2e_s: float = 1.0, **changes: Any) -> dict[str, Any]:
    gaps = [round(e2e_s * 1e8)] * 10
    counted = ("chunks", "coalesced_chunks", "same_segment_chunks", "reasoning_chunks", "reconnects", "retries")
    counts = dict.fromkeys(counted, 0)
    return (
        dict.fromkeys(LINE_KEYS)
        | {
            **counts,
            "request_id": "r",
            "prompt_id": "p",
            "token_source": "usage",
            "stamp_source": "kernel",
            "outcome": "completed",
            "time_s": time_s,
            "started_ns": round(time_s * NS_PER_S),
            "done_ns": round((time_s + e2e_s) * NS_PER_S),
            "ttft_s": e2e_s / 10,
            "tpot_s": e2e_s / 10,
            "e2e_s": e2e_s,
            "output_tokens": 10,
            "output_tokens_per_s": 10 / e2e_s,
            "chunk_gaps_ns": gaps,
        }
        | changes
    )


def table_of(lines: list[dict[str, Any]]) -> RequestTable:
    """The table of lines as a report reads them."""
    written = orjson.dumps(lines, option=orjson.OPT_SERIALIZE_NUMPY)
    return RequestTable.of_columns(columns_of(orjson.loads(written)), 0.0)


def sample_of(lines: list[dict[str, Any]], *, opened_s: float | None, window_s: float) -> RunSample:
    return RunSample.of([table_of(lines)], opened_s=opened_s, window_s=window_s)


def run(
    rng: np.random.Generator,
    requests: int = 400,
    *,
    slowness: float = 1.0,
    wander: float = 0.0,
    memory: float = 0.8,
    prompts: float = 0.5,
    between: float = 0.0,
    failed: float = 0.0,
) -> RunSample:
    """One request after the other: prompts that differ (the same in every run), and a speed that wanders (AR(1))."""
    own = np.random.default_rng(7).lognormal(0.0, prompts, requests)
    speed = np.zeros(requests)
    for index in range(1, requests):
        speed[index] = memory * speed[index - 1] + rng.normal(0, wander * math.sqrt(1 - memory**2))
    e2e_s = own * slowness * np.exp(speed + rng.normal(0, 0.02, requests) + rng.normal(0, between))
    starts = np.concatenate([[0.0], np.cumsum(e2e_s)[:-1]])
    outcomes = np.where(rng.random(requests) < failed, "failed", "completed")
    lines = [line(t, e, outcome=str(o)) for t, e, o in zip(starts, e2e_s, outcomes, strict=True)]
    return sample_of(lines, opened_s=0.0, window_s=float(starts[-1] + e2e_s[-1]))


def found(compared: Comparison, name: str) -> Finding:
    return next(finding for finding in compared.findings if finding.metric.name == name)


def metric(name: str) -> Metric:
    return next(metric for metric in METRICS if metric.name == name)


def most_by_chance(of: int, rate: float) -> int:
    """The most of `of` that come by chance at that rate, in all but one of ten thousand test runs."""
    share, count = 0.0, 0
    while (share := share + math.comb(of, count) * rate**count * (1 - rate) ** (of - count)) < 0.9999:
        count += 1
    return count


def failures(pairs: Sequence[Comparison]) -> int:
    return sum(compared.outcome is Outcome.FAIL for compared in pairs)


def test_figures_are_those_of_the_window_by_hand() -> None:
    lines = [line(0.0), line(10.0, 2.0), line(13.0, 4.0), line(18.1, 4.0), line(11.0, outcome="failed", ttft_s=None)]

    sample = sample_of(lines, opened_s=10.0, window_s=10.0)

    assert figure_of(sample, metric("e2e_s mean")) == pytest.approx(10 / 3)
    assert figure_of(sample, metric("e2e_s p50")) == 4.0
    assert figure_of(sample, metric("ttft_s mean")) == pytest.approx(1 / 3)
    assert figure_of(sample, metric("requests_per_min")) == pytest.approx(2 / 10 * 60), "one ends after the window"
    assert figure_of(sample, metric("output_tokens_per_s")) == pytest.approx(2.4), "4 of the last one's 10 tokens"
    assert figure_of(sample, metric("error_share")) == pytest.approx(1 / 3)
    assert figure_of(sample, metric("itl_s p99")) == pytest.approx(0.4)


@pytest.mark.parametrize("block", [1, 2, 3], ids="{} lines a block".format)
def test_requests_of_several_files_are_brought_into_the_order_of_their_starts_with_their_gaps(block: int) -> None:
    lines = [
        line(5.0, chunk_gaps_ns=[10**9, 3 * 10**9]),
        line(1.0, chunk_gaps_ns=[10**9]),
        line(3.0, chunk_gaps_ns=None),
    ]

    tables = [table_of(lines[at : at + block]) for at in range(0, len(lines), block)]
    sample = RunSample.of(tables, opened_s=None, window_s=10.0)

    assert sample.opened_s == 1.0
    assert list(sample.started_s) == [1.0, 3.0, 5.0]
    assert (list(sample.gaps), list(sample.gap_s)) == ([1, 0, 2], [1.0, 1.0, 3.0])
    assert list(sample.inter_token[0]) == [3.0]
    assert sorted(zip(*map(list, sample.arrivals), strict=True)) == [(2.0, 10.0), (4.0, 10.0), (6.0, 5.0), (9.0, 5.0)]


def test_a_run_compared_with_itself_has_not_changed() -> None:
    sample = run(np.random.default_rng(1))

    compared = compare([sample], [sample], paired=True)

    judged = [finding for finding in compared.findings if finding.outcome is not Outcome.UNJUDGED]
    assert len(judged) == len(METRICS) - 3, "all but p99 of requests"
    assert all(finding.change == 0 and finding.outcome is Outcome.PASS for finding in judged)
    assert compared.outcome is Outcome.PASS


def test_a_slowdown_is_measured_and_fails_its_metrics() -> None:
    rng = np.random.default_rng(2)

    compared = compare([run(rng)], [run(rng, slowness=1.1)], paired=True)

    for name, change in {"ttft_s mean": 0.1, "e2e_s p50": 0.1, "requests_per_min": 1 / 1.1 - 1}.items():
        finding = found(compared, name)
        assert finding.low is not None
        assert finding.high is not None
        assert finding.outcome is Outcome.FAIL
        assert finding.change == pytest.approx(change, abs=0.005)
        assert finding.low < change < finding.high
    assert compared.outcome is Outcome.FAIL


def test_an_improvement_passes() -> None:
    rng = np.random.default_rng(3)

    assert compare([run(rng)], [run(rng, slowness=0.9)], paired=True).outcome is Outcome.PASS


def test_a_change_near_the_threshold_is_left_undecided() -> None:
    rng = np.random.default_rng(4)

    compared = compare([run(rng)], [run(rng, slowness=1.02)], paired=True)

    assert found(compared, "e2e_s mean").outcome is Outcome.INCONCLUSIVE
    assert compared.outcome is Outcome.INCONCLUSIVE


def test_pairing_by_prompt_narrows_the_interval() -> None:
    rng = np.random.default_rng(5)
    base, candidate = run(rng), run(rng)

    widths = []
    for paired in (True, False):
        finding = found(compare([base], [candidate], paired=paired, metrics=MEANS), "e2e_s mean")
        assert finding.low is not None
        assert finding.high is not None
        widths.append(finding.high - finding.low)

    assert widths[0] < widths[1] / 5


@pytest.mark.parametrize("wander", [0.0, 0.05], ids=["steady", "wandering"])
def test_equal_systems_fail_no_more_often_than_the_error_rate(wander: float) -> None:
    rng = np.random.default_rng(6)
    pairs = [
        compare([run(rng, wander=wander)], [run(rng, wander=wander)], paired=True, thresholds=NO_WORSE, metrics=MEANS)
        for _ in range(60)
    ]

    assert failures(pairs) <= most_by_chance(60, ERROR_RATE)


def test_requests_drawn_one_by_one_fail_equal_systems_far_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    pairs = [[[run(rng, 300, wander=0.2, memory=0.95)] for _ in "bc"] for _ in range(40)]

    def failing() -> int:
        return failures([compare(b, c, paired=True, thresholds=NO_WORSE, metrics=MEANS[:1]) for b, c in pairs])

    in_blocks = failing()
    monkeypatch.setattr(
        comparison, "blocks_over", lambda base, *_, **__: Blocks.covering(np.arange(len(base[0].gaps)), 1)
    )

    assert in_blocks <= most_by_chance(40, ERROR_RATE) < failing()


def test_equal_systems_whose_runs_differ_fail_no_more_often_than_the_error_rate_once_repeated() -> None:
    rng = np.random.default_rng(8)

    def pairs(runs: int) -> list[Comparison]:
        sides = [[[run(rng, 150, between=0.02) for _ in range(runs)] for _ in range(2)] for _ in range(40)]
        return [compare(b, c, paired=True, thresholds=NO_WORSE, metrics=MEANS) for b, c in sides]

    once, repeated = pairs(1), pairs(3)

    assert failures(once) > most_by_chance(40, ERROR_RATE), "one run does not show how much the next will differ"
    assert not once[0].sees_runs
    assert failures(repeated) <= most_by_chance(40, ERROR_RATE)
    assert repeated[0].sees_runs


def test_a_slowdown_of_five_per_cent_is_found_in_nine_of_ten() -> None:
    rng = np.random.default_rng(9)
    pairs = [
        compare([run(rng, wander=0.02)], [run(rng, wander=0.02, slowness=1.05)], paired=True, metrics=MEANS)
        for _ in range(30)
    ]

    assert failures(pairs) >= 27


@pytest.mark.parametrize(("failed", "outcome"), [(0.0, Outcome.PASS), (0.1, Outcome.FAIL)])
def test_errors_are_judged_by_their_difference(failed: float, outcome: Outcome) -> None:
    rng = np.random.default_rng(10)

    finding = found(compare([run(rng)], [run(rng, failed=failed)], paired=True), "error_share")

    assert finding.outcome is outcome
    assert finding.change == pytest.approx(failed, abs=0.04)
    if not failed:
        assert finding.high == pytest.approx(3 / 400, rel=0.01), "none of 400 failed, so up to 3/400 may"


def test_few_requests_without_an_error_are_inconclusive() -> None:
    rng = np.random.default_rng(11)

    finding = found(compare([run(rng, 100)], [run(rng, 100)], paired=True), "error_share")

    assert finding.outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("required", "outcome"), [(frozenset(), Outcome.UNJUDGED), (frozenset({"ttft_s p99"}), Outcome.INCONCLUSIVE)]
)
def test_a_percentile_needs_values_beyond_it(required: frozenset[str], outcome: Outcome) -> None:
    sample = run(np.random.default_rng(12), 400)

    finding = found(compare([sample], [sample], paired=True, required=required), "ttft_s p99")

    assert finding.outcome is outcome
    assert finding.note == "400 values, needs 2000"


def test_what_was_not_measured_is_not_judged() -> None:
    lines = [line(float(t), ttft_s=None, tpot_s=None, chunk_gaps_ns=None) for t in range(100)]
    sample = sample_of(lines, opened_s=0.0, window_s=100.0)

    compared = compare([sample], [sample], paired=True)

    unmeasured = {finding.metric.figure for finding in compared.findings if finding.note == "not measured"}
    assert unmeasured == {"ttft_s", "tpot_s", "itl_s"}


@pytest.mark.parametrize("requests", [0, 5, 19])
def test_too_few_requests_judge_nothing(requests: int) -> None:
    sample = sample_of([line(float(t)) for t in range(requests)], opened_s=0.0, window_s=100.0)

    compared = compare([sample], [sample], paired=True)

    assert compared.outcome is Outcome.UNJUDGED
    assert {finding.change for finding in compared.findings} == {None}


def length(sample: RunSample) -> int:
    return blocks_over([sample], [sample], paired=False).length


def test_blocks_have_twice_the_requests_in_flight_and_grow_while_neighbours_are_correlated() -> None:
    sixteen_at_once = [line(index // 16 * 1.0, 1.0) for index in range(3200)]
    rng = np.random.default_rng(13)

    assert length(sample_of(sixteen_at_once, opened_s=0.0, window_s=200.0)) == 50, "3200 / 64"
    assert length(sample_of(sixteen_at_once[:640], opened_s=0.0, window_s=40.0)) == 32
    assert length(run(rng, 2000, prompts=0.0)) < length(run(rng, 2000, prompts=0.0, wander=0.2))


def test_a_wandering_speed_shows_although_prompts_differ_far_more() -> None:
    rng = np.random.default_rng(16)
    base, candidate = (run(rng, 1000, wander=0.05, memory=0.95) for _ in "bc")

    assert blocks_over([base], [candidate], paired=True).length > blocks_over([base], [candidate], paired=False).length


def test_rates_come_from_stretches_that_add_up_to_the_window() -> None:
    sample = run(np.random.default_rng(14), 300)
    inner = sample_of(
        [line(t, d - t) for t, d in zip(sample.started_s, sample.done_s, strict=True)], opened_s=20.0, window_s=200.0
    )
    blocks = blocks_over([inner], [inner], paired=False)

    answers, tokens = rates_of(inner, blocks)

    assert answers.below.sum() == pytest.approx(200.0)
    assert answers.above.sum() / 200 * 60 == pytest.approx(figure_of(inner, metric("requests_per_min")))
    assert tokens.above.sum() / 200 == pytest.approx(figure_of(inner, metric("output_tokens_per_s")))
