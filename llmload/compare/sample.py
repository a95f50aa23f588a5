"""The requests of one run as arrays, its figures by blocks of requests, and the blocks that fit two sets of runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from llmload.metrics.requests import RequestTable
from llmload.stats.bootstrap import MIN_BLOCKS, Blocks, Floats, Indices, Ratio, neighbour_correlation

Flags = npt.NDArray[np.bool_]

_NUMBERS: Final = ("ttft_s", "tpot_s", "e2e_s", "output_tokens_per_s", "output_tokens")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSample:
    """
    Every request of a run, in the order of their starts; nan is unknown.

    `started_s` and `done_s` are seconds since 1970; the window reaches from `opened_s` to `closed_s`. `gap_s` has the
    gaps of all requests one after the other (start to first chunk, then chunk to chunk), `gaps` how many each request
    has: 0 if the run did not record chunks.
    """

    started_s: Floats
    done_s: Floats
    completed: Flags
    failed: Flags
    numbers: Mapping[str, Floats]
    """`ttft_s`, `tpot_s`, `e2e_s`, `output_tokens_per_s` and `output_tokens` of each request."""
    gap_s: Floats
    gaps: Indices
    opened_s: float
    closed_s: float

    @classmethod
    def of(cls, tables: Iterable[RequestTable], *, opened_s: float | None, window_s: float | None) -> Self:
        """
        Return the sample of a run's tables, whose times are unix time.

        Without `opened_s` the window opens with the first request; without `window_s` it is empty.
        """
        table = RequestTable.joined(tables).sorted_by_start()
        opened_s = (float(table.start_s[0]) if len(table) else 0.0) if opened_s is None else opened_s
        return cls(
            started_s=table.start_s,
            done_s=table.done_s,
            completed=table.completed,
            failed=table.failed,
            numbers={name: table.numbers[name] for name in _NUMBERS},
            gap_s=table.gap_s,
            gaps=table.gaps,
            opened_s=opened_s,
            closed_s=opened_s + (window_s or 0.0),
        )

    @property
    def window_s(self) -> float:
        """Length of the window."""
        return self.closed_s - self.opened_s

    @cached_property
    def measured(self) -> Flags:
        """Which requests have latencies: complete answers whose request started in the window."""
        return self.completed & self.within(self.started_s)

    @cached_property
    def ended(self) -> Flags:
        """Which requests ended in the window, with an answer or an error."""
        return (self.completed | self.failed) & self.within(self.done_s)

    @cached_property
    def in_flight(self) -> float:
        """Mean number of requests in flight in the window."""
        if self.window_s <= 0:
            return 0.0
        busy_s = np.minimum(self.done_s, self.closed_s) - np.maximum(self.started_s, self.opened_s)
        return float(np.maximum(busy_s, 0.0).sum() / self.window_s)

    def within(self, moments_s: Floats) -> Flags:
        """Return which moments are in the window."""
        return (moments_s >= self.opened_s) & (moments_s <= self.closed_s)

    @cached_property
    def arrivals(self) -> tuple[Floats, Floats]:
        """
        When output tokens arrived, and how many at each moment.

        An answer's tokens are spread evenly over its chunks; if chunks were not recorded, they arrive with its end.
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
    def inter_token(self) -> tuple[Floats, Indices]:
        """Every gap between neighbouring chunks of measured requests, and the index of its request."""
        first = np.zeros(len(self.gap_s), dtype=np.bool_)
        first[(np.cumsum(self.gaps) - self.gaps)[self.gaps > 0]] = True
        owner = np.repeat(np.arange(len(self.gaps)), self.gaps)
        wanted = ~first & self.measured[owner]
        return np.maximum(self.gap_s[wanted], 0.0), owner[wanted]


MAX_BLOCKS: Final = 64
IN_FLIGHT_PER_BLOCK: Final = 2.0
"""A block has at least this many times the requests in flight, so that batches begin and end within it."""
CORRELATION_ERRORS: Final = 1.0
"""Neighbouring blocks count as correlated from this many standard errors of their correlation."""


def blocks_over(base: Sequence[RunSample], candidate: Sequence[RunSample], *, paired: bool) -> Blocks:
    """
    Return blocks that split all runs at the same indices, so that one draw takes the same prompts from each.

    They are doubled until neighbours are not correlated, or only `MIN_BLOCKS` are left.
    """
    runs = [*base, *candidate]
    requests = min(int(run.measured.sum()) for run in runs)
    in_flight = (math.ceil(IN_FLIGHT_PER_BLOCK * run.in_flight) for run in runs)
    shortest = max(1, math.ceil(requests / MAX_BLOCKS), *in_flight)
    length = min(shortest, max(1, requests // MIN_BLOCKS))
    indices = np.concatenate([np.flatnonzero(run.measured | run.ended) for run in runs])
    while requests // (2 * length) >= MIN_BLOCKS and _correlated(
        base, candidate, Blocks.covering(indices, length), paired
    ):
        length *= 2
    return Blocks.covering(indices, length)


def _correlated(base: Sequence[RunSample], candidate: Sequence[RunSample], blocks: Blocks, paired: bool) -> bool:
    """Whether a latency of neighbouring blocks is correlated; of paired runs, the change of that latency."""
    limit = CORRELATION_ERRORS / math.sqrt(blocks.count)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = [
                np.mean([np.log(mean_of(run, name, blocks).by_block) for run in side], axis=0)
                for side in (base, candidate)
            ]
        for series in [sides[1] - sides[0]] if paired else sides:
            correlation = neighbour_correlation(series)
            if correlation is not None and correlation > limit:
                return True
    return False


def mean_of(run: RunSample, name: str, blocks: Blocks) -> Ratio:
    """Return the mean of a number over the measured requests for which it is known."""
    indices = np.flatnonzero(run.measured & np.isfinite(run.numbers[name]))
    return Ratio(above=blocks.sums(indices, run.numbers[name][indices]), below=blocks.sums(indices))


def share_of(run: RunSample, which: Flags, blocks: Blocks) -> Ratio:
    """Return the share of the requests that ended in the window and are in `which`."""
    return Ratio(above=blocks.sums(np.flatnonzero(run.ended & which)), below=blocks.sums(np.flatnonzero(run.ended)))


def rates_of(run: RunSample, blocks: Blocks) -> tuple[Ratio, Ratio]:
    """
    Return answers per second and tokens per second, over the stretches of time in which a block's answers ended.

    A single request has no rate. The run is cut where each block's last answer ended, in the order of their ends: each
    stretch of the window, and everything that arrived in it, belongs to one block.
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
