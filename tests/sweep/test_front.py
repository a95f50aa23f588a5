"""The Pareto front: points that no other beats in both; and what a user of a point gets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.metrics.totals import RunTotals
from llmload.runs.build_summary import figures
from llmload.sweep.front import pareto_front
from llmload.sweep.points import mean_speed, median_speed

Points = list[tuple[float, float]]


def test_a_point_that_another_beats_in_both_is_not_on_the_front() -> None:
    assert pareto_front([(50, 100), (40, 300), (39, 299), (20, 500), (20, 400), (10, 500)]) == [3, 1, 0]


def test_equal_points_are_both_on_the_front_and_no_points_have_none() -> None:
    assert sorted(pareto_front([(5, 5), (5, 5), (5, 4)])) == [0, 1]
    assert pareto_front([]) == []


def test_a_higher_load_that_brings_hardly_more_of_either_is_beaten_by_the_lower_one() -> None:
    points = [(72.7, 130.1), (47.1, 177.0), (47.1, 177.3), (46.9, 181.0)]

    assert pareto_front(points) == [3, 2, 0]
    assert pareto_front(points, least_growth=0.02) == [3, 1, 0]


@given(st.lists(st.tuples(st.integers(0, 9).map(float), st.integers(0, 9).map(float)), max_size=30))
def test_it_is_what_comparing_each_with_each_gives(points: Points) -> None:
    def beaten(point: tuple[float, float]) -> bool:
        return any(x >= point[0] and y >= point[1] and (x, y) != point for x, y in points)

    front = pareto_front(points)

    assert sorted(front) == [index for index, point in enumerate(points) if not beaten(point)]
    assert [points[index][0] for index in front] == sorted(points[index][0] for index in front)


@pytest.mark.parametrize(("fastest_s", "mean"), [(0.01, 100.0), (0.002, 119.0), (1e-5, None)])
def test_an_answer_that_came_at_once_is_not_most_of_a_users_speed(fastest_s: float, mean: float | None) -> None:
    totals = RunTotals()
    totals.distributions["tpot_s"].add_many(np.array([0.01] * 20 + [fastest_s]))

    assert mean_speed(totals) == (None if mean is None else pytest.approx(mean, rel=0.003))
    assert median_speed(figures(totals, 1.0)) == pytest.approx(100, rel=0.003)
