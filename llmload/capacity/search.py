"""Which load to try next on the way to the highest one that passes, and where the curve has its knee."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from llmload.scenario.capacity import Capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """
    Whether a load passed.

    `confirmed` if its step was evaluated in full; a quick check only shows that the load seems to pass.
    """

    load: float
    passed: bool
    confirmed: bool


@dataclass(frozen=True, slots=True)
class NextStep:
    """The load to try next; with `confirm` a quick check is not enough."""

    load: float
    confirm: bool


@dataclass(slots=True, kw_only=True)
class CapacitySearch:
    """
    Doubles the load until it fails, then bisects between the highest that passes and the lowest that fails.

    Loads stay between `at_least` and `at_most`; with `whole_numbers` (users) no load between two integers is tried.
    A quick check is enough until a load fails, since the load is to grow anyway. At the end both bounds are confirmed:
    the load that passed only a quick check is evaluated in full, the one that failed once is tried again, since a
    hiccup fails any load. If the confirmation differs, the search resumes: the last outcome of a load counts.
    """

    start: float
    at_least: float
    at_most: float
    precision: float
    whole_numbers: bool
    outcomes: list[StepOutcome] = field(default_factory=list)

    @classmethod
    def of(cls, load: Capacity) -> Self:
        """Return the load's search before its first step."""
        return cls(
            start=load.start,
            at_least=load.lowest,
            at_most=load.at_most,
            precision=load.precision,
            whole_numbers=load.has_users,
        )

    @property
    def fails_at(self) -> float | None:
        """The lowest load that failed; None while none has."""
        return min((load for load, outcome in self._latest().items() if not outcome.passed), default=None)

    @property
    def passes_at(self) -> float | None:
        """The highest load that passed below every one that failed; None while none has."""
        best = self._best()
        return None if best is None else best.load

    @property
    def converged(self) -> bool:
        """Whether the bounds are as close to each other as `precision` wants."""
        passes, fails = self.passes_at, self.fails_at
        if passes is None:
            return fails is not None and fails <= self.at_least
        if fails is None:
            return passes >= self.at_most
        return fails <= passes * (1 + self.precision) * (1 + 1e-9) or (self.whole_numbers and fails - passes <= 1)

    def next(self) -> NextStep | None:
        """Return what to try next; None when the search is over."""
        best, fails = self._best(), self.fails_at
        if self.converged:
            if best is not None and not best.confirmed:
                return NextStep(best.load, confirm=True)
            return None if fails is None or self._failed_twice(fails) else NextStep(fails, confirm=True)
        if best is None:
            lower = self.start if fails is None else max(self._rounded(fails / 2), self.at_least)
            return NextStep(lower, confirm=False)
        if fails is None:
            return NextStep(min(best.load * 2, self.at_most), confirm=False)
        return NextStep(self._between(best.load, fails), confirm=True)

    def record(self, outcome: StepOutcome) -> None:
        """Add the outcome of a step."""
        self.outcomes.append(outcome)

    def _failed_twice(self, load: float) -> bool:
        return [outcome.passed for outcome in self.outcomes if outcome.load == load][-2:] == [False, False]

    def _latest(self) -> dict[float, StepOutcome]:
        return {outcome.load: outcome for outcome in self.outcomes}

    def _best(self) -> StepOutcome | None:
        fails = self.fails_at
        passed = [each for each in self._latest().values() if each.passed and (fails is None or each.load < fails)]
        return max(passed, key=lambda outcome: outcome.load, default=None)

    def _between(self, low: float, high: float) -> float:
        middle = self._rounded(math.sqrt(low * high))
        return min(max(middle, low + 1), high - 1) if self.whole_numbers else middle

    def _rounded(self, load: float) -> float:
        return float(round(load)) if self.whole_numbers else float(f"{load:.4g}")


def knee(points: Iterable[tuple[float, float, float]]) -> float | None:
    """
    Return the load with the greatest throughput / latency, of points (load, throughput, latency); None without points.

    Below it more load brings more throughput at little cost, above it mostly waiting (power: Kleinrock, Power and
    deterministic rules of thumb for probabilistic problems in computer communications, ICC 1979).
    """
    powers = {load: throughput / latency for load, throughput, latency in points if latency > 0}
    return max(powers, key=lambda load: powers[load], default=None)
