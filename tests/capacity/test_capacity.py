"""The search finds the highest load that passes, in few steps, even if quick checks are wrong."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.capacity.search import CapacitySearch, StepOutcome, knee


def users(*, start: float = 1.0, at_most: float = 4096.0, precision: float = 0.05) -> CapacitySearch:
    return CapacitySearch(start=start, at_least=1.0, at_most=at_most, precision=precision, whole_numbers=True)


def rates(*, start: float = 1.0, at_least: float = 1 / 64, precision: float = 0.05) -> CapacitySearch:
    return CapacitySearch(start=start, at_least=at_least, at_most=4096.0, precision=precision, whole_numbers=False)


def run(search: CapacitySearch, truth: float, wrong: float = 0.0, random: Random | None = None) -> int:
    """Search where every load up to `truth` passes, quick checks err with probability `wrong`; return the steps."""
    steps = 0
    while (asked := search.next()) is not None:
        passed = asked.load <= truth
        if not asked.confirm and random is not None and random.random() < wrong:
            passed = True
        search.record(StepOutcome(load=asked.load, passed=passed, confirmed=asked.confirm))
        steps += 1
        assert steps < 80
    return steps


@given(st.integers(1, 4000), st.integers(1, 500), st.floats(0.01, 0.3))
def test_users_are_found_to_within_the_precision_or_exactly(truth: int, start: int, precision: float) -> None:
    search = users(start=float(start), precision=precision)
    run(search, truth)

    assert search.passes_at is not None
    assert search.passes_at <= truth
    assert search.passes_at == truth or truth < search.passes_at * (1 + precision) + 1e-6


@given(st.floats(0.02, 4000), st.floats(0.05, 500), st.floats(0.01, 0.3))
def test_rates_are_found_to_within_the_precision(truth: float, start: float, precision: float) -> None:
    search = rates(start=start, at_least=0.01, precision=precision)
    run(search, truth)

    assert search.passes_at is not None
    assert search.passes_at <= truth <= search.passes_at * (1 + precision) * 1.001


@given(st.floats(1, 4000))
def test_the_search_takes_about_as_many_steps_as_doublings_and_halvings(truth: float) -> None:
    assert run(rates(), truth) <= 13 + 5 + 2  # to 4096, to 5 %, and each end once more


def test_thousands_of_searches_with_wrong_quick_checks_end_at_the_truth() -> None:
    random = Random(3)  # noqa: S311 - repeatable, not secret
    for _ in range(2000):
        truth = random.uniform(1, 2000)
        search = rates(start=random.choice([1, 16, 300]))
        run(search, truth, wrong=0.4, random=random)

        assert search.passes_at is not None
        assert search.passes_at <= truth <= search.passes_at * 1.051


def test_nothing_passes_where_the_smallest_load_fails() -> None:
    search = users(start=8.0)
    steps = run(search, truth=0)

    assert (search.passes_at, search.fails_at, search.converged, steps) == (None, 1.0, True, 5)


def test_the_search_ends_at_the_greatest_load_that_is_allowed() -> None:
    search = users(at_most=20.0)
    run(search, truth=1e9)

    assert (search.passes_at, search.fails_at, search.converged) == (20.0, None, True)
    assert search.outcomes[-1].confirmed


def test_a_load_that_passed_a_quick_check_is_confirmed() -> None:
    search = users()
    for load, passed in ((1, True), (2, True), (4, False)):
        asked = search.next()
        assert asked is not None
        assert (asked.load, asked.confirm) == (load, False)
        search.record(StepOutcome(load=asked.load, passed=passed, confirmed=False))
    asked = search.next()
    assert asked is not None
    assert (asked.load, asked.confirm) == (3.0, True)
    search.record(StepOutcome(load=3.0, passed=False, confirmed=True))
    asked = search.next()
    assert asked is not None
    assert (asked.load, asked.confirm) == (2.0, True)  # it passed only a quick check
    search.record(StepOutcome(load=2.0, passed=False, confirmed=True))

    asked = search.next()
    assert asked is not None
    assert asked.load == 1.0
    search.record(StepOutcome(load=1.0, passed=True, confirmed=True))
    asked = search.next()
    assert asked is not None
    assert (asked.load, asked.confirm) == (2.0, True)  # it failed only once
    search.record(StepOutcome(load=2.0, passed=False, confirmed=True))
    assert search.next() is None
    assert (search.passes_at, search.fails_at) == (1.0, 2.0)


@pytest.mark.parametrize("slots", [1, 4, 30])
def test_the_knee_of_an_engine_with_slots_is_where_they_are_full(slots: int) -> None:
    loads = [1, 2, 4, 8, 16, 30, 32, 64]
    points = [(load, min(load, slots) / 0.5, 0.5 * max(1, load / slots)) for load in loads]

    assert knee(points) == slots


def test_no_points_have_no_knee() -> None:
    assert knee([]) is None
    assert knee([(1.0, 10.0, 0.0)]) is None
