"""The spread of repeated runs against values worked out by hand."""

import math

import pytest

from llmload.stats.intervals import Spread


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
