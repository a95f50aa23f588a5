"""The block bootstrap against replicates drawn by hand and the closed forms of its variance."""

import math

import numpy as np
import pytest

from llmload.stats.bootstrap import (
    MIN_BLOCKS,
    REPLICATES,
    Blocks,
    ChangeBootstrap,
    Quantile,
    Ratio,
    neighbour_correlation,
    upper_limit_of_none,
)


def test_blocks_cover_all_indices_and_add_up_their_values() -> None:
    blocks = Blocks.covering(np.array([5, 6, 13]), 4)

    assert blocks == Blocks(length=4, first=1, count=3)
    assert blocks.of(np.array([5, 6, 13, 0, 99])).tolist() == [0, 0, 2, 0, 2], "those outside are in the outermost"
    assert blocks.sums(np.array([5, 6, 13])).tolist() == [2, 0, 1]
    assert blocks.sums(np.array([5, 6, 13]), np.array([1.5, 2.0, 4.0])).tolist() == [3.5, 0, 4]


def test_a_replicate_draws_as_many_blocks_as_there_are() -> None:
    draws = Blocks(length=1, first=0, count=7).draws(np.random.default_rng(1))

    assert draws.shape == (REPLICATES, 7)
    assert (draws.sum(axis=1) == 7).all()


def test_a_ratio_is_redrawn_by_hand() -> None:
    ratio = Ratio(above=np.array([2.0, 6.0, 1.0]), below=np.array([1.0, 2.0, 0.0]))

    redrawn = ratio.redrawn(np.array([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]))

    assert redrawn[:3].tolist() == [3.0, 2.0, 14 / 5]
    assert not np.isfinite(redrawn[3]), "nothing was drawn to divide by"


def test_a_quantile_is_redrawn_as_of_the_requests_drawn() -> None:
    rng = np.random.default_rng(15)
    values, blocks = rng.lognormal(size=5000), Blocks(length=100, first=0, count=50)
    draws = blocks.draws(rng)[:40]

    redrawn = Quantile.of(values, np.arange(5000), 0.9, blocks, 5000).redrawn(draws)

    drawn = [np.repeat(values.reshape(50, 100), draw.astype(int), axis=0).ravel() for draw in draws]
    assert redrawn == pytest.approx([np.quantile(each, 0.9) for each in drawn], rel=0.01)


@pytest.mark.parametrize("paired", [False, True])
def test_the_spread_of_a_change_of_means_is_the_closed_form(paired: bool) -> None:
    """Unpaired: sqrt(s1^2 / n + s2^2 / n). Paired: the standard error of the differences, here of the noise alone."""
    rng = np.random.default_rng(2)
    blocks, ones = Blocks(length=1, first=0, count=60), np.ones(60)
    shared = rng.normal(size=60)
    base, cand = 10 + shared, 11 + shared + 0.1 * rng.normal(size=60)
    figures = ([Ratio(above=base, below=ones)], [Ratio(above=cand, below=ones)])
    levels = (np.array([base.mean()]), np.array([cand.mean()]))

    deviations = ChangeBootstrap(blocks, paired=paired, seed=3).deviations(figures, levels, log=False)

    error = np.std(cand - base, ddof=1) if paired else math.hypot(np.std(base, ddof=1), np.std(cand, ddof=1))
    low, high = np.quantile(deviations, [0.025, 0.975])
    assert deviations.shape == (REPLICATES,)
    assert (high - low) / 2 == pytest.approx(2.001 * error / math.sqrt(60), rel=0.08)  # t of 59 degrees


def test_what_runs_differ_by_is_added_as_students_t() -> None:
    """Three runs per side whose requests do not vary: the error is sqrt(s^2 (1/3 + 1/3)), with t of 4 degrees."""
    blocks, ones = Blocks(length=1, first=0, count=20), np.ones(20)
    levels = (np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2]))
    base, cand = ([Ratio(above=level * ones, below=ones) for level in side] for side in levels)

    deviations = ChangeBootstrap(blocks, paired=False, seed=4).deviations((base, cand), levels, log=False)

    low, high = np.quantile(deviations, [0.025, 0.975])
    assert (high - low) / 2 == pytest.approx(2.776 * 0.1 * math.sqrt(2 / 3), rel=0.08)


def test_the_correlation_of_neighbours_by_hand() -> None:
    up_and_down = np.array([1.0, -1.0] * 6)

    assert neighbour_correlation(up_and_down) == pytest.approx(-11 / 12)
    assert neighbour_correlation(np.append(up_and_down, np.nan)) == pytest.approx(-11 / 12)
    assert neighbour_correlation(np.ones(12)) is None
    assert neighbour_correlation(up_and_down[: MIN_BLOCKS - 1]) is None


def test_the_rule_of_three() -> None:
    assert upper_limit_of_none(300, 0.05) == pytest.approx(3 / 300, rel=0.01)
