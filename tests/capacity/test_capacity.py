"""The search finds the highest load that holds, in few steps, and is not led astray by one wrong glance."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.capacity.search import CapacitySearch, Trial, knee


def users(**changes: float) -> CapacitySearch:
    settings = {"start": 1.0, "at_least": 1.0, "at_most": 4096.0, "precision": 0.05} | changes
    return CapacitySearch(**settings, whole=True)


def rates(**changes: float) -> CapacitySearch:
    settings = {"start": 1.0, "at_least": 1 / 64, "at_most": 4096.0, "precision": 0.05} | changes
    return CapacitySearch(**settings, whole=False)


def run(search: CapacitySearch, truth: float, wrong: float = 0.0, random: Random | None = None) -> int:
    """Search where every load up to `truth` holds, glances err with probability `wrong`; return the steps."""
    steps = 0
    while (asked := search.next()) is not None:
        held = asked.load <= truth
        if not asked.firm and random is not None and random.random() < wrong:
            held = True
        search.take(Trial(load=asked.load, held=held, firm=asked.firm))
        steps += 1
        assert steps < 80
    return steps


@given(st.integers(1, 4000), st.integers(1, 500), st.floats(0.01, 0.3))
def test_users_are_found_to_within_the_precision_or_exactly(truth: int, start: int, precision: float) -> None:
    search = users(start=float(start), precision=precision)
    run(search, truth)

    assert search.holds_at is not None
    assert search.holds_at <= truth
    assert search.holds_at == truth or truth < search.holds_at * (1 + precision) + 1e-6


@given(st.floats(0.02, 4000), st.floats(0.05, 500), st.floats(0.01, 0.3))
def test_rates_are_found_to_within_the_precision(truth: float, start: float, precision: float) -> None:
    search = rates(start=start, at_least=0.01, precision=precision)
    run(search, truth)

    assert search.holds_at is not None
    assert search.holds_at <= truth <= search.holds_at * (1 + precision) * 1.001


@given(st.floats(1, 4000))
def test_the_search_takes_about_as_many_steps_as_doublings_and_halvings(truth: float) -> None:
    assert run(rates(), truth) <= 13 + 5 + 2  # to 4096, to 5 %, and each end once more


def test_thousands_of_searches_with_wrong_glances_end_at_the_truth() -> None:
    random = Random(3)  # noqa: S311 - repeatable, not secret
    for _ in range(2000):
        truth = random.uniform(1, 2000)
        search = rates(start=random.choice([1, 16, 300]))
        run(search, truth, wrong=0.4, random=random)

        assert search.holds_at is not None
        assert search.holds_at <= truth <= search.holds_at * 1.051


def test_nothing_holds_where_the_smallest_load_breaks() -> None:
    search = users(start=8.0)
    steps = run(search, truth=0)

    assert (search.holds_at, search.breaks_at, search.converged, steps) == (None, 1.0, True, 5)


def test_the_search_ends_at_the_greatest_load_that_is_allowed() -> None:
    search = users(at_most=20.0)
    run(search, truth=1e9)

    assert (search.holds_at, search.breaks_at, search.converged) == (20.0, None, True)
    assert search.trials[-1].firm


def test_what_held_at_a_glance_is_judged_once_more() -> None:
    search = users()
    for load, held in ((1, True), (2, True), (4, False)):
        asked = search.next()
        assert asked is not None
        assert (asked.load, asked.firm) == (load, False)
        search.take(Trial(load=asked.load, held=held, firm=False))
    asked = search.next()
    assert asked is not None
    assert (asked.load, asked.firm) == (3.0, True)
    search.take(Trial(load=3.0, held=False, firm=True))
    asked = search.next()
    assert asked is not None
    assert (asked.load, asked.firm) == (2.0, True)  # for it held at a glance alone
    search.take(Trial(load=2.0, held=False, firm=True))

    asked = search.next()
    assert asked is not None
    assert asked.load == 1.0
    search.take(Trial(load=1.0, held=True, firm=True))
    asked = search.next()
    assert asked is not None
    assert (asked.load, asked.firm) == (2.0, True)  # for it broke only once
    search.take(Trial(load=2.0, held=False, firm=True))
    assert search.next() is None
    assert (search.holds_at, search.breaks_at) == (1.0, 2.0)


@pytest.mark.parametrize("slots", [1, 4, 30])
def test_the_knee_of_an_engine_with_slots_is_where_they_are_full(slots: int) -> None:
    loads = [1, 2, 4, 8, 16, 30, 32, 64]
    points = [(load, min(load, slots) / 0.5, 0.5 * max(1, load / slots)) for load in loads]

    assert knee(points) == slots


def test_no_points_have_no_knee() -> None:
    assert knee([]) is None
    assert knee([(1.0, 10.0, 0.0)]) is None
