"""The effects that move a figure by a size that follows from the run's own totals, each with its reason and remedy."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from llmload.metrics.requests import QUANTILES
from llmload.metrics.totals import RunTotals
from llmload.record import BULK_READS_S
from llmload.stats.histogram import Histogram

DEGRADED_PART: Final = 0.05
"""
A figure is marked if it may be off by more than this part of itself, which is what `llmload compare` accepts of a p95,
and by more than chance moves a percentile of as many values.
"""
LEAST_LAG_S: Final = 0.001
"""A schedule lag below a millisecond is not marked: tables show little more, and no network is as steady."""


@dataclass(frozen=True, slots=True)
class Size:
    """A figure, and between what the true one lies."""

    figure: str
    statistic: str
    value: float
    low: float
    high: float

    @property
    def part(self) -> float:
        """How far the true figure may be away, as a part of this one."""
        off = max(self.value - self.low, self.high - self.value)
        return off / self.value if self.value else math.inf if off else 0.0

    @property
    def name(self) -> str:
        """Figure and statistic, as `Reason.figures` has them."""
        return f"{self.figure} {self.statistic}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A check whose limit is how far it may move a figure, as a part of that figure."""

    name: str
    sizes: Callable[[RunTotals], Iterator[Size]]
    figures: tuple[str, ...]
    """The figures that it may move."""
    why: str
    remedy: str


_READ_SOONER: Final = "--processes 2 where the client is short of CPU; some engines send several chunks at a time"


def _shared_reads(totals: RunTotals) -> Iterator[Size]:
    """
    Yield the ITL's quantiles: shared reads give gaps of 0, which may be too short, after one that is too long.

    Of n gaps, z are 0 and at most z too long. So at most z of them lie on the wrong side of any value, and the true
    quantile q lies between the measured q - z/n and q + z/n. The mean is right, since gaps add up.
    """
    gaps = totals.distributions["itl_s"]
    if not gaps.count or not totals.coalesced_chunks:
        return
    share = totals.coalesced_chunks / gaps.count
    for name, value, quantile in _quantiles(gaps, with_max=True):
        yield Size("itl_s", name, value, _lower(gaps, quantile - share), _upper(gaps, quantile + share))


def _first_chunks(totals: RunTotals) -> Iterator[Size]:
    """Yield TTFT's quantiles, too high by unknown times for the answers whose first chunk has the second's stamp."""
    if not totals.first_chunk_shared:
        return
    for figure in ("ttft_s", "ttft_from_schedule_s"):
        times = totals.distributions[figure]
        for name, value, quantile in _quantiles(times):
            yield Size(figure, name, value, _lower(times, quantile - totals.first_chunk_shared / times.count), value)


def _user_stamps(totals: RunTotals) -> Iterator[Size]:
    """Yield latencies whose stamps the process took itself: late by up to the event loop's lag (its p99)."""
    lag_s = totals.distributions["event_loop_lag_s"].quantile(0.99)
    if lag_s is not None and not totals.missed_bytes:
        yield from _stamped_late(totals, lag_s)


def _missed_segments(totals: RunTotals) -> Iterator[Size]:
    """Yield the same where the packet ring missed segments, and so when their bytes came: they wait for a bulk read."""
    if totals.missed_bytes:
        lag_s = totals.distributions["event_loop_lag_s"].quantile(0.99) or 0.0
        yield from _stamped_late(totals, BULK_READS_S + lag_s)


def _stamped_late(totals: RunTotals, late_s: float) -> Iterator[Size]:
    """
    Yield the latencies, some of whose answers have stamps that are late by up to this time.

    Of n values, u may be late. So at most u of them lie on the wrong side of any value, and the true quantile q lies
    between the measured q - u/n and q, or q + u/n where the stamp at the beginning may be late, too.
    """
    late, answers = totals.stamp_sources["user"], sum(totals.stamp_sources.values())
    if not late:
        return
    share = late / answers
    tokens = totals.distributions["request_output_tokens"].mean or 2.0
    early = {"itl_s": late_s, "tpot_s": late_s / max(1.0, tokens - 1)}
    for figure in (*_STAMPED, "tpot_s"):
        times = totals.distributions[figure]
        off_s, early_s = early.get(figure, late_s), early.get(figure, 0.0)
        for name, value, _ in _mean(times):
            yield Size(figure, name, value, max(0.0, value - share * off_s), value + share * early_s)
        for name, value, quantile in _quantiles(times):
            low = max(0.0, value - off_s, _lower(times, quantile - share))
            high = min(value + early_s, _upper(times, quantile + share)) if early_s else value
            yield Size(figure, name, value, low, high)


def _late_departures(totals: RunTotals) -> Iterator[Size]:
    """
    Yield the latencies from the start: without what the client took before the request left, they were shorter.

    A part of 1 - p of the requests was later than the quantile p of these delays, d. So the true quantile q is at least
    the measured q - (1 - p), less d; that of TTFT is at least that on the wire, which has no opening of a connection.
    """
    delays = totals.distributions["departure_delay_s"]
    if not delays.count or delays.mean is None:
        return
    for figure in FROM_START:
        times = totals.distributions[figure]
        for name, value, _ in _mean(times):
            if delays.mean > LEAST_LAG_S:
                yield Size(figure, name, value, max(0.0, value - delays.mean), value)
        for name, value, quantile in _quantiles(times):
            lows = [_lower(times, quantile - rest) - _upper(delays, 1 - rest) for rest in _RESTS]
            wire = totals.distributions["ttft_wire_s"] if figure == "ttft_s" else None
            lows += [] if wire is None else [_lower(wire, quantile)]
            if value - (low := max(0.0, *lows)) > LEAST_LAG_S:
                yield Size(figure, name, value, low, value)
    e2e_s, speed = totals.distributions["e2e_s"].mean, totals.distributions["request_output_tokens_per_s"].mean
    if e2e_s and speed and e2e_s > delays.mean > LEAST_LAG_S:
        yield Size("request_output_tokens_per_s", "mean", speed, speed, speed * e2e_s / (e2e_s - delays.mean))


def _late_segments(totals: RunTotals) -> Iterator[Size]:
    """
    Yield the ITL's quantiles: bytes behind a lost segment wait until it has come again.

    Of n gaps, at most as many are too long as segments came late, r; so the true quantile q is at least the measured
    q - r/n. A segment that merely came twice delays nothing: a busy host sends one again whose acknowledgement is late.
    """
    gaps = totals.distributions["itl_s"]
    among = totals.all_answers("itl_s").count
    if not among or not totals.late_segments:
        return
    share = min(1.0, totals.late_segments / among)
    for name, value, quantile in _quantiles(gaps):
        yield Size("itl_s", name, value, _lower(gaps, quantile - share), value)


def _schedule_lag(totals: RunTotals) -> Iterator[Size]:
    """Yield the latencies from schedule: without the lag they would be those from the start."""
    for figure, since_start in (("ttft_from_schedule_s", "ttft_s"), ("e2e_from_schedule_s", "e2e_s")):
        times, without = totals.distributions[figure], totals.distributions[since_start]
        for name, value, quantile in (*_mean(times), *_quantiles(times)):
            low = without.mean if name == "mean" else without.quantile(quantile)
            if low is not None and value - low > LEAST_LAG_S:
                yield Size(figure, name, value, low, value)


def _mean(values: Histogram) -> Iterator[tuple[str, float, float]]:
    if values.mean is not None:
        yield "mean", values.mean, math.nan


def _quantiles(values: Histogram, *, with_max: bool = False) -> Iterator[tuple[str, float, float]]:
    """Yield name, value and share of each quantile; nothing of an empty histogram."""
    for name, share in {**QUANTILES, **({"max": 1.0} if with_max else {})}.items():
        if (value := values.quantile(share)) is not None:
            yield name, value, share


def _lower(values: Histogram, share: float) -> float:
    """Return the quantile; 0 below the first value, which may have been moved from there."""
    return (values.quantile(share) or 0.0) if share > 0 else 0.0


def _upper(values: Histogram, share: float) -> float:
    return values.quantile(min(1.0, share)) or 0.0


_RESTS: Final = (0.0, 0.001, 0.01, 0.05, 0.1)
FROM_START: Final = ("ttft_s", "e2e_s", "ttft_from_schedule_s", "e2e_from_schedule_s")
_STAMPED: Final = ("ttft_s", "itl_s", "e2e_s", "ttft_from_schedule_s", "e2e_from_schedule_s")

EFFECTS: Final = (
    Effect(
        name="coalesced_share",
        sizes=_shared_reads,
        figures=("itl_s",),
        why="chunks that were read together have one time stamp",
        remedy=_READ_SOONER,
    ),
    Effect(
        name="first_chunk_shared",
        sizes=_first_chunks,
        figures=("ttft_s", "ttft_from_schedule_s"),
        why="first chunks that were read together with the second have its time stamp",
        remedy=_READ_SOONER,
    ),
    Effect(
        name="user_stamp_share",
        sizes=_user_stamps,
        figures=(*_STAMPED, "tpot_s"),
        why="stamps taken by the process are late by up to its event loop's lag",
        remedy="--set client.kind=wire, on Linux",
    ),
    Effect(
        name="schedule_lag",
        sizes=_schedule_lag,
        figures=("ttft_from_schedule_s", "e2e_from_schedule_s"),
        why="requests were sent later than they were due, which is part of these latencies",
        remedy="--processes 2, or another machine than the engine's",
    ),
    Effect(
        name="missed_segments",
        sizes=_missed_segments,
        figures=(*_STAMPED, "tpot_s"),
        why="the packet ring missed segments, so their bytes have the time at which they were read",
        remedy="--processes 2, each of which has a ring",
    ),
    Effect(
        name="departure_delay",
        sizes=_late_departures,
        figures=(*FROM_START, "request_output_tokens_per_s"),
        why="the client sent its requests late, which is part of these figures, and not of ITL and TTFT on the wire",
        remedy="--processes 2, or a machine apart from the engine's",
    ),
    Effect(
        name="late_segments",
        sizes=_late_segments,
        figures=("itl_s",),
        why="segments were lost on the way, and chunks behind them waited: that is the network, not the engine",
        remedy="send from a machine nearer to the engine, or look for errors with ip -s link",
    ),
)
