"""Intervals contain the truth as often as their confidence says, also if answers depend on each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.stats.intervals import (
    BATCHES,
    batches_of,
    effective_count,
    normal_z,
    quantile_ranks,
    ratio,
    ratio_interval,
    share_interval,
    student_t,
    trend,
    values_needed,
)


@pytest.mark.parametrize(
    ("quantile", "count", "ranks"),
    [
        *((0.5, 23, (7, 17)), (0.5, 5, (None, None)), (0.5, 6, (1, 6)), (0.95, 100, (90, 100))),
        *((0.99, 23, (22, None)), (0.99, 100, (97, None))),
    ],
)
def test_a_percentile_of_few_values_lies_between_ranks_of_the_tables(
    quantile: float, count: int, ranks: tuple[int | None, int | None]
) -> None:
    assert quantile_ranks(quantile, count) == ranks


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_the_interval_of_a_percentile_holds_it_as_often_as_it_says(quantile: float) -> None:
    random, count = np.random.default_rng(1), values_needed(quantile) + 50
    low, high = quantile_ranks(quantile, count)
    assert low is not None
    assert high is not None

    values = np.sort(random.random((2000, count)), axis=1)
    held = (values[:, low - 1] <= quantile) & (quantile <= values[:, high - 1])

    assert 0.94 < held.mean() < 0.98


def test_a_percentile_needs_twenty_values_beyond_it() -> None:
    assert [values_needed(share) for share in (0.5, 0.9, 0.95, 0.99)] == [40, 200, 400, 2000]


@pytest.mark.parametrize(
    ("confidence", "degrees", "value"),
    [
        *((0.5, 1, 1.0), (0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 3, 3.182), (0.95, 4, 2.776), (0.95, 5, 2.571)),
        *((0.95, 9, 2.262), (0.95, 10, 2.228), (0.95, 11, 2.201), (0.95, 30, 2.042)),
        *((0.99, 3, 5.841), (0.99, 5, 4.032), (0.99, 11, 3.106)),
        *((0.999, 3, 12.924), (0.999, 4, 8.610), (0.999, 11, 4.437)),
    ],
)
def test_student_t_is_that_of_the_tables(confidence: float, degrees: int, value: float) -> None:
    """A step of a capacity search is judged at 99.9 % with as few as 3 degrees of freedom."""
    assert student_t(confidence, degrees) == pytest.approx(value, abs=0.0006)


def test_z_is_that_of_the_tables() -> None:
    assert [round(normal_z(each), 3) for each in (0.9, 0.95, 0.99)] == [1.645, 1.96, 2.576]


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0.0, 10, 0.0, 0.2775), (0.1, 100, 0.0552, 0.1744), (0.5, 10, 0.2366, 0.7634)]
)
def test_shares_have_wilsons_interval(share: float, count: int, low: float, high: float) -> None:
    assert share_interval(share, count, 0.95) == pytest.approx((low, high), abs=1e-4)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=60))
def test_batches_add_up_to_the_whole_and_are_not_too_many(parts: list[tuple[float, float]]) -> None:
    running = [tuple(each) for each in np.cumsum(np.array(parts), axis=0)]
    batches = batches_of(running)

    assert 1 <= len(batches) <= BATCHES
    assert sum(batch[0] for batch in batches) == pytest.approx(running[-1][0] - running[0][0], abs=1e-6)
    assert sum(batch[1] for batch in batches) == pytest.approx(running[-1][1] - running[0][1], abs=1e-6)


def test_without_batches_nothing_is_known() -> None:
    assert batches_of([]) == []
    assert batches_of([(0.0, 0.0)]) == []
    assert ratio([]) is None
    assert ratio_interval([(1.0, 2.0)] * 3, 0.95) is None
    assert share_interval(0.5, 0, 0.95) == (0.0, 1.0)


def coverage(chain: float, trials: int = 200) -> tuple[float, float]:
    """How often the mean's and the share's interval contain the truth, of AR(1) values with coefficient `chain`."""
    random = np.random.default_rng(7)
    means = shares = 0
    for _ in range(trials):
        noise = random.normal(size=1300)
        values = np.empty(1300)
        values[0] = noise[0]
        for index in range(1, 1300):
            values[index] = chain * values[index - 1] + np.sqrt(1 - chain**2) * noise[index]
        values = values[100:]
        late = values > 1.2816  # a tenth
        at = np.arange(0, 1201, 20)
        sums, lates = np.concatenate([[0], np.cumsum(values)])[at], np.concatenate([[0], np.cumsum(late)])[at]
        mean = ratio_interval(batches_of(list(zip(sums, at.astype(float), strict=True))), 0.95)
        batches = batches_of(list(zip(lates.astype(float), at.astype(float), strict=True)))
        share = share_interval(ratio(batches) or 0.0, effective_count(batches), 0.95)
        means += mean is not None and mean[0] <= 0 <= mean[1]
        shares += share[0] <= 0.1 <= share[1]
    return means / trials, shares / trials


@pytest.mark.parametrize("chain", [0.0, 0.8])
def test_intervals_contain_the_truth_although_answers_depend_on_each_other(chain: float) -> None:
    means, shares = coverage(chain)

    assert means > 0.91
    assert shares > 0.88


def test_a_trend_is_found_in_noise_and_noise_alone_has_none() -> None:
    random = np.random.default_rng(4)
    rising = trend([(float(value), 1.0) for value in np.arange(12) + 0.1 * random.standard_normal(12)])
    noise = trend([(float(value), 1.0) for value in random.standard_normal(12)])

    assert rising is not None
    assert noise is not None
    assert rising[0] == pytest.approx(6, abs=0.3)
    assert rising[0] > 6 * rising[1]
    assert abs(noise[0]) < 3 * noise[1]
    assert trend([(1.0, 1.0)] * 3) is None


def test_answers_that_depend_on_each_other_count_for_fewer() -> None:
    in_runs = [(20.0, 20.0), (0.0, 20.0)] * 6
    spread = [(10.0, 20.0)] * 12

    assert effective_count(in_runs) < 0.1 * effective_count(spread)
    assert effective_count(spread) == 240
