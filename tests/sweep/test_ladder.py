"""Which point comes next: a ladder that is flat or misses a gate ends, and later rounds have its points."""

from collections.abc import Sequence

import pytest

from llmload.sweep.ladder import Ladder, next_of


def climbed(brought: Sequence[float | None], *, rounds: int = 1, missed_at: float | None = None) -> list[float]:
    """The loads that are measured where the loads 1, 2, 4... bring these tok/s, in the order of measurement."""
    loads = tuple(2.0**index for index in range(len(brought)))
    ladder = Ladder(loads=loads, rounds=rounds, least_growth=0.02)
    found = []
    while (point := ladder.next()) is not None:
        found.append(point.load)
        missed = ("ttft_s p95 2 > 1",) if point.load == missed_at else ()
        ladder.record(point, brought[loads.index(point.load)], missed)
    return found


def test_every_load_is_measured_while_throughput_grows() -> None:
    assert climbed([10, 20, 40, 41, 80]) == [1, 2, 4, 8, 16]


def test_two_flat_loads_in_a_row_end_the_ladder() -> None:
    assert climbed([10, 20, 20.3, 20.1, 90]) == [1, 2, 4, 8]
    assert climbed([10, 20, 20.3, 22, 22.1, 90]) == [1, 2, 4, 8, 16, 32], "growth between them starts the count again"


def test_what_falls_is_flat_and_what_measured_nothing_ends_the_ladder_too() -> None:
    assert climbed([10, 20, 15, 12, 90]) == [1, 2, 4, 8]
    assert climbed([10, 20, None, None, 90]) == [1, 2, 4, 8]
    assert climbed([None, 0.0, 90]) == [1, 2], "not one was answered"
    assert climbed([10, 20, 20, None, 20, None, 90]) == [1, 2, 4, 8, 16, 32, 64], "no two of one kind in a row"


def test_a_missed_gate_ends_the_ladder_at_once() -> None:
    assert climbed([10, 20, 40, 80], missed_at=2) == [1, 2]


def test_rounds_repeat_what_the_first_has_climbed() -> None:
    assert climbed([10, 20, 20, 20, 90], rounds=3) == [1, 2, 4, 8] * 3


@pytest.mark.parametrize(
    ("brought", "ended"),
    [
        ((10.0, 10.0, 10.0), "2 loads in a row brought less than 2.5% more tok/s"),
        ((10.0, None, None), "the tok/s of 2 loads in a row could not be measured"),
    ],
)
def test_it_says_why_it_ended_and_how_many_points_are_left(brought: Sequence[float | None], ended: str) -> None:
    ladder = Ladder(loads=(1, 2, 4, 8), rounds=2, least_growth=0.025)
    left = []
    for tokens_per_s in brought:
        point = ladder.next()
        assert point is not None
        left.append(ladder.left)
        ladder.record(point, tokens_per_s)

    assert left == [8, 7, 6]
    assert ladder.left == 3
    assert ladder.ended == ended


def test_a_ladder_that_is_flat_at_its_last_load_was_not_cut() -> None:
    ladder = Ladder(loads=(1, 2, 4), rounds=1, least_growth=0.02)
    while (point := ladder.next()) is not None:
        ladder.record(point, 10.0)

    assert ladder.ended is None


def test_each_shape_has_its_ladder_and_a_round_of_all_comes_before_the_next() -> None:
    ladders = [Ladder(loads=(1, 2), rounds=2, least_growth=0, shape=shape) for shape in (0, 1)]
    taken = []
    while (following := next_of(ladders)) is not None:
        ladder, point = following
        taken.append((point.round, point.shape, point.load))
        ladder.record(point, 10 * point.load, ("a gate",) if point.shape == 1 else ())

    assert taken == [(1, 0, 1), (1, 0, 2), (1, 1, 1), (2, 0, 1), (2, 0, 2), (2, 1, 1)]
