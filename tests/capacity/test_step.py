"""A step is decided by what its answers show, as soon as they show it and at step_max_s at the latest."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmload.capacity.evidence import Decision
from llmload.capacity.judge import StepJudge, StepLimits, StepVerdict
from llmload.capacity.search import CapacitySearch, StepOutcome
from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals

TTFT = Objective.parse("ttft_s p95 < 0.5")
RULES = StepLimits(min_s=10, max_s=80, min_requests=100)
Draw = Callable[[np.random.Generator, int], np.ndarray]


def watch(
    draw: Draw,
    *,
    per_s: float = 20.0,
    objectives: tuple[Objective, ...] = (TTFT,),
    rules: StepLimits = RULES,
    confirm: bool = True,
    failing: float = 0.0,
    good: float = 1.0,
    queue: Callable[[float], int] = lambda _: 5,
    random: np.random.Generator | None = None,
) -> tuple[StepVerdict, float]:
    """Draw a step's answers, sample them each half second; return the verdict and when it came."""
    random = random or np.random.default_rng(5)
    judge, totals, at_s = StepJudge(objectives, rules), RunTotals(), 0.0
    judge.evidence.open(queue(0.0))
    while True:
        at_s += 0.5
        ended = int(random.poisson(per_s * 0.5))
        failed = int(random.binomial(ended, failing))
        values = draw(random, ended - failed)
        for name in ("ttft_s", "e2e_s", "request_output_tokens_per_s"):
            totals.distributions[name].add_many(values)
        totals.completed_in_window += ended - failed
        totals.failed_in_window += failed
        totals.good_in_window += int(random.binomial(ended - failed, good))
        judge.evidence.add(totals, at_s, queue(at_s))
        verdict = judge.evaluate(confirm=confirm)
        if verdict is not None:
            return verdict, at_s
        assert at_s <= rules.max_s


def around(median: float, spread: float = 0.2) -> Draw:
    return lambda random, count: median * np.exp(spread * random.standard_normal(count))


def test_a_step_far_below_the_limit_passes_at_the_first_evaluation() -> None:
    verdict, at_s = watch(around(0.1))

    assert (verdict.decision, at_s) == (Decision.PASSES, 10.0)


def test_a_step_far_above_the_limit_fails_early() -> None:
    verdict, at_s = watch(around(0.9))

    assert verdict.decision is Decision.FAILS
    assert at_s == 5.0
    assert verdict.reason.startswith("ttft_s p95 1.2")


def test_a_step_near_the_limit_takes_longer_and_says_so_if_it_stays_undecided() -> None:
    verdict, at_s = watch(around(0.5 / np.exp(0.2 * 1.645)))  # whose 95th percentile is the limit

    assert at_s > 10
    assert verdict.decision.significant or verdict.reason.startswith("undecided: ")


def test_a_quick_check_passes_a_step_without_significance() -> None:
    verdict, at_s = watch(around(0.1), per_s=3.0, confirm=False)

    assert (verdict.decision, at_s) == (Decision.SEEMS_TO_PASS, 10.0)


def test_a_step_that_passes_no_quick_check_ends_when_time_is_up() -> None:
    verdict, at_s = watch(around(0.1), objectives=(Objective.parse("tpot_s p50 < 1"),), confirm=False)

    assert (verdict.decision, at_s) == (Decision.SEEMS_TO_FAIL, 80.0)
    assert verdict.reason == "undecided: tpot_s p50 not measured"


def test_few_answers_decide_nothing_until_time_is_up() -> None:
    verdict, at_s = watch(around(0.1), per_s=0.5)

    assert (verdict.decision, at_s) == (Decision.SEEMS_TO_PASS, 80.0)
    assert verdict.reason.startswith("undecided: ttft_s p95 ")


def test_a_step_without_any_answer_fails() -> None:
    verdict, at_s = watch(around(0.1), per_s=0.0)

    assert (verdict.decision, verdict.reason, at_s) == (Decision.FAILS, "no answer came in time", 80.0)


def test_a_growing_queue_fails_a_step_whatever_its_latencies() -> None:
    rules = StepLimits(min_s=10, max_s=80, min_requests=100, rate_per_s=20.0)
    verdict, at_s = watch(around(0.1), rules=rules, queue=lambda at_s: round(5 + 3 * at_s))

    assert verdict.decision is Decision.FAILS
    assert verdict.reason == "the queue grows by 3 requests/s: less is answered than arrives"
    assert at_s <= 10


def test_a_step_with_rising_latencies_takes_longer() -> None:
    begun = [0.0]

    def later_and_later(random: np.random.Generator, count: int) -> np.ndarray:
        begun[0] += 0.5
        return around(0.1 + 0.015 * begun[0])(random, count)

    verdict, at_s = watch(later_and_later)

    assert verdict.decision is Decision.FAILS
    assert at_s > 10


def test_a_queue_that_goes_up_and_down_does_not_fail_a_step() -> None:
    rules = StepLimits(min_s=10, max_s=80, min_requests=100, rate_per_s=20.0)
    verdict, _ = watch(around(0.1), rules=rules, queue=lambda at_s: round(20 + 10 * np.sin(at_s)))

    assert verdict.decision.passed


@pytest.mark.parametrize(
    ("objective", "kwargs", "passed"),
    [
        ("error_share <= 0.01", {}, True),
        ("error_share <= 0.01", {"failing": 0.08}, False),
        ("goodput_share >= 0.9", {"good": 0.99}, True),
        ("goodput_share >= 0.9", {"good": 0.7}, False),
        ("e2e_s mean < 0.3", {}, True),
        ("e2e_s mean < 0.08", {}, False),
        ("e2e_s max < 60", {}, True),
        ("e2e_s max < 0.11", {}, False),
        ("request_output_tokens_per_s p50 > 0.05", {}, True),
        ("request_output_tokens_per_s p50 > 0.2", {}, False),
    ],
)
def test_every_kind_of_objective_is_decided(objective: str, kwargs: dict[str, Any], passed: bool) -> None:
    verdict, at_s = watch(around(0.1), objectives=(Objective.parse(objective),), **kwargs)

    assert verdict.decision is (Decision.PASSES if passed else Decision.FAILS)
    assert at_s <= 20


def test_an_objective_that_was_not_measured_does_not_pass() -> None:
    verdict, at_s = watch(around(0.1), objectives=(Objective.parse("tpot_s p50 < 1"),))

    assert (verdict.decision, at_s) == (Decision.SEEMS_TO_FAIL, 80.0)
    assert verdict.reason == "undecided: tpot_s p50 not measured"


def test_dropped_arrivals_fail_a_step() -> None:
    judge, totals = StepJudge((TTFT,), RULES), RunTotals(dropped=3)
    judge.evidence.open(0)
    judge.evidence.add(totals, 1.0, 0)
    verdict = judge.evaluate(confirm=True)

    assert verdict is not None
    assert (verdict.decision, verdict.reason[:24]) == (Decision.FAILS, "3 arrivals were dropped:")


def test_evaluations_come_at_doublings_and_at_the_end() -> None:
    assert RULES.evaluations_s == (10.0, 20.0, 40.0, 80.0)
    assert StepLimits(min_s=10, max_s=120, min_requests=1).evaluations_s == (10.0, 20.0, 40.0, 80.0, 120.0)
    assert StepLimits(min_s=10, max_s=10, min_requests=1).evaluations_s == (10.0,)
    assert RULES.evaluation_confidence == pytest.approx(0.9875)


def test_significant_verdicts_err_no_more_often_than_their_confidence_says() -> None:
    random, wrong = np.random.default_rng(11), 0
    for each in range(60):
        median = 0.5 / np.exp(0.2 * 1.645) * (1.04 if each % 2 else 0.96)  # 4 % above or below the limit
        verdict, _ = watch(around(median), random=random)
        wrong += verdict.decision.significant and verdict.decision.passed == bool(each % 2)

    assert wrong <= 0.05 * 60


def test_searches_on_a_noisy_engine_end_within_the_precision_of_the_truth() -> None:
    """TTFT grows with the load, its 95th percentile is at the limit at load 40, answers come at random."""
    random, errors = np.random.default_rng(2), []
    rules = StepLimits(min_s=10, max_s=40, min_requests=100)
    for _ in range(20):
        search = CapacitySearch(start=1, at_least=1, at_most=1024, precision=0.05, whole_numbers=True)
        while (asked := search.next()) is not None:
            median = 0.5 / np.exp(0.2 * 1.645) * (asked.load / 40) ** 2
            verdict, _ = watch(around(median), per_s=10 + asked.load, rules=rules, confirm=asked.confirm, random=random)
            decision = verdict.decision
            confirmed = asked.confirm or decision.significant
            search.record(StepOutcome(load=asked.load, passed=decision.passed, confirmed=confirmed))
        assert search.passes_at is not None
        errors.append(search.passes_at / 40 - 1)

    assert max(map(abs, errors)) <= 0.101
    assert sum(abs(error) <= 0.051 for error in errors) >= 0.9 * len(errors)
