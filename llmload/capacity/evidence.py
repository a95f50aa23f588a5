"""What the answers of a step show so far: each objective's figure and interval, steadiness, growth of the queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals
from llmload.stats.intervals import (
    MIN_BATCHES,
    Batch,
    batch_share_interval,
    batches_of,
    ratio,
    ratio_error,
    ratio_interval,
    student_t,
    trend,
)

NOISE_GROWTH: Final = 0.02
"""Queue growth below this fraction of arrivals counts as noise."""
UNSTEADY_SHARE: Final = 0.10
UNSTEADY_ERRORS: Final = 3.0
"""A window is unsteady if its halves differ by more than both: this fraction of the figure, these standard errors."""
_WAITS: Final = ("ttft_s", "e2e_s")


class Decision(Enum):
    """Whether something passes, and whether its interval excludes the opposite: (passed, significant)."""

    PASSES = (True, True)
    SEEMS_TO_PASS = (True, False)
    SEEMS_TO_FAIL = (False, False)
    FAILS = (False, True)

    @property
    def passed(self) -> bool:
        """Whether the figures are on the right side of their limits."""
        return self.value[0]

    @property
    def significant(self) -> bool:
        """Whether the intervals are on the same side as the figures."""
        return self.value[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSample:
    """The cumulative counts of a step at one moment, in seconds since its window opened."""

    at_s: float
    completed: int
    ended: int
    tokens: float
    in_flight: int
    dropped: int
    waits: tuple[Batch, ...]
    """For TTFT and e2e latency: the sum in seconds, and the number of answers."""
    sums: tuple[Batch, ...]
    """For each objective: part and whole."""

    @classmethod
    def of(cls, totals: RunTotals, objectives: Sequence[Objective], at_s: float, in_flight: int) -> Self:
        """Return the sample of a step's totals."""
        return cls(
            at_s=at_s,
            completed=totals.completed_in_window,
            ended=totals.completed_in_window + totals.failed_in_window,
            tokens=totals.window_tokens,
            in_flight=in_flight,
            dropped=totals.dropped,
            waits=tuple((of.total, float(of.count)) for of in (totals.distributions[name] for name in _WAITS)),
            sums=tuple(_sums(objective, totals) for objective in objectives),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveEvidence:
    """One objective's figure, the figure's interval, and what follows for the objective."""

    objective: Objective
    figure: float | None
    interval: tuple[float, float] | None
    decision: Decision

    @property
    def text(self) -> str:
        """Figure and interval: `ttft_s p95 0.194 (0.0967 to 0.204)`."""
        if self.figure is None:
            return f"{self.objective.name} not measured"
        between = "" if self.interval is None else f" ({self.interval[0]:.3g} to {self.interval[1]:.3g})"
        return f"{self.objective.name} {self.figure:.3g}{between}"


class StepEvidence:
    """
    The samples of one step, taken at even times, and what they show.

    `rate_per_s` is the arrival rate of an open loop; None in a closed loop, whose queue cannot grow.
    """

    def __init__(self, objectives: Sequence[Objective], rate_per_s: float | None) -> None:
        self.objectives, self.rate_per_s = tuple(objectives), rate_per_s
        self.samples: list[StepSample] = []
        self._totals = RunTotals()

    def open(self, in_flight: int) -> None:
        """Start the window, with this many requests in flight."""
        self.samples = [StepSample.of(RunTotals(), self.objectives, 0.0, in_flight)]

    def add(self, totals: RunTotals, at_s: float, in_flight: int) -> None:
        """Add the step's totals at this many seconds after its window opened."""
        self._totals = totals
        self.samples.append(StepSample.of(totals, self.objectives, at_s, in_flight))

    @property
    def now(self) -> StepSample:
        """The last sample."""
        return self.samples[-1]

    def of_objectives(self, confidence: float) -> tuple[ObjectiveEvidence, ...]:
        """Return each objective's evidence at this confidence."""
        return tuple(self._evidence(index, confidence) for index in range(len(self.objectives)))

    def decision(self, index: int, confidence: float) -> Decision:
        """Return what follows for the objective of this index."""
        objective = self.objectives[index]
        passed = objective.passed(measured(objective, self._totals))
        return Decision((passed, _is_significant(objective, self._batches(index), confidence, passed=passed)))

    def rate_interval(self, name: str, confidence: float) -> tuple[float, float] | None:
        """Return the interval of `completed` or `tokens` per second; None if its spread is unknown."""
        return ratio_interval(batches_of([(getattr(each, name), each.at_s) for each in self.samples]), confidence)

    @property
    def steady(self) -> bool:
        """Whether the window's halves have the same answer rate, TTFT and e2e latency."""
        rate = [(float(each.ended), each.at_s) for each in self.samples]
        return all(
            _is_steady(batches_of(of)) for of in (rate, *zip(*(each.waits for each in self.samples), strict=True))
        )

    def growth(self, confidence: float) -> float | None:
        """Return the queue's growth in requests/s if it is significant; None otherwise, and in a closed loop."""
        batches = batches_of([(each.in_flight, each.at_s) for each in self.samples])
        value, error = ratio(batches), ratio_error(batches)
        if self.rate_per_s is None or value is None or error is None or len(batches) < MIN_BATCHES:
            return None
        low = value - student_t(confidence, len(batches) - 1) * error
        return value if low > 0 and value > NOISE_GROWTH * self.rate_per_s else None

    def _evidence(self, index: int, confidence: float) -> ObjectiveEvidence:
        objective = self.objectives[index]
        return ObjectiveEvidence(
            objective=objective,
            figure=measured(objective, self._totals),
            interval=_interval(objective, self._totals, self._batches(index), confidence),
            decision=self.decision(index, confidence),
        )

    def _batches(self, index: int) -> list[Batch]:
        return batches_of([each.sums[index] for each in self.samples])


def measured(objective: Objective, totals: RunTotals) -> float | None:
    """Return the objective's figure from a step's totals; None if not measured."""
    if objective.statistic is None:
        part, whole = _sums(objective, totals)
        return part / whole if whole else None
    histogram = totals.distributions[objective.metric]
    if objective.quantile is not None:
        return histogram.quantile(objective.quantile)
    if objective.statistic == "mean":
        return histogram.mean
    return histogram.max_value if histogram.count else None


def _sums(objective: Objective, totals: RunTotals) -> Batch:
    """Part and whole: answers within the limit and all answers, or the values' sum and count."""
    if objective.statistic is None:
        part = totals.good_in_window if objective.metric == "goodput_share" else totals.failed_in_window
        return float(part), float(totals.completed_in_window + totals.failed_in_window)
    histogram = totals.distributions[objective.metric]
    if objective.quantile is not None:
        return float(histogram.count_at_most(objective.limit)), float(histogram.count)
    return histogram.total, float(histogram.count)


def _is_steady(batches: Sequence[Batch]) -> bool:
    value, moved = ratio(batches), trend(batches)
    if value is None or moved is None:
        return True
    apart, error = moved
    return abs(apart) <= max(UNSTEADY_SHARE * value, UNSTEADY_ERRORS * error)


def _interval(
    objective: Objective, totals: RunTotals, batches: Sequence[Batch], confidence: float
) -> tuple[float, float] | None:
    """The figure's interval: of a percentile by order statistics, of a share by Wilson, of a mean by Student's t."""
    value = ratio(batches)
    if value is None or objective.statistic == "max":
        return None
    if objective.statistic == "mean":
        return ratio_interval(batches, confidence)
    if objective.quantile is None:
        return batch_share_interval(batches, confidence)
    histogram = totals.distributions[objective.metric]
    low, high = batch_share_interval(batches, confidence, around=objective.quantile)
    ends = histogram.quantile(low), histogram.quantile(high)
    return None if ends[0] is None or ends[1] is None else (ends[0], ends[1])


def _is_significant(objective: Objective, batches: Sequence[Batch], confidence: float, *, passed: bool) -> bool:
    """
    Whether the interval excludes the other side of the limit.

    No sample size can prove a maximum or a zero error rate; not having seen a violation is enough.
    """
    value = ratio(batches)
    if objective.statistic == "max":
        return passed or objective.is_upper
    if value is None:
        return False
    if objective.metric == "error_share" and passed and value == 0:
        return True
    if objective.statistic == "mean":
        interval = ratio_interval(batches, confidence)
        return interval is not None and objective.passed(interval[0]) == objective.passed(interval[1]) == passed
    low, high = batch_share_interval(batches, confidence)
    if objective.quantile is None:
        return objective.passed(low) == objective.passed(high) == passed
    # The interval is of the share of answers at or below the limit: a p95 is below it if 95 % of the answers are.
    percentile_is_below, percentile_is_above = low >= objective.quantile, high < objective.quantile
    return percentile_is_below if passed == objective.is_upper else percentile_is_above
