"""Is one build worse than another? Each metric's change, its interval, and the outcome by the accepted worsening."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self

import numpy as np

from llmload.compare.sample import RunSample, blocks_over, mean_of, rates_of, share_of
from llmload.metrics.compared import METRICS, Metric
from llmload.stats.bootstrap import Blocks, ChangeBootstrap, Floats, Indices, Quantile, Ratio, upper_limit_of_none
from llmload.units import S_PER_MIN

ERROR_RATE: Final = 0.05
"""How often a comparison of equal systems may fail, over all its metrics, and how often a metric may pass wrongly."""
MIN_REQUESTS: Final = 20
MIN_KNOWN: Final = 0.99
"""The fraction of replicates in which a figure must exist."""
MIN_BEYOND: Final = 20
"""A percentile is judged if each run has at least this many values beyond it."""


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
        needed = math.ceil(MIN_BEYOND / (1 - metric.quantile) - 1e-6)
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
