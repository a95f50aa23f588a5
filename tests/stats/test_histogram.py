"""Quantiles are known to a quarter of a per cent, and merging loses nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.stats.histogram import RATIO, Histogram

values = st.lists(st.floats(min_value=1e-6, max_value=1e5), min_size=1, max_size=200)


def of(numbers: list[float]) -> Histogram:
    histogram = Histogram()
    for number in numbers:
        histogram.add(number)
    return histogram


@given(values, st.floats(min_value=0.0, max_value=1.0))
def test_quantile_is_within_a_quarter_per_cent_of_the_value_at_its_rank(numbers: list[float], share: float) -> None:
    rank = max(1, math.ceil(share * len(numbers) - 1e-9))

    assert of(numbers).quantile(share) == pytest.approx(sorted(numbers)[rank - 1], rel=0.0026)


@given(values, values)
def test_merging_gives_what_adding_everything_to_one_gives(left: list[float], right: list[float]) -> None:
    merged, whole = of(left), of(left + right)
    merged.merge(of(right))

    assert merged.count == whole.count
    assert merged.total == pytest.approx(whole.total)
    assert [merged.quantile(q / 20) for q in range(21)] == [whole.quantile(q / 20) for q in range(21)]


@pytest.mark.parametrize("edges", [[0.0], [1e-7, 1e-6], [1.3e6], [5e9, 0.0], [1.3e6, 1e-6 * RATIO**7]])
def test_merging_loses_nothing_at_either_end(edges: list[float]) -> None:
    merged = of([1.0])
    merged.merge(of(edges))
    merged.merge(Histogram())

    assert merged.count == 1 + len(edges)
    assert merged.quantile(1.0) == of([1.0, *edges]).quantile(1.0)


@given(values)
def test_add_many_counts_just_as_add_does(numbers: list[float]) -> None:
    many = Histogram()
    many.add_many(np.array(numbers))

    assert (many.count, many.min_value, many.max_value) == (
        of(numbers).count,
        of(numbers).min_value,
        of(numbers).max_value,
    )
    assert many.quantile(0.5) == pytest.approx(of(numbers).quantile(0.5), rel=0.006)


@given(values)
def test_a_message_carries_everything(numbers: list[float]) -> None:
    histogram = of(numbers)
    histogram.add_infinite(3)

    again = Histogram.from_message(histogram.to_message())

    assert (again.count, again.total, again.min_value, again.max_value, again.infinite) == (
        histogram.count,
        histogram.total,
        histogram.min_value,
        histogram.max_value,
        3,
    )
    assert again.quantile(0.99) == histogram.quantile(0.99)


def test_an_empty_histogram_has_no_mean_and_no_quantile() -> None:
    empty = Histogram.from_message(Histogram().to_message())

    assert (empty.mean, empty.quantile(0.5), empty.count) == (None, None, 0)


def test_one_value_is_every_quantile_exactly() -> None:
    assert [of([0.0503]).quantile(q) for q in (0.0, 0.5, 0.99, 1.0)] == [0.0503] * 4


def test_zero_is_a_value() -> None:
    assert (of([0.0, 0.0, 1.0]).quantile(0.5), of([0.0]).mean) == (0.0, 0.0)


def test_failures_push_a_quantile_that_includes_them_beyond_every_value() -> None:
    histogram = of([1.0] * 90)
    histogram.add_infinite(10)

    assert histogram.quantile(0.95) == 1.0
    assert histogram.quantile(0.90, with_infinite=True) == 1.0
    assert histogram.quantile(0.95, with_infinite=True) is None


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_what_is_not_a_measurement_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite values"):
        Histogram().add(bad)
    with pytest.raises(ValueError, match="finite values"):
        Histogram().add_many(np.array([1.0, bad]))


def test_at_most_counts_to_within_a_bucket() -> None:
    assert [of([0.1, 0.2, 0.3]).count_at_most(limit) for limit in (0.05, 0.1, 0.25, 0.3, 9.0)] == [0, 1, 2, 3, 3]


def test_a_report_of_400_000_gaps_is_a_few_kilobytes() -> None:
    histogram = Histogram()
    histogram.add_many(np.random.default_rng(1).lognormal(-4.6, 0.5, 400_000))

    assert len(histogram.to_message()["counts"]) < 4_000


@given(values, values)
def test_what_was_added_since_a_copy_has_its_own_quantiles(before: list[float], after: list[float]) -> None:
    earlier, now = of(before), of(before + after)
    part = now.since(earlier)

    assert part.count == len(after)
    assert part.quantile(0.5) == pytest.approx(of(after).quantile(0.5), rel=0.006)


def test_many_limits_at_once_are_each_limit_alone() -> None:
    histogram = Histogram()
    histogram.add_many(np.array([0.0, 1e-7, 0.003, 0.02, 0.02, 0.5, 7.0, 1e9]))
    limits = [0.0, 1e-7, 0.001, 0.02, 0.5, 6.9, 7.0, 1e8, 1e9, 1e12]

    assert histogram.counts_at_most(limits) == [histogram.count_at_most(limit) for limit in limits]
    assert Histogram().counts_at_most(limits) == [0] * len(limits)
