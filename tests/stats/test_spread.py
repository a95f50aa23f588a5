"""The spread of repeated runs against values worked out by hand and by published tables."""

import math

import pytest

from llmload.stats.intervals import Spread, student_t


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (30, 2.042)]
)
def test_student_t_is_that_of_the_tables(freedom: int, t: float) -> None:
    assert student_t(0.95, freedom) == pytest.approx(t, abs=0.0006)
    assert student_t(0.5, 1) == pytest.approx(1.0)


def test_three_runs() -> None:
    spread = Spread.of([1.0, math.e**2, math.e])

    reach = 4.303 / math.sqrt(3)
    assert (spread.median, spread.least, spread.most) == (math.e, 1.0, math.e**2)
    assert spread.low == pytest.approx(math.exp(1 - reach), rel=1e-3)
    assert spread.high == pytest.approx(math.exp(1 + reach), rel=1e-3)


def test_zeros_have_an_arithmetic_mean() -> None:
    spread = Spread.of([0.0, 0.2])

    assert spread.low == pytest.approx(0.1 - 12.706 * 0.1, rel=1e-3)


def test_one_run_says_nothing_of_the_next() -> None:
    assert Spread.of([5.0]).to_dict() == {
        "values": [5.0],
        "median": 5.0,
        "min": 5.0,
        "max": 5.0,
        "mean_low": None,
        "mean_high": None,
    }


def test_no_runs_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])
