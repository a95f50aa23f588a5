"""Is one build worse than another? Requests as arrays, each metric's change with its interval, and the outcome."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from llmload.metrics.objective import METRICS, Metric
from llmload.metrics.requests import RequestTable
from llmload.stats.bootstrap import (
    MIN_BLOCKS,
    Blocks,
    ChangeBootstrap,
    Floats,
    Indices,
    Quantile,
    Ratio,
    neighbour_correlation,
    upper_limit_of_none,
)
from llmload.stats.intervals import values_needed
from llmload.units import S_PER_MIN

# The requests of one run as arrays, its figures by blocks of requests, and the blocks that fit two sets of runs.

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


ERROR_RATE: Final = 0.05
"""How often a comparison of equal systems may fail, over all its metrics, and how often a metric may pass wrongly."""
MIN_REQUESTS: Final = 20
MIN_KNOWN: Final = 0.99
"""The fraction of replicates in which a figure must exist."""


class Outcome(StrEnum):
    """What a comparison concludes about a metric, and about two systems."""

    PASS = "PASS"  # noqa: S105 - an outcome, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    UNJUDGED = "not judged"  # not measured, or too few requests for such a figure


_NUMBER_OF: Final = {"request_output_tokens_per_s": "output_tokens_per_s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    A metric's change and outcome.

    `change` is candidate / base - 1, for a share the difference; its interval is `low` to `high`. The better end covers
    all judged metrics together with 95 %, the worse end covers this metric alone with 95 %.
    """

    metric: Metric
    threshold: float
    outcome: Outcome
    base: float | None = None
    candidate: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    note: str | None = None

    def by(self, threshold: float) -> Self:
        """Return the outcome by another threshold; a metric that was not judged stays unjudged."""
        if self.low is None or self.high is None:
            return replace(self, threshold=threshold)
        worst, best = (-self.low, -self.high) if self.metric.higher_is_better else (self.high, self.low)
        outcome = Outcome.FAIL if best > threshold else Outcome.PASS if worst <= threshold else Outcome.INCONCLUSIVE
        return replace(self, threshold=threshold, outcome=outcome)

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain values."""
        return {
            "metric": self.metric.name,
            "outcome": self.outcome.value,
            "base": self.base,
            "candidate": self.candidate,
            "change": self.change,
            "low": self.low,
            "high": self.high,
            "threshold": self.threshold,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The findings of all metrics, and how many requests and blocks they are from."""

    findings: tuple[Finding, ...]
    paired: bool
    blocks: int
    block_requests: int
    base_requests: tuple[int, ...]
    candidate_requests: tuple[int, ...]

    @property
    def outcome(self) -> Outcome:
        """FAIL if a metric fails, else INCONCLUSIVE if one is, else PASS; UNJUDGED if none was judged."""
        found = {finding.outcome for finding in self.findings}
        order = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
        return next((outcome for outcome in order if outcome in found), Outcome.UNJUDGED)

    @property
    def sees_runs(self) -> bool:
        """Whether the intervals include the difference between one run and the next."""
        return len(self.base_requests) > 1 or len(self.candidate_requests) > 1

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {
            "outcome": self.outcome.value,
            "paired_by_prompt": self.paired,
            "blocks": self.blocks,
            "requests_a_block": self.block_requests,
            "requests": {"base": list(self.base_requests), "candidate": list(self.candidate_requests)},
            "noise_between_runs_known": self.sees_runs,
            "metrics": [finding.to_dict() for finding in self.findings],
        }


def compare(
    base: Sequence[RunSample],
    candidate: Sequence[RunSample],
    *,
    paired: bool,
    thresholds: Mapping[str, float] | None = None,
    required: frozenset[str] = frozenset(),
    metrics: Sequence[Metric] = METRICS,
    seed: int = 0,
) -> Comparison:
    """
    Compare the candidate's runs with the base's, metric by metric.

    `paired`: all runs sent the same prompts in the same order, so that what prompts differ in cancels out.
    `thresholds` overrides those of metrics by name. A metric in `required` that cannot be judged is INCONCLUSIVE.
    """
    bootstrap = ChangeBootstrap(blocks_over(base, candidate, paired=paired), paired=paired, seed=seed)
    limits = {metric.name: metric.threshold for metric in metrics} | dict(thresholds or {})
    obstacles = {metric.name: _obstacle(metric, [*base, *candidate]) for metric in metrics}
    judged = sum(obstacle is None for obstacle in obstacles.values())
    findings = []
    for metric in metrics:
        figures = [_mean([figure_of(run, metric) for run in side]) for side in (base, candidate)]
        finding = Finding(
            metric=metric,
            threshold=limits[metric.name],
            outcome=Outcome.INCONCLUSIVE if metric.name in required else Outcome.UNJUDGED,
            base=figures[0],
            candidate=figures[1],
            note=obstacles[metric.name],
        )
        findings.append(finding if finding.note else _judged(finding, base, candidate, bootstrap, judged))
    return Comparison(
        findings=tuple(findings),
        paired=paired,
        blocks=bootstrap.blocks.count,
        block_requests=bootstrap.blocks.length,
        base_requests=tuple(int(run.measured.sum()) for run in base),
        candidate_requests=tuple(int(run.measured.sum()) for run in candidate),
    )


def figure_of(run: RunSample, metric: Metric) -> float | None:
    """Return a run's figure; None if not measured. Percentiles are by nearest rank."""
    if metric.is_share:
        return float((run.failed & run.ended).sum() / run.ended.sum()) if run.ended.any() else None
    if metric.statistic is None:
        if run.window_s <= 0:
            return None
        if metric.figure == "requests_per_min":
            return float((run.completed & run.ended).sum() / run.window_s * S_PER_MIN)
        if not np.isfinite(run.numbers["output_tokens"][run.measured]).all():
            return None
        at_s, tokens = run.arrivals
        return float(tokens[run.within(at_s)].sum() / run.window_s)
    values = _values(run, metric)[0]
    if not len(values):
        return None
    quantile = metric.quantile
    return float(values.mean() if quantile is None else np.quantile(values, quantile, method="inverted_cdf"))


def _values(run: RunSample, metric: Metric) -> tuple[Floats, Indices]:
    """The values of a distribution, and the indices of their requests."""
    if metric.figure == "itl_s":
        return run.inter_token
    numbers = run.numbers[_NUMBER_OF.get(metric.figure, metric.figure)]
    indices = np.flatnonzero(run.measured & np.isfinite(numbers))
    return numbers[indices], indices


def _obstacle(metric: Metric, runs: Sequence[RunSample]) -> str | None:
    """Why a metric cannot be judged; None if it can."""
    if any((figure := figure_of(run, metric)) is None or (figure <= 0 and not metric.is_share) for run in runs):
        return "not measured"
    requests = min(int((run.ended if metric.is_share else run.measured).sum()) for run in runs)
    if requests < MIN_REQUESTS:
        return f"{requests} requests, needs {MIN_REQUESTS}"
    if metric.quantile is not None:
        values = min(len(_values(run, metric)[0]) for run in runs)
        needed = values_needed(metric.quantile)
        if values < needed:
            return f"{values} values, needs {needed}"
    return None


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if len(known) == len(figures) else None


def _judged(
    finding: Finding, base: Sequence[RunSample], candidate: Sequence[RunSample], bootstrap: ChangeBootstrap, judged: int
) -> Finding:
    """Return the finding with its interval and outcome; `judged` metrics share the rate of false failures."""
    metric = finding.metric
    if finding.base is None or finding.candidate is None:
        raise ValueError(f"{metric.name} was not measured")
    centre = finding.candidate - finding.base if metric.is_share else math.log(finding.candidate / finding.base)
    deviations = bootstrap.deviations(
        (
            [_blocked(metric, run, bootstrap.blocks) for run in base],
            [_blocked(metric, run, bootstrap.blocks) for run in candidate],
        ),
        (_levels(metric, base), _levels(metric, candidate)),
        log=not metric.is_share,
    )
    known = np.isfinite(deviations)
    if known.mean() < MIN_KNOWN:
        return replace(finding, outcome=Outcome.INCONCLUSIVE, note="too few requests in most stretches of the run")
    each, together = ERROR_RATE, ERROR_RATE / judged
    shares = (each, 1 - together) if metric.higher_is_better else (together, 1 - each)
    low, high = (centre + float(deviation) for deviation in np.quantile(deviations[known], shares))
    if metric.is_share:
        low, high = min(low, centre), max(high, _most_errors(candidate) - finding.base, centre)
        change = centre
    else:
        low, high = math.expm1(min(low, centre)), math.expm1(max(high, centre))
        change = finding.candidate / finding.base - 1
    return replace(finding, change=change, low=low, high=high).by(finding.threshold)


def _levels(metric: Metric, runs: Sequence[RunSample]) -> Floats:
    figures = np.array([figure_of(run, metric) for run in runs], dtype=np.float64)
    return figures if metric.is_share else np.log(figures)


def _most_errors(runs: Sequence[RunSample]) -> float:
    """The highest error share that runs without any error still allow; 0 if there was an error."""
    ended = sum(int(run.ended.sum()) for run in runs)
    failed = sum(int((run.ended & run.failed).sum()) for run in runs)
    return 0.0 if failed else upper_limit_of_none(ended, ERROR_RATE)


def _blocked(metric: Metric, run: RunSample, blocks: Blocks) -> Ratio | Quantile:
    if metric.is_share:
        return share_of(run, run.failed, blocks)
    if metric.statistic is None:
        answers, tokens = rates_of(run, blocks)
        return answers if metric.figure == "requests_per_min" else tokens
    if metric.quantile is None:
        return mean_of(run, _NUMBER_OF.get(metric.figure, metric.figure), blocks)
    values, indices = _values(run, metric)
    return Quantile.of(values, indices, metric.quantile, blocks, int(run.measured.sum()))
