"""A step is decided by what its answers show, no sooner than that and no later than it may."""

from collections.abc import Callable

import numpy as np
import pytest

from llmload.capacity.judge import Judgement, StepJudge, StepRules
from llmload.capacity.search import CapacitySearch, Trial
from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals

TTFT = Objective.parse("ttft_s p95 < 0.5")
RULES = StepRules(min_s=10, max_s=80, min_requests=100)
Draw = Callable[[np.random.Generator, int], np.ndarray]


def watch(
    draw: Draw,
    *,
    per_s: float = 20.0,
    objectives: tuple[Objective, ...] = (TTFT,),
    rules: StepRules = RULES,
    firm: bool = True,
    failing: float = 0.0,
    good: float = 1.0,
    queue: Callable[[float], int] = lambda _: 5,
    random: np.random.Generator | None = None,
) -> tuple[Judgement, float]:
    """Watch a step whose answers a drawing gives, each half second; return its judgement and when it came."""
    random = random or np.random.default_rng(5)
    judge, totals, at_s = StepJudge(objectives, rules), RunTotals(), 0.0
    judge.open(queue(0.0))
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
        judge.add(totals, at_s, queue(at_s))
        judgement = judge.look(firm=firm)
        if judgement is not None:
            return judgement, at_s
        assert at_s <= rules.max_s


def around(median: float, spread: float = 0.2) -> Draw:
    return lambda random, count: median * np.exp(spread * random.standard_normal(count))


def test_a_step_far_below_the_limit_holds_at_the_first_look() -> None:
    judgement, at_s = watch(around(0.1))

    assert (judgement.held, judgement.sure, at_s) == (True, True, 10.0)


def test_a_step_far_above_the_limit_is_given_up_early() -> None:
    judgement, at_s = watch(around(0.9))

    assert (judgement.held, judgement.sure) == (False, True)
    assert at_s == 5.0
    assert judgement.reason.startswith("ttft_s p95 1.2")


def test_a_step_near_the_limit_takes_longer_and_says_so_where_that_does_not_decide_it() -> None:
    judgement, at_s = watch(around(0.5 / np.exp(0.2 * 1.645)))  # whose 95th percentile is the limit

    assert at_s > 10
    assert judgement.sure or judgement.reason.startswith("undecided: ")


def test_a_step_that_is_only_glanced_at_holds_without_being_sure() -> None:
    judgement, at_s = watch(around(0.1), per_s=3.0, firm=False)

    assert (judgement.held, judgement.sure, at_s) == (True, False, 10.0)


def test_few_answers_decide_nothing_but_the_last_look_judges_by_what_there_is() -> None:
    judgement, at_s = watch(around(0.1), per_s=0.5)

    assert (judgement.held, judgement.sure, at_s) == (True, False, 80.0)
    assert judgement.reason.startswith("undecided: ttft_s p95 ")


def test_a_step_without_any_answer_does_not_hold() -> None:
    judgement, at_s = watch(around(0.1), per_s=0.0)

    assert (judgement.held, judgement.reason, at_s) == (False, "no answer came in time", 80.0)


def test_a_queue_that_grows_breaks_whatever_the_latencies_say() -> None:
    rules = StepRules(min_s=10, max_s=80, min_requests=100, rate_per_s=20.0)
    judgement, at_s = watch(around(0.1), rules=rules, queue=lambda at_s: round(5 + 3 * at_s))

    assert (judgement.held, judgement.sure) == (False, True)
    assert judgement.reason == "the queue grows by 3 requests/s: less is answered than arrives"
    assert at_s <= 10


def test_latencies_that_rise_are_watched_for_longer() -> None:
    begun = [0.0]

    def later_and_later(random: np.random.Generator, count: int) -> np.ndarray:
        begun[0] += 0.5
        return around(0.1 + 0.015 * begun[0])(random, count)

    judgement, at_s = watch(later_and_later)

    assert (judgement.held, judgement.sure) == (False, True)
    assert at_s > 10


def test_a_queue_that_breathes_does_not_break() -> None:
    rules = StepRules(min_s=10, max_s=80, min_requests=100, rate_per_s=20.0)
    judgement, _ = watch(around(0.1), rules=rules, queue=lambda at_s: round(20 + 10 * np.sin(at_s)))

    assert judgement.held


@pytest.mark.parametrize(
    ("promise", "kwargs", "held"),
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
def test_every_kind_of_promise_is_decided(promise: str, kwargs: dict[str, float], held: bool) -> None:
    judgement, at_s = watch(around(0.1), objectives=(Objective.parse(promise),), **kwargs)  # type: ignore[arg-type]

    assert (judgement.held, judgement.sure) == (held, True)
    assert at_s <= 20


def test_what_was_not_measured_is_not_promised_to_hold() -> None:
    judgement, at_s = watch(around(0.1), objectives=(Objective.parse("tpot_s p50 < 1"),))

    assert (judgement.held, at_s) == (False, 80.0)
    assert judgement.reason == "undecided: tpot_s p50 not measured"


def test_dropped_arrivals_break_a_step() -> None:
    judge, totals = StepJudge((TTFT,), RULES), RunTotals(dropped=3)
    judge.open(0)
    judge.add(totals, 1.0, 0)
    judgement = judge.look(firm=True)

    assert judgement is not None
    assert (judgement.held, judgement.reason[:24]) == (False, "3 arrivals were dropped:")


def test_looks_lie_at_doublings_and_end_at_the_longest() -> None:
    assert RULES.looks_s == (10, 20, 40, 80)
    assert StepRules(min_s=10, max_s=120, min_requests=1).looks_s == (10, 20, 40, 80, 120)
    assert StepRules(min_s=10, max_s=10, min_requests=1).looks_s == (10,)
    assert RULES.look_confidence == pytest.approx(0.9875)


def test_sure_judgements_err_no_more_often_than_they_say() -> None:
    random, wrong = np.random.default_rng(11), 0
    for each in range(60):
        median = 0.5 / np.exp(0.2 * 1.645) * (1.04 if each % 2 else 0.96)  # 4 % above or below the limit
        judgement, _ = watch(around(median), random=random)
        wrong += judgement.sure and judgement.held == bool(each % 2)

    assert wrong <= 0.05 * 60


def test_searches_on_a_noisy_engine_end_within_the_precision_of_the_truth() -> None:
    """TTFT grows with the load, its 95th percentile is at the limit at load 40, answers come at random."""
    random, errors = np.random.default_rng(2), []
    rules = StepRules(min_s=10, max_s=40, min_requests=100)
    for _ in range(20):
        search = CapacitySearch(start=1, at_least=1, at_most=1024, precision=0.05, whole=True)
        while (asked := search.next()) is not None:
            median = 0.5 / np.exp(0.2 * 1.645) * (asked.load / 40) ** 2
            judgement, _ = watch(around(median), per_s=10 + asked.load, rules=rules, firm=asked.firm, random=random)
            search.take(Trial(load=asked.load, held=judgement.held, firm=asked.firm or judgement.sure))
        assert search.holds_at is not None
        errors.append(search.holds_at / 40 - 1)

    assert max(map(abs, errors)) <= 0.101
    assert sum(abs(error) <= 0.051 for error in errors) >= 0.9 * len(errors)
