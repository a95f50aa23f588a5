"""Is one build worse than another? Each metric's change, how sure it is, and what follows from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np

from llmload.compare.sample import (
    REPLICATES,
    Blocks,
    Floats,
    Quantile,
    Ratio,
    RunSample,
    mean_of,
    quantile_of,
    rates_of,
    share_of,
)
from llmload.metrics.compared import METRICS, Metric
from llmload.units import S_PER_MIN

ERROR_RATE: Final = 0.05
"""How often a comparison of equal systems may fail, over all its metrics; and how often a metric may pass wrongly."""
LEAST_REQUESTS: Final = 20
MOSTLY: Final = 0.99
"""In so many replicates a figure must exist."""
LEAST_BEYOND: Final = 20
"""A percentile is judged where so many values lie beyond it in each run."""


class Outcome(StrEnum):
    """What is said of a metric."""

    PASS = "PASS"  # noqa: S105 - an outcome, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    UNJUDGED = "not judged"  # not measured, or too few requests for such a figure


_NUMBER_OF: Final = {"request_output_tokens_per_s": "output_tokens_per_s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """
    What a comparison says of a metric.

    `change` is candidate / base - 1, for a share the difference; it lies between `low` and `high`. Of these ends, the
    one nearer to good holds for all judged metrics together with 95 %, the one nearer to bad for this metric with 95 %.
    """

    metric: Metric
    threshold: float
    outcome: Outcome
    base: float | None = None
    cand: float | None = None
    change: float | None = None
    low: float | None = None
    high: float | None = None
    note: str | None = None

    def by(self, threshold: float) -> Self:
        """Return what the same interval says by another threshold; a metric that was not judged stays so."""
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
            "candidate": self.cand,
            "change": self.change,
            "low": self.low,
            "high": self.high,
            "threshold": self.threshold,
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The findings of all metrics, and what they rest on."""

    findings: tuple[Finding, ...]
    paired: bool
    blocks: int
    block_requests: int
    base_requests: tuple[int, ...]
    cand_requests: tuple[int, ...]

    @property
    def outcome(self) -> Outcome:
        """FAIL if a metric fails, else INCONCLUSIVE if one is, else PASS; UNJUDGED where none was judged."""
        found = {finding.outcome for finding in self.findings}
        order = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
        return next((outcome for outcome in order if outcome in found), Outcome.UNJUDGED)

    @property
    def sees_runs(self) -> bool:
        """Whether the intervals hold the difference between one run and the next."""
        return len(self.base_requests) > 1 or len(self.cand_requests) > 1

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        return {
            "outcome": self.outcome.value,
            "paired_by_prompt": self.paired,
            "blocks": self.blocks,
            "requests_a_block": self.block_requests,
            "requests": {"base": list(self.base_requests), "candidate": list(self.cand_requests)},
            "noise_between_runs_known": self.sees_runs,
            "metrics": [finding.to_dict() for finding in self.findings],
        }


def compare(
    base: Sequence[RunSample],
    cand: Sequence[RunSample],
    *,
    paired: bool,
    thresholds: Mapping[str, float] | None = None,
    asked_for: frozenset[str] = frozenset(),
    metrics: Sequence[Metric] = METRICS,
    seed: int = 0,
) -> Comparison:
    """
    Compare a system's runs with another's, metric by metric.

    `paired` says that all runs sent the same prompts in the same order, so that what prompts differ in cancels out.
    `thresholds` overrides those of metrics by name. A metric `asked_for` that cannot be judged is INCONCLUSIVE.
    """
    resampled = _Resampled(base, cand, paired=paired, seed=seed)
    limits = {metric.name: metric.threshold for metric in metrics} | dict(thresholds or {})
    hindered = {metric.name: _hindrance(metric, [*base, *cand]) for metric in metrics}
    judged = sum(hindrance is None for hindrance in hindered.values())
    findings = []
    for metric in metrics:
        figures = [_mean([figure_of(run, metric) for run in side]) for side in (base, cand)]
        finding = Finding(
            metric=metric,
            threshold=limits[metric.name],
            outcome=Outcome.INCONCLUSIVE if metric.name in asked_for else Outcome.UNJUDGED,
            base=figures[0],
            cand=figures[1],
            note=hindered[metric.name],
        )
        findings.append(finding if finding.note else resampled.judge(finding, judged))
    return Comparison(
        findings=tuple(findings),
        paired=paired,
        blocks=resampled.blocks.count,
        block_requests=resampled.blocks.length,
        base_requests=tuple(int(run.judged.sum()) for run in base),
        cand_requests=tuple(int(run.judged.sum()) for run in cand),
    )


def figure_of(run: RunSample, metric: Metric) -> float | None:
    """Return a run's figure; None where it was not measured. Percentiles are by nearest rank."""
    if metric.is_share:
        return float((run.failed & run.ended).sum() / run.ended.sum()) if run.ended.any() else None
    if metric.statistic is None:
        if run.window_s <= 0:
            return None
        if metric.figure == "requests_per_min":
            return float((run.completed & run.ended).sum() / run.window_s * S_PER_MIN)
        if not np.isfinite(run.numbers["output_tokens"][run.judged]).all():
            return None
        at_s, tokens = run.arrivals
        return float(tokens[run.within(at_s)].sum() / run.window_s)
    values = _values(run, metric)[0]
    if not len(values):
        return None
    share = metric.quantile
    return float(values.mean() if share is None else np.quantile(values, share, method="inverted_cdf"))


def _values(run: RunSample, metric: Metric) -> tuple[Floats, Any]:
    """The values of a distribution, and the places of their requests."""
    if metric.figure == "itl_s":
        return run.inter_token
    numbers = run.numbers[_NUMBER_OF.get(metric.figure, metric.figure)]
    places = np.flatnonzero(run.judged & np.isfinite(numbers))
    return numbers[places], places


def _hindrance(metric: Metric, runs: Sequence[RunSample]) -> str | None:
    """Why a metric cannot be judged; None where it can."""
    if any((figure := figure_of(run, metric)) is None or (figure <= 0 and not metric.is_share) for run in runs):
        return "not measured"
    requests = min(int((run.ended if metric.is_share else run.judged).sum()) for run in runs)
    if requests < LEAST_REQUESTS:
        return f"{requests} requests, needs {LEAST_REQUESTS}"
    if metric.quantile is not None:
        values = min(len(_values(run, metric)[0]) for run in runs)
        needed = math.ceil(LEAST_BEYOND / (1 - metric.quantile) - 1e-6)
        if values < needed:
            return f"{values} values, needs {needed}"
    return None


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if len(known) == len(figures) else None


class _Resampled:
    """Both sides' runs, and the draws of their blocks that every metric shares."""

    def __init__(self, base: Sequence[RunSample], cand: Sequence[RunSample], *, paired: bool, seed: int) -> None:
        self.base, self.cand = base, cand
        self.blocks = Blocks.over(base, cand, paired=paired)
        self._rng = np.random.default_rng(seed)
        first = self.blocks.draws(self._rng)
        self._draws = (first, first if paired else self.blocks.draws(self._rng))
        self._once = np.ones((1, self.blocks.count))

    def judge(self, finding: Finding, judged: int) -> Finding:
        """Return the finding with its interval and outcome; `judged` metrics share the rate of false failures."""
        metric, base, cand = finding.metric, finding.base, finding.cand
        if base is None or cand is None:
            raise ValueError(f"{metric.name} was not measured")
        centre = cand - base if metric.is_share else math.log(cand / base)
        moved = self._moved(metric)
        known = np.isfinite(moved)
        if known.mean() < MOSTLY:
            return replace(finding, outcome=Outcome.INCONCLUSIVE, note="too few requests in most stretches of the run")
        each, together = ERROR_RATE, ERROR_RATE / judged
        shares = (each, 1 - together) if metric.higher_is_better else (together, 1 - each)
        low, high = (centre + float(move) for move in np.quantile(moved[known], shares))
        if metric.is_share:
            low, high = min(low, centre), max(high, self._most_errors() - base, centre)
            change = centre
        else:
            low, high = math.expm1(min(low, centre)), math.expm1(max(high, centre))
            change = cand / base - 1
        return replace(finding, change=change, low=low, high=high).by(finding.threshold)

    def _moved(self, metric: Metric) -> Floats:
        """How far the change (as a logarithm, but for a share) lies from the measured one, in each replicate."""
        own = [
            [self._deviation(metric, run, draws) for run in side]
            for side, draws in zip((self.base, self.cand), self._draws, strict=True)
        ]
        blocks = self.blocks.count
        moved = np.mean(own[1], axis=0) - np.mean(own[0], axis=0)
        # Blocks tell their spread from their own mean, and it is itself uncertain: Student's t, not the normal.
        freedom = max(1, blocks - 1)
        within: Floats = moved * math.sqrt(blocks / freedom) * self._uncertain(freedom)
        return within + self._between(metric, own)

    def _deviation(self, metric: Metric, run: RunSample, draws: Floats) -> Floats:
        figure = _blocked(metric, run, self.blocks)
        redrawn, measured = figure.redrawn(draws), figure.redrawn(self._once)
        if metric.is_share:
            return redrawn - measured
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation: Floats = np.log(redrawn / measured)
        deviation[~np.isfinite(deviation)] = np.nan
        return deviation

    def _between(self, metric: Metric, own: Sequence[Sequence[Floats]]) -> Floats:
        """
        Return what runs of one system differ by beyond what their requests explain, drawn for each replicate.

        Three runs cannot be resampled: ten outcomes, and a spread a third too small. Their variance is drawn instead
        from what is known of it, s^2 * f / chi^2 with f degrees of freedom, less the variance that requests explain
        (Weerahandi 1993); a share of it that is drawn below zero is zero.
        """
        sides = [(runs, noise) for runs, noise in zip((self.base, self.cand), own, strict=True) if len(runs) > 1]
        if not sides:
            return np.zeros(REPLICATES)
        figures = [self._levels(metric, runs) for runs, _ in sides]
        freedom = sum(len(of) - 1 for of in figures)
        spread = sum(float(((of - of.mean()) ** 2).sum()) for of in figures) / freedom
        explained = (
            sum(float(np.nanvar(noise, axis=0, ddof=1).mean()) * (len(noise) - 1) for _, noise in sides) / freedom
        )
        variance = np.maximum(0.0, spread * self._uncertain(freedom) ** 2 - explained)
        scale = np.sqrt(variance * (1 / len(self.base) + 1 / len(self.cand)))
        drawn: Floats = self._rng.standard_normal(REPLICATES) * scale
        return drawn

    def _levels(self, metric: Metric, runs: Sequence[RunSample]) -> Floats:
        figures = np.array([figure_of(run, metric) for run in runs], dtype=np.float64)
        return figures if metric.is_share else np.log(figures)

    def _uncertain(self, freedom: int) -> Floats:
        drawn: Floats = np.sqrt(freedom / self._rng.chisquare(freedom, REPLICATES))
        return drawn

    def _most_errors(self) -> float:
        """The error share that candidate runs without any error still allow: 3 / n, at 95 %."""
        ended = sum(int(run.ended.sum()) for run in self.cand)
        failed = sum(int((run.ended & run.failed).sum()) for run in self.cand)
        return 0.0 if failed else 1 - ERROR_RATE ** (1 / ended)


def _blocked(metric: Metric, run: RunSample, blocks: Blocks) -> Ratio | Quantile:
    if metric.is_share:
        return share_of(run, run.failed, blocks)
    if metric.statistic is None:
        answers, tokens = rates_of(run, blocks)
        return answers if metric.figure == "requests_per_min" else tokens
    if metric.quantile is None:
        return mean_of(run, _NUMBER_OF.get(metric.figure, metric.figure), blocks)
    values, places = _values(run, metric)
    return quantile_of(values, places, metric.quantile, blocks, int(run.judged.sum()))
