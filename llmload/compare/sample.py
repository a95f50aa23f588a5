"""
How far a run's figures would move if it were run again: blocks of neighbouring requests, drawn anew.

Requests that are answered at the same time share queue and batch, so they are no independent draws. What is drawn are
blocks of consecutive requests (Kunsch 1989), long enough that neighbouring blocks no longer resemble each other.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from llmload.record import Outcome
from llmload.units import NS_PER_S

# The requests of one run as arrays: what statistics over requests are computed from.

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_PACKED_AT: Final = 1_000_000
"""As many gaps are kept as Python's numbers, at four times the memory."""
_NUMBERS: Final = ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s", "output_tokens")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSample:
    """
    Every request of a run, in the order of their starts; nan is unknown.

    `started_s` and `done_s` are seconds since 1970, the window reaches from `opened_s` to `closed_s`. `gap_s` holds the
    gaps of all requests one after the other (start to first chunk, then chunk to chunk), `gaps` how many each has: 0
    where chunks were not kept.
    """

    started_s: Floats
    done_s: Floats
    completed: Flags
    failed: Flags
    numbers: Mapping[str, Floats]
    """`ttft_s`, `tpot_s`, `e2e_s`, `output_tokens_per_s` and `output_tokens` of each request."""
    gap_s: Floats
    gaps: Places
    opened_s: float
    closed_s: float

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]], *, opened_s: float | None, window_s: float | None) -> Self:
        """
        Return the sample that the lines of a run's request files are; `opened_s` None: the window opened first of all.

        A `window_s` of None is a run that judged nothing: its window is empty.
        """
        columns: dict[str, list[float]] = {name: [] for name in (*_NUMBERS, "time_s")}
        outcomes: list[str] = []
        gaps_ns: list[int] = []
        packed: list[Floats] = []
        gaps: list[int] = []
        for line in lines:
            outcomes.append(line["outcome"])
            for name, column in columns.items():
                value = line[name]
                column.append(np.nan if value is None else value)
            own = line.get("chunk_gaps_ns") or ()
            gaps_ns.extend(own)
            gaps.append(len(own))
            if len(gaps_ns) > _PACKED_AT:
                packed.append(np.array(gaps_ns, dtype=np.float64))
                gaps_ns.clear()
        packed.append(np.array(gaps_ns, dtype=np.float64))
        return cls._ordered(columns, outcomes, np.concatenate(packed), gaps, opened_s, window_s)

    @classmethod
    def _ordered(
        cls,
        columns: Mapping[str, list[float]],
        outcomes: list[str],
        gaps_ns: Floats,
        gaps: list[int],
        opened_s: float | None,
        window_s: float | None,
    ) -> Self:
        arrays = {name: np.array(column, dtype=np.float64) for name, column in columns.items()}
        order = np.argsort(arrays["time_s"], kind="stable")
        outcome, lengths = np.array(outcomes, dtype=np.str_)[order], np.array(gaps, dtype=np.int64)
        started_s = arrays["time_s"][order]
        opened_s = (float(started_s[0]) if len(order) else 0.0) if opened_s is None else opened_s
        return cls(
            started_s=started_s,
            done_s=started_s + arrays["e2e_s"][order],
            completed=outcome == Outcome.COMPLETED.value,
            failed=outcome == Outcome.FAILED.value,
            numbers={name: arrays[name][order] for name in _NUMBERS},
            gap_s=gaps_ns[_regrouped(lengths, order)] / NS_PER_S,
            gaps=lengths[order],
            opened_s=opened_s,
            closed_s=opened_s + (window_s or 0.0),
        )

    @property
    def window_s(self) -> float:
        """How long the window is."""
        return self.closed_s - self.opened_s

    @cached_property
    def judged(self) -> Flags:
        """Which requests latencies speak of: complete answers whose request started in the window."""
        return self.completed & self.within(self.started_s)

    @cached_property
    def ended(self) -> Flags:
        """Which requests came to an answer or an error in the window."""
        return (self.completed | self.failed) & self.within(self.done_s)

    @cached_property
    def in_flight(self) -> float:
        """How many requests were on their way at a time, in the mean over the window."""
        if self.window_s <= 0:
            return 0.0
        busy_s = np.minimum(self.done_s, self.closed_s) - np.maximum(self.started_s, self.opened_s)
        return float(np.maximum(busy_s, 0.0).sum() / self.window_s)

    def within(self, moments_s: Floats) -> Flags:
        """Return which moments lie in the window."""
        return (moments_s >= self.opened_s) & (moments_s <= self.closed_s)

    @cached_property
    def arrivals(self) -> tuple[Floats, Floats]:
        """
        When output tokens arrived, and how many at each moment.

        An answer's tokens are spread evenly over its chunks; where chunks were not kept, they arrive with its end.
        """
        tokens = np.where(self.failed, 0.0, np.nan_to_num(self.numbers["output_tokens"]))
        chunked = self.gaps > 0
        owner = np.repeat(np.arange(len(self.gaps)), self.gaps)
        elapsed_s = np.cumsum(self.gap_s)
        before_s = np.concatenate([[0.0], elapsed_s])[np.cumsum(self.gaps) - self.gaps]
        at_s = self.started_s[owner] + elapsed_s - before_s[owner]
        share = (tokens / np.maximum(self.gaps, 1))[owner]
        return np.concatenate([at_s, self.done_s[~chunked]]), np.concatenate([share, tokens[~chunked]])

    @cached_property
    def inter_token(self) -> tuple[Floats, Places]:
        """Every gap between neighbouring chunks of judged requests, and the place of its request."""
        first = np.zeros(len(self.gap_s), dtype=np.bool_)
        first[(np.cumsum(self.gaps) - self.gaps)[self.gaps > 0]] = True
        owner = np.repeat(np.arange(len(self.gaps)), self.gaps)
        wanted = ~first & self.judged[owner]
        return np.maximum(self.gap_s[wanted], 0.0), owner[wanted]


def _regrouped(lengths: Places, order: Places) -> Places:
    """Return the places of values that lie in groups of the given lengths, group by group in another order."""
    begins = (np.cumsum(lengths) - lengths)[order]
    taken = lengths[order]
    offset = np.arange(int(taken.sum())) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.repeat(begins, taken) + offset


REPLICATES: Final = 4000
MOST_BLOCKS: Final = 64
LEAST_BLOCKS: Final = 10
IN_FLIGHT_A_BLOCK: Final = 2.0
"""A block holds at least so many times the requests in flight: within it, batches come and go."""
RESEMBLANCE: Final = 1.0
"""Neighbouring blocks count as alike from so many standard errors of their correlation."""
_GRID: Final = 200
_NOTHING: Final = 1e-15
"""What rounding leaves of a spread that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Consecutive requests by their place in a run, `length` each; those from `first` on, `count` of them, are used."""

    length: int
    first: int
    count: int

    @classmethod
    def over(cls, base: Sequence[RunSample], cand: Sequence[RunSample], *, paired: bool) -> Self:
        """Return blocks that fit all runs: a place lies in the same block of each, and so, in one draw, a prompt."""
        runs = [*base, *cand]
        requests = min(int(run.judged.sum()) for run in runs)
        least = max(1, math.ceil(requests / MOST_BLOCKS), *(math.ceil(IN_FLIGHT_A_BLOCK * r.in_flight) for r in runs))
        length = min(least, max(1, requests // LEAST_BLOCKS))
        while requests // (2 * length) >= LEAST_BLOCKS and _alike(base, cand, cls._covering(runs, length), paired):
            length *= 2
        return cls._covering(runs, length)

    @classmethod
    def _covering(cls, runs: Sequence[RunSample], length: int) -> Self:
        places = np.concatenate([np.flatnonzero(run.judged | run.ended) for run in runs])
        first, last = (int(places.min()) // length, int(places.max()) // length) if len(places) else (0, 0)
        return cls(length=length, first=first, count=last - first + 1)

    def of(self, places: Places) -> Places:
        """Return the block of each place, counted from 0; what lies outside falls into the outermost."""
        return np.clip(places // self.length - self.first, 0, self.count - 1)

    def sums(self, places: Places, values: Floats | None = None) -> Floats:
        """Return the sum of the values in each block, or how many there are."""
        return np.bincount(self.of(places), weights=values, minlength=self.count).astype(np.float64)

    def draws(self, rng: np.random.Generator) -> Floats:
        """Return how often each block is drawn in each replicate, (REPLICATES, count)."""
        drawn = rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=REPLICATES)
        return drawn.astype(np.float64)


def _alike(base: Sequence[RunSample], cand: Sequence[RunSample], blocks: Blocks, paired: bool) -> bool:
    """Whether neighbouring blocks resemble each other, in what is left of them where prompts cancel out."""
    limit = RESEMBLANCE / math.sqrt(blocks.count)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = [
                np.mean([np.log(mean_of(run, name, blocks).by_block) for run in side], axis=0) for side in (base, cand)
            ]
        for series in [sides[1] - sides[0]] if paired else sides:
            correlation = _neighbours(series)
            if correlation is not None and correlation > limit:
                return True
    return False


def _neighbours(series: Floats) -> float | None:
    """Return the correlation of each value with the next; None where there is nothing to correlate."""
    series = series[np.isfinite(series)]
    if len(series) < LEAST_BLOCKS:
        return None
    series = series - series.mean()
    spread = float(series @ series)
    return float(series[1:] @ series[:-1]) / spread if spread > _NOTHING else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A figure that is one sum over another: a mean, a rate, a share."""

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
    """A percentile, from how many of each block's values lie at or below each step of a grid."""

    share: float
    grid: Floats
    at_most: Floats
    counts: Floats

    def redrawn(self, draws: Floats) -> Floats:
        """Return the percentile of each replicate, between two steps of the grid in a straight line."""
        reached, wanted = draws @ self.at_most, self.share * (draws @ self.counts)
        step = np.minimum((reached < wanted[:, None]).sum(axis=1), len(self.grid) - 1)
        rows, before = np.arange(len(draws)), np.maximum(step - 1, 0)
        low, high = reached[rows, before], reached[rows, step]
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(high > low, (wanted - low) / (high - low), 1.0)
        start, end = self.grid[before], self.grid[step]
        redrawn: Floats = np.where(wanted > 0, start + np.clip(part, 0.0, 1.0) * (end - start), np.nan)
        return redrawn


def mean_of(run: RunSample, name: str, blocks: Blocks) -> Ratio:
    """Return the mean of a number over judged requests; those for which it is unknown are left out."""
    places = np.flatnonzero(run.judged & np.isfinite(run.numbers[name]))
    return Ratio(above=blocks.sums(places, run.numbers[name][places]), below=blocks.sums(places))


def share_of(run: RunSample, which: Flags, blocks: Blocks) -> Ratio:
    """Return which share of the requests that ended in the window is among `which`."""
    return Ratio(above=blocks.sums(np.flatnonzero(run.ended & which)), below=blocks.sums(np.flatnonzero(run.ended)))


def quantile_of(values: Floats, places: Places, share: float, blocks: Blocks, requests: int) -> Quantile:
    """Return a percentile of values that belong to requests at the given places."""
    reach = min(0.25, 8 * math.sqrt(share * (1 - share) * 5 / max(requests, 1)))
    near = np.clip(np.linspace(share - reach, share + reach, _GRID), 0, 1)
    grid = np.unique(np.quantile(values, np.concatenate([np.linspace(0, 1, _GRID // 5), near])))
    step = np.searchsorted(grid, values)  # the first step at or above each value
    cells = np.bincount(blocks.of(places) * len(grid) + step, minlength=blocks.count * len(grid))
    at_most = np.cumsum(cells.reshape(blocks.count, len(grid)), axis=1).astype(np.float64)
    return Quantile(share=share, grid=grid, at_most=at_most, counts=at_most[:, -1])


def rates_of(run: RunSample, blocks: Blocks) -> tuple[Ratio, Ratio]:
    """
    Return answers a second and tokens a second, over stretches of time in which a block's answers ended.

    Rates have no value of a single request. The run is cut where each block's last answer, in the order of their ends,
    came: every stretch of the window and everything that arrived in it belongs to one block.
    """
    ends_s = np.sort(run.done_s[run.completed])
    cuts_s = ends_s[blocks.length - 1 :: blocks.length]
    edges_s = np.clip(np.concatenate([[-np.inf], cuts_s, [np.inf]]), run.opened_s, run.closed_s)
    spans_s, stretches = np.diff(edges_s), np.arange(len(cuts_s) + 1) * blocks.length
    time_s = blocks.sums(stretches, spans_s)
    ended_s = ends_s[run.within(ends_s)]
    answers = blocks.sums(np.searchsorted(cuts_s, ended_s, side="left") * blocks.length)
    at_s, tokens = run.arrivals
    inside = run.within(at_s)
    arrived = blocks.sums(np.searchsorted(cuts_s, at_s[inside], side="left") * blocks.length, tokens[inside])
    return Ratio(above=answers, below=time_s), Ratio(above=arrived, below=time_s)
