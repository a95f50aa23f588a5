"""
The block bootstrap of a change between two sets of runs: how far would it move if all runs were repeated?

The model. Requests answered at the same time share queue and batch, so they are not independent draws. A run is cut
into blocks of consecutive requests, long enough that neighbouring blocks are no longer correlated, and blocks are drawn
with replacement (Kunsch, The jackknife and the bootstrap for general stationary observations, Ann. Statist. 17, 1989).

    ratio      a figure is sum(above) / sum(below) over blocks; its replicate is the same with each block as often as it
               was drawn. A mean, a share and a rate are such ratios.
    quantile   the same with the count of values at or below each step of a grid, linear between two steps
    paired     all runs sent the same prompts in the same order: one draw serves both sides, so that what prompts
               differ in cancels out
    few blocks the spread of n blocks is itself uncertain: replicates are scaled by sqrt(n / (n - 1)) and by
               sqrt(f / chi^2_f), f = n - 1, which makes a normal variable Student's t
    runs       runs of one side differ by more than their requests explain. That variance is drawn from
               s^2 * f / chi^2_f less the explained variance, cut at zero (generalised inference: Weerahandi, JASA 88,
               1993). Three runs cannot be resampled: ten outcomes, and a spread a third too small.

Changes are of logarithms, so that a ratio's interval is never below zero; a share's change is a difference.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

REPLICATES: Final = 4000
MIN_BLOCKS: Final = 10
"""Fewer blocks say nothing of the correlation of neighbours."""
_GRID: Final = 200
_ROUNDING: Final = 1e-15
"""What rounding leaves of a sum of squares that is zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """`count` blocks of `length` consecutive requests, by their index in a run; block 0 begins at `first * length`."""

    length: int
    first: int
    count: int

    @classmethod
    def covering(cls, indices: Indices, length: int) -> "Blocks":
        """Return the blocks of this length that contain all indices."""
        first, last = (int(indices.min()) // length, int(indices.max()) // length) if len(indices) else (0, 0)
        return cls(length=length, first=first, count=last - first + 1)

    def of(self, indices: Indices) -> Indices:
        """Return the block of each index; an index outside falls into the outermost block."""
        return np.clip(indices // self.length - self.first, 0, self.count - 1)

    def sums(self, indices: Indices, values: Floats | None = None) -> Floats:
        """Return the sum of the values in each block; without values, how many indices it has."""
        return np.bincount(self.of(indices), weights=values, minlength=self.count).astype(np.float64)

    def draws(self, rng: np.random.Generator) -> Floats:
        """Return how often each block is drawn in each replicate, (REPLICATES, count)."""
        drawn = rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=REPLICATES)
        return drawn.astype(np.float64)


class Resampled(Protocol):
    """A figure that can be computed from blocks drawn with replacement."""

    def redrawn(self, draws: Floats) -> Floats:
        """Return the figure of each replicate, (replicates,); nan where a replicate has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A sum over another, by block: a mean, a rate, a share."""

    above: Floats
    below: Floats

    @property
    def by_block(self) -> Floats:
        """The figure of each block; nan where a block has none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.above / self.below

    def redrawn(self, draws: Floats) -> Floats:
        """Return the figure of each replicate."""
        with np.errstate(divide="ignore", invalid="ignore"):
            redrawn: Floats = (draws @ self.above) / (draws @ self.below)
        return redrawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """A quantile, from the number of each block's values at or below each step of a grid."""

    share: float
    grid: Floats
    at_most: Floats
    counts: Floats

    @classmethod
    def of(cls, values: Floats, indices: Indices, share: float, blocks: Blocks, requests: int) -> "Quantile":
        """
        Return the quantile of values that belong to the requests with these indices.

        The grid is fine around `share`, as far as a quantile of `requests` requests moves, and coarse elsewhere.
        """
        reach = min(0.25, 8 * math.sqrt(share * (1 - share) * 5 / max(requests, 1)))
        near = np.clip(np.linspace(share - reach, share + reach, _GRID), 0, 1)
        grid = np.unique(np.quantile(values, np.concatenate([np.linspace(0, 1, _GRID // 5), near])))
        step = np.searchsorted(grid, values)  # the first step at or above each value
        cells = np.bincount(blocks.of(indices) * len(grid) + step, minlength=blocks.count * len(grid))
        at_most = np.cumsum(cells.reshape(blocks.count, len(grid)), axis=1).astype(np.float64)
        return cls(share=share, grid=grid, at_most=at_most, counts=at_most[:, -1])

    def redrawn(self, draws: Floats) -> Floats:
        """Return the quantile of each replicate, linear between two steps of the grid."""
        reached, wanted = draws @ self.at_most, self.share * (draws @ self.counts)
        step = np.minimum((reached < wanted[:, None]).sum(axis=1), len(self.grid) - 1)
        rows, before = np.arange(len(draws)), np.maximum(step - 1, 0)
        low, high = reached[rows, before], reached[rows, step]
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(high > low, (wanted - low) / (high - low), 1.0)
        start, end = self.grid[before], self.grid[step]
        redrawn: Floats = np.where(wanted > 0, start + np.clip(part, 0.0, 1.0) * (end - start), np.nan)
        return redrawn


class ChangeBootstrap:
    """Replicates of the change from base runs to candidate runs; all figures share the draws of their blocks."""

    def __init__(self, blocks: Blocks, *, paired: bool, seed: int) -> None:
        self.blocks = blocks
        self._rng = np.random.default_rng(seed)
        base = blocks.draws(self._rng)
        self._draws = (base, base if paired else blocks.draws(self._rng))
        self._measured = np.ones((1, blocks.count))

    def deviations(
        self, figures: tuple[Sequence[Resampled], Sequence[Resampled]], levels: tuple[Floats, Floats], *, log: bool
    ) -> Floats:
        """
        Return each replicate's change less the measured change, (REPLICATES,); nan where a replicate has no figure.

        `figures` has one figure per run of base and candidate, `levels` their measured values; with `log` deviations
        and levels are logarithms.
        """
        noise = [
            [self._deviation(figure, draws, log=log) for figure in side]
            for side, draws in zip(figures, self._draws, strict=True)
        ]
        freedom = max(1, self.blocks.count - 1)
        moved = np.mean(noise[1], axis=0) - np.mean(noise[0], axis=0)
        within: Floats = moved * math.sqrt(self.blocks.count / freedom) * self._spread_of_spread(freedom)
        return within + self._between_runs(noise, levels)

    def _deviation(self, figure: Resampled, draws: Floats, *, log: bool) -> Floats:
        redrawn, measured = figure.redrawn(draws), figure.redrawn(self._measured)
        if not log:
            return redrawn - measured
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation: Floats = np.log(redrawn / measured)
        deviation[~np.isfinite(deviation)] = np.nan
        return deviation

    def _between_runs(self, noise: Sequence[Sequence[Floats]], levels: tuple[Floats, Floats]) -> Floats:
        """Draw what runs of one side differ by beyond what their requests explain; 0 with one run per side."""
        sides = [(own, level) for own, level in zip(noise, levels, strict=True) if len(own) > 1]
        if not sides:
            return np.zeros(REPLICATES)
        freedom = sum(len(level) - 1 for _, level in sides)
        spread = sum(float(((level - level.mean()) ** 2).sum()) for _, level in sides) / freedom
        explained = sum(float(np.nanvar(own, axis=0, ddof=1).mean()) * (len(own) - 1) for own, _ in sides) / freedom
        variance = np.maximum(0.0, spread * self._spread_of_spread(freedom) ** 2 - explained)
        scale = np.sqrt(variance * sum(1 / len(level) for level in levels))
        drawn: Floats = self._rng.standard_normal(REPLICATES) * scale
        return drawn

    def _spread_of_spread(self, freedom: int) -> Floats:
        """Draw sqrt(f / chi^2_f): how far a standard deviation of f degrees of freedom is from the true one."""
        drawn: Floats = np.sqrt(freedom / self._rng.chisquare(freedom, REPLICATES))
        return drawn


def neighbour_correlation(series: Floats) -> float | None:
    """Return the correlation of each finite value with the next; None below `MIN_BLOCKS` values or without spread."""
    series = series[np.isfinite(series)]
    if len(series) < MIN_BLOCKS:
        return None
    series = series - series.mean()
    spread = float(series @ series)
    return float(series[1:] @ series[:-1]) / spread if spread > _ROUNDING else None


def upper_limit_of_none(count: int, error_rate: float) -> float:
    """Return the highest share that can still have shown 0 of `count`: about 3 / count at 5 % (the rule of three)."""
    return float(1 - error_rate ** (1 / count))
