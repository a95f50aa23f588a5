"""A run over time: when its window and stages were, figures in equal bins, and a sample of its requests."""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from llmload.metrics.requests import LATENCIES, Floats, Ints, Mask, RequestTable
from llmload.metrics.totals import RunTotals
from llmload.record import Window
from llmload.runs.folder import Manifest
from llmload.stats.histogram import HistogramSeries
from llmload.units import NS_PER_S

# When a run's window and stages were, on its own time axis, by its manifest.


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage that began, in seconds since the run's start; `window_start_s` is where its warm-up ended."""

    name: str
    start_s: float
    window_start_s: float | None
    end_s: float
    users: int | None = None
    rate_per_s: float | None = None

    @property
    def window(self) -> Window:
        """The part of the stage that is measured."""
        return _window(self.window_start_s, self.end_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The parts of a run on its own time axis, in seconds since its start."""

    window: Window
    estimated: bool
    """Whether the run did not write down where its window was."""
    stages: tuple[Stage, ...]

    def bounded(self, totals: RunTotals) -> Window:
        """Return the window with both ends: a counted run's is from its first request to its last answer."""
        window, first_s, last_s = self.window, totals.first_started_s, totals.last_done_s
        if window.start_s is None or window.end_ns is not None or first_s is None or last_s is None:
            return window
        return _window(max(first_s, window.start_s), last_s)


def read_periods(manifest: Manifest, *, last_s: float, span_s: float) -> Periods:
    """
    Return when window and stages were.

    `last_s` is when the last request ended, `span_s` the length of the whole run, both since the run's start.
    """
    times, duration_s = manifest.timeline, manifest.scenario.load.ends_after_s
    end_s = None if duration_s is None else min(last_s, duration_s)
    closed_s = _since(times.window_end_unix_s, manifest)
    return Periods(
        window=_window(_since(times.window_start_unix_s, manifest), end_s if closed_s is None else closed_s),
        estimated=closed_s is None and end_s is not None,
        stages=_stages_of_manifest(manifest, span_s),
    )


def _window(start_s: float | None, end_s: float | None) -> Window:
    """Return the window between two moments, on the clock of a run's tables."""
    start_ns, end_ns = (None if each is None else round(each * NS_PER_S) for each in (start_s, end_s))
    return Window(start_ns=start_ns, end_ns=end_ns)


def _stages_of_manifest(manifest: Manifest, span_s: float) -> tuple[Stage, ...]:
    times = manifest.timeline.stages
    begun = [(start_s, each) for each in times if (start_s := _since(each.start_unix_s, manifest)) is not None]
    following = [*(start_s for start_s, _ in begun[1:]), span_s]
    return tuple(
        Stage(
            name=each.name,
            start_s=start_s,
            window_start_s=_since(each.window_start_unix_s, manifest),
            end_s=_since(each.end_unix_s, manifest) or next_s,
            users=each.users,
            rate_per_s=each.rate_per_s,
        )
        for (start_s, each), next_s in zip(begun, following, strict=False)
    )


def _since(unix_s: float | None, manifest: Manifest) -> float | None:
    return None if unix_s is None else unix_s - manifest.started_unix_s


WIDTHS_S: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
MAX_BINS: Final = 240
MIN_BINS: Final = 24
REQUESTS_PER_BIN: Final = 10
"""At least, on average, unless that leaves fewer than MIN_BINS: bins with fewer show noise."""
SAMPLE_SIZE: Final = 1_500
"""How many requests are shown one by one."""


def bin_width_s(span_s: float, requests: float) -> float:
    """Return the width of a bin for a run of that length and about that number of requests."""
    bins = min(MAX_BINS, max(MIN_BINS, requests / REQUESTS_PER_BIN))
    return next((width for width in WIDTHS_S if span_s / width <= bins), span_s / bins)


@dataclass(slots=True)
class RequestSample:
    """A uniform random sample of requests (reservoir sampling by random keys)."""

    keys: Floats = field(default_factory=lambda: np.empty(0))
    rows: dict[str, Floats] = field(default_factory=dict)

    def add(self, rows: dict[str, Floats], random: np.random.Generator) -> None:
        """Offer requests as columns of one length; those with the smallest random keys are kept."""
        keys = np.concatenate([self.keys, random.random(len(next(iter(rows.values()))))])
        kept = np.argpartition(keys, SAMPLE_SIZE)[:SAMPLE_SIZE] if len(keys) > SAMPLE_SIZE else np.arange(len(keys))
        self.keys = keys[kept]
        self.rows = {
            name: np.concatenate([self.rows.get(name, np.empty(0)), values])[kept] for name, values in rows.items()
        }


class Timeline:
    """Bins of `width_s` from the run's start to its end; what is outside counts in the first or last."""

    def __init__(self, width_s: float, span_s: float) -> None:
        self.width_s, self.bins = width_s, max(1, math.ceil(span_s / width_s - 1 / 4))
        self.span_s = span_s
        self.tokens = np.zeros(self.bins)
        """Output tokens by the arrival of their chunks; spread evenly over the answer where those were not recorded."""
        self.completed: Ints = np.zeros(self.bins, dtype=np.int64)
        self.censored: Ints = np.zeros(self.bins, dtype=np.int64)
        self.errors: dict[str, Ints] = {}
        self.latencies = {name: HistogramSeries(self.bins) for name in LATENCIES}
        """Of answers, by their start; gaps between chunks by the arrival of the later one."""
        self.sample = RequestSample()
        self.evenly_spread = 0
        """Answers whose tokens were spread evenly."""
        self._busy_s = np.zeros(self.bins)
        self._entered: Ints = np.zeros(self.bins + 1, dtype=np.int64)
        self._ends_s = np.cumsum(self.widths_s)
        self._random = np.random.default_rng(0)

    @property
    def widths_s(self) -> Floats:
        """The width of each bin: the last is cut, or stretched by up to a quarter, to end with the run."""
        widths_s = np.full(self.bins, self.width_s, dtype=np.float64)
        widths_s[-1] = self.span_s - (self.bins - 1) * self.width_s
        return widths_s

    @property
    def middles_s(self) -> list[float]:
        """The middle of each bin, in seconds since the run's start."""
        return [float(middle) for middle in np.cumsum(self.widths_s) - self.widths_s / 2]

    @property
    def in_flight(self) -> list[float]:
        """The mean number of requests in flight in each bin."""
        full = np.cumsum(self._entered)[:-1] * self.widths_s
        return [max(0.0, float(each)) for each in (full + self._busy_s) / self.widths_s]

    def add(self, table: RequestTable) -> None:
        """Count requests that have ended."""
        completed, failed = table.completed, table.failed
        done_bins = self._bins_of(table.done_s)
        self.completed += self._tally(done_bins[completed])
        self.censored += self._tally(done_bins[~completed & ~failed])
        errors = table.categories["error_type"]
        for error in {each for each in errors if each is not None}:
            which = np.fromiter((each == error for each in errors), np.bool_, len(table))
            self.errors.setdefault(error, np.zeros(self.bins, dtype=np.int64))
            self.errors[error] += self._tally(done_bins[which])
        self._add_in_flight(table)
        self._add_tokens(table, ~failed)
        self._add_latencies(table, completed)
        self.sample.add(
            {
                "start_s": table.start_s,
                **{name: table.numbers[name] for name in ("e2e_s", "ttft_s", "tpot_s")},
                "completed": completed.astype(np.float64),
            },
            self._random,
        )

    def _bins_of(self, moments_s: Floats) -> Ints:
        return np.clip((moments_s / self.width_s).astype(np.int64), 0, self.bins - 1)

    def _tally(self, bins: Ints) -> Ints:
        return np.bincount(bins, minlength=self.bins)

    def _add_in_flight(self, table: RequestTable) -> None:
        """Add each request from its start to its end: to the rest of its first bin, and to every later bin whole."""
        for moments_s, sign in ((table.start_s, 1), (table.done_s, -1)):
            moments_s = np.clip(moments_s, 0.0, self.span_s)
            bins = self._bins_of(moments_s)
            left_s = self._ends_s[bins] - moments_s
            self._busy_s += sign * np.bincount(bins, weights=left_s, minlength=self.bins)
            self._entered[1:] += sign * self._tally(bins)

    def _add_tokens(self, table: RequestTable, arrived: Mask) -> None:
        tokens = np.where(arrived, np.nan_to_num(table.numbers["output_tokens"]), 0.0)
        by_chunk = table.gaps > 0
        if len(table.gap_s):
            each = np.repeat(tokens / np.maximum(table.gaps, 1), table.gaps)
            self.tokens += np.bincount(self._bins_of(table.stamps_ns / NS_PER_S), weights=each, minlength=self.bins)
        spread = ~by_chunk & (tokens > 0)
        if spread.any():
            first_s = table.start_s + np.nan_to_num(table.numbers["ttft_s"])
            self._spread(first_s[spread], table.done_s[spread], tokens[spread])
            self.evenly_spread += int(np.count_nonzero(spread))

    def _spread(self, from_s: Floats, to_s: Floats, amounts: Floats) -> None:
        """Add amounts that arrive at an even rate, as a running integral read at both ends of each bin."""
        ramps, steps = np.zeros(self.bins), np.zeros(self.bins + 1)
        rates = amounts / np.maximum(to_s - from_s, 1e-9)
        for moments_s, sign in ((from_s, 1.0), (to_s, -1.0)):
            moments_s = np.clip(moments_s, 0.0, self.span_s)
            bins = self._bins_of(moments_s)
            left_s = self._ends_s[bins] - moments_s
            ramps += sign * np.bincount(bins, weights=rates * left_s, minlength=self.bins)
            steps[1:] += sign * np.bincount(bins, weights=rates, minlength=self.bins)
        self.tokens += np.maximum(0.0, ramps + np.cumsum(steps)[:-1] * self.widths_s)

    def _add_latencies(self, table: RequestTable, completed: Mask) -> None:
        bins = self._bins_of(table.start_s)
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            values = table.numbers[name]
            known = completed & ~np.isnan(values)
            self.latencies[name].add(bins[known], np.maximum(values[known], 0.0))
        if len(table.gap_s):
            later = ~table.is_first_gap & np.repeat(completed, table.gaps)
            arrived = self._bins_of((table.stamps_ns / NS_PER_S)[later])
            self.latencies["itl_s"].add(arrived, np.maximum(table.gap_s[later], 0.0))


def grouping(counts: npt.NDArray[np.int64], *, min_count: int = 40, min_groups: int = 8) -> int:
    """Return how many neighbouring bins to join, so that the median group has `min_count` values."""
    used = counts[counts > 0]
    typical = float(np.median(used)) if len(used) else 1.0
    wanted = int(np.ceil(min_count / max(typical, 1.0)))
    return max(1, min(wanted, len(counts) // min_groups))
