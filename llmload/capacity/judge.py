"""Does a load hold? Promises held against the answers that have come so far, with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals
from llmload.scenario.loads import Capacity
from llmload.stats.histogram import Histogram
from llmload.stats.intervals import (
    FEWEST,
    Batch,
    batch_share_interval,
    batches_of,
    ratio,
    ratio_error,
    ratio_interval,
    student_t,
    trend,
)

HOPELESS_CONFIDENCE: Final = 0.999
"""
Between two looks a step ends only where it breaks a promise this surely.

Stopping rules as strict as this hardly change the error of the looks (Haybittle, Br J Radiol 44, 1971; Peto et al.,
Br J Cancer 34, 1976).
"""
HOPELESS_ANSWERS: Final = 20
GLANCE_ANSWERS: Final = 20
"""How many answers a step needs at least before it is given up, or passed at a glance."""
GROWTH_SHARE: Final = 0.02
"""A queue that grows by less than this share of what arrives is taken for one that breathes."""
UNSTEADY_SHARE: Final = 0.10
UNSTEADY_ERRORS: Final = 3.0
"""A window is unsteady where its halves differ by more than both: a share of the figure, so many standard errors."""
_WAITS: Final = ("ttft_s", "e2e_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRules:
    """How long a step may take to be judged, in seconds and answers, and how sure the judgement is to be."""

    min_s: float
    max_s: float
    min_requests: int
    confidence: float = 0.95
    rate_per_s: float | None = None
    """What arrives in an open loop, whose queue must not grow; None in a closed one, where it cannot."""

    @classmethod
    def of(cls, load: Capacity, value: float) -> Self:
        """Return the rules by which the load judges a step of this many users or requests/s."""
        return cls(
            min_s=load.step_min_s,
            max_s=load.step_max_s,
            min_requests=load.step_min_requests,
            confidence=load.confidence,
            rate_per_s=None if load.has_users else value,
        )

    @property
    def looks_s(self) -> tuple[float, ...]:
        """When the step is looked at: after `min_s`, each time that this has doubled, and at last at `max_s`."""
        count = max(1, math.ceil(math.log2(self.max_s / self.min_s) - 1e-9) + 1)
        return (*(self.min_s * 2**index for index in range(count - 1)), self.max_s)

    @property
    def look_confidence(self) -> float:
        """The confidence of one look, so that all together err no more often than asked for (Bonferroni)."""
        return 1 - (1 - self.confidence) / len(self.looks_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a step had come to at a moment, in seconds since its window opened."""

    at_s: float
    completed: int
    ended: int
    tokens: float
    in_flight: int
    dropped: int
    waits: tuple[Batch, ...]
    """Seconds to the first chunk and to the last byte, added up, and of how many answers."""
    sums: tuple[Batch, ...]
    """For each promise: part and whole so far."""

    @classmethod
    def of(cls, totals: RunTotals, objectives: Sequence[Objective], at_s: float, in_flight: int) -> "Sample":
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
class Standing:
    """How one promise stands: its figure, the figure's interval, whether it is kept, and whether that is sure."""

    objective: Objective
    figure: float | None
    interval: tuple[float, float] | None
    kept: bool
    sure: bool

    @property
    def text(self) -> str:
        """How it stands, in words."""
        if self.figure is None:
            return f"{self.objective.name} not measured"
        between = "" if self.interval is None else f" ({self.interval[0]:.3g} to {self.interval[1]:.3g})"
        return f"{self.objective.name} {self.figure:.3g}{between}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether a step held, whether that is sure, and why."""

    held: bool
    sure: bool
    reason: str
    standings: tuple[Standing, ...]


class StepJudge:
    """Watches one step of a search and says when it is decided; `look` is asked again and again."""

    def __init__(self, objectives: Sequence[Objective], rules: StepRules) -> None:
        self.objectives, self.rules = tuple(objectives), rules
        self.samples: list[Sample] = []
        self._totals = RunTotals()
        self._looked = 0

    def open(self, in_flight: int) -> None:
        """The window opens with so many requests on their way."""
        self.samples = [Sample.of(RunTotals(), self.objectives, 0.0, in_flight)]

    def add(self, totals: RunTotals, at_s: float, in_flight: int) -> None:
        """Take in what the step has come to so many seconds after its window opened."""
        self._totals = totals
        self.samples.append(Sample.of(totals, self.objectives, at_s, in_flight))

    def look(self, *, firm: bool) -> Judgement | None:
        """Return the judgement, once there is one; at a glance, if that is enough, where the step looks well."""
        if len(self.samples) < 2:
            return None
        now, rules = self.samples[-1], self.rules
        if now.dropped:
            reason = f"{now.dropped} arrivals were dropped: as many as max_in_flight were on their way"
            return Judgement(held=False, sure=True, reason=reason, standings=self.standings(rules.confidence))
        if now.at_s >= rules.min_s / 2 and now.ended >= HOPELESS_ANSWERS:
            broken = self._broken(HOPELESS_CONFIDENCE)
            if broken is not None:
                return broken
        looks = rules.looks_s
        if self._looked < len(looks) and now.at_s >= looks[self._looked]:
            self._looked = sum(now.at_s >= each for each in looks)
            found = self._broken(rules.look_confidence) or self._surely_held()
            if found is not None:
                return found
        if not firm and now.at_s >= rules.min_s and now.ended >= GLANCE_ANSWERS:
            return self._glance()
        return self._at_last() if now.at_s >= rules.max_s else None

    def standings(self, confidence: float) -> tuple[Standing, ...]:
        """Return how each promise stands now."""
        return tuple(self._standing(index, confidence) for index in range(len(self.objectives)))

    def rate_interval(self, name: str, confidence: float) -> tuple[float, float] | None:
        """Return the interval of `completed` or `tokens` a second; None where its spread is not known."""
        return ratio_interval(batches_of([(getattr(each, name), each.at_s) for each in self.samples]), confidence)

    @property
    def steady(self) -> bool:
        """Whether answers came as fast, and as soon, in the window's second half as in its first."""
        rate = [(float(each.ended), each.at_s) for each in self.samples]
        return all(
            _is_steady(batches_of(of)) for of in (rate, *zip(*(each.waits for each in self.samples), strict=True))
        )

    def growth(self, confidence: float) -> float | None:
        """Return by how many requests a second the queue surely grows; None where it may not grow at all."""
        rate_per_s = self.rules.rate_per_s
        batches = batches_of([(each.in_flight, each.at_s) for each in self.samples])
        value, error = ratio(batches), ratio_error(batches)
        if rate_per_s is None or value is None or error is None or len(batches) < FEWEST:
            return None
        surely = value - student_t(confidence, len(batches) - 1) * error
        return value if surely > 0 and value > GROWTH_SHARE * rate_per_s else None

    def _broken(self, confidence: float) -> Judgement | None:
        growth = self.growth(confidence)
        if growth is not None:
            text = f"the queue grows by {growth:.3g} requests/s: less is answered than arrives"
            return Judgement(held=False, sure=True, reason=text, standings=self.standings(confidence))
        for index in range(len(self.objectives)):
            if self._stand(index, confidence) == (False, True):
                standings = self.standings(confidence)
                return Judgement(held=False, sure=True, reason=standings[index].text, standings=standings)
        return None

    def _surely_held(self) -> Judgement | None:
        confidence = self.rules.look_confidence
        stand = (self._stand(index, confidence) == (True, True) for index in range(len(self.objectives)))
        if not (self.samples[-1].ended >= self.rules.min_requests and self.steady and all(stand)):
            return None
        standings = self.standings(confidence)
        return Judgement(held=True, sure=True, reason="every promise is kept", standings=standings)

    def _glance(self) -> Judgement | None:
        standings = self.standings(self.rules.confidence)
        if not (self.steady and all(each.kept for each in standings)):
            return None
        return Judgement(held=True, sure=False, reason="every promise looks kept", standings=standings)

    def _at_last(self) -> Judgement:
        standings = self.standings(self.rules.confidence)
        if not self.samples[-1].ended:
            return Judgement(held=False, sure=True, reason="no answer came in time", standings=standings)
        broken = next((each for each in standings if not each.kept), None)
        unsure = next((each for each in standings if not each.sure), None)
        if broken is not None:
            return Judgement(held=False, sure=False, reason=f"undecided: {broken.text}", standings=standings)
        if unsure is not None:
            return Judgement(held=True, sure=False, reason=f"undecided: {unsure.text}", standings=standings)
        why = "every promise is kept" if self.steady else "every promise is kept, but answers came unsteadily"
        sure = self.steady and self.samples[-1].ended >= self.rules.min_requests
        return Judgement(held=True, sure=sure, reason=why, standings=standings)

    def _stand(self, index: int, confidence: float) -> tuple[bool, bool]:
        """Whether a promise is kept, and whether that is sure."""
        objective = self.objectives[index]
        kept = objective.kept(figure_of(objective, self._totals))
        return kept, _is_sure(objective, self._batches(index), confidence, kept=kept)

    def _standing(self, index: int, confidence: float) -> Standing:
        objective = self.objectives[index]
        kept, sure = self._stand(index, confidence)
        return Standing(
            objective=objective,
            figure=figure_of(objective, self._totals),
            interval=_interval(objective, self._totals, self._batches(index), confidence),
            kept=kept,
            sure=sure,
        )

    def _batches(self, index: int) -> list[Batch]:
        return batches_of([each.sums[index] for each in self.samples])


def _is_steady(batches: Sequence[Batch]) -> bool:
    value, moved = ratio(batches), trend(batches)
    if value is None or moved is None:
        return True
    apart, error = moved
    return abs(apart) <= max(UNSTEADY_SHARE * value, UNSTEADY_ERRORS * error)


def figure_of(objective: Objective, totals: RunTotals) -> float | None:
    """Return the figure that a promise is about; None if not measured."""
    if objective.statistic is None:
        part, whole = _sums(objective, totals)
        return part / whole if whole else None
    histogram = totals.distributions[objective.metric]
    if objective.quantile is not None:
        return histogram.quantile(objective.quantile)
    if objective.statistic == "mean":
        return histogram.mean
    return histogram.most if histogram.count else None


def _sums(objective: Objective, totals: RunTotals) -> Batch:
    """Part and whole: answers at most at the limit and all of them, or the values' sum and their number."""
    if objective.statistic is None:
        part = totals.good_in_window if objective.metric == "goodput_share" else totals.failed_in_window
        return float(part), float(totals.completed_in_window + totals.failed_in_window)
    histogram: Histogram = totals.distributions[objective.metric]
    if objective.quantile is not None:
        return float(histogram.at_most(objective.limit)), float(histogram.count)
    return histogram.total, float(histogram.count)


def _interval(
    objective: Objective, totals: RunTotals, batches: Sequence[Batch], confidence: float
) -> tuple[float, float] | None:
    """The figure's interval: a percentile's by the ranks that its share may fall on, a share's, a mean's by t."""
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


def _is_sure(objective: Objective, batches: Sequence[Batch], confidence: float, *, kept: bool) -> bool:
    """
    Whether the interval leaves the other side of the limit out.

    That a greatest value stays below a limit, or that nothing fails, no number of answers can show: there it is enough
    that it was not seen otherwise.
    """
    value = ratio(batches)
    if objective.statistic == "max":
        return kept or objective.is_upper
    if value is None:
        return False
    if objective.metric == "error_share" and kept and value == 0:
        return True
    if objective.statistic == "mean":
        interval = ratio_interval(batches, confidence)
        return interval is not None and objective.kept(interval[0]) == objective.kept(interval[1]) == kept
    low, high = batch_share_interval(batches, confidence)
    if objective.quantile is None:
        return objective.kept(low) == objective.kept(high) == kept
    at_most = low >= objective.quantile  # surely so many answers are at most at the limit
    fewer = high < objective.quantile
    return at_most if kept == objective.is_upper else fewer
