"""Which load to try next on the way to the highest one that holds, and where the curve has its knee."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from llmload.scenario.loads import Capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """
    A load that was tried, and whether it held.

    `firm` where it was judged by its interval or for as long as a step may last; else it only looked well.
    """

    load: float
    held: bool
    firm: bool


@dataclass(frozen=True, slots=True)
class Try:
    """The load to try next; `firm` where a glance is not enough."""

    load: float
    firm: bool


@dataclass(slots=True, kw_only=True)
class CapacitySearch:
    """
    Doubles the load until it breaks the promises, then halves the span between what holds and what does not.

    Loads below `at_least` and above `at_most` are never tried; `whole` loads are users. While nothing has broken yet a
    glance is enough, since the load is to grow anyway. What the search ends with is looked at again: the load that
    holds where it was only glanced at, the one that breaks where it did so once, since a hiccup breaks any load. Where
    that comes out otherwise the search goes on from there: the last trial of a load counts.
    """

    start: float
    at_least: float
    at_most: float
    precision: float
    whole: bool
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def of(cls, load: Capacity) -> Self:
        """Return the load's search before its first step."""
        return cls(
            start=load.start,
            at_least=load.lowest,
            at_most=load.at_most,
            precision=load.precision,
            whole=load.has_users,
        )

    @property
    def breaks_at(self) -> float | None:
        """The lowest load that broke a promise; None while none has."""
        return min((load for load, trial in self._latest().items() if not trial.held), default=None)

    @property
    def holds_at(self) -> float | None:
        """The highest load that held, of those below every one that broke; None while none has."""
        trial = self._best()
        return None if trial is None else trial.load

    @property
    def converged(self) -> bool:
        """Whether the span between what holds and what does not is as narrow as asked for."""
        holds, breaks = self.holds_at, self.breaks_at
        if holds is None:
            return breaks is not None and breaks <= self.at_least
        if breaks is None:
            return holds >= self.at_most
        return breaks <= holds * (1 + self.precision) * (1 + 1e-9) or (self.whole and breaks - holds <= 1)

    def next(self) -> Try | None:
        """Return what to try next; None when the search is over."""
        best, breaks = self._best(), self.breaks_at
        if self.converged:
            if best is not None and not best.firm:
                return Try(best.load, firm=True)
            return None if breaks is None or self._broke_twice(breaks) else Try(breaks, firm=True)
        if best is None:
            return Try(self.start if breaks is None else max(self._rounded(breaks / 2), self.at_least), firm=False)
        if breaks is None:
            return Try(min(best.load * 2, self.at_most), firm=False)
        return Try(self._between(best.load, breaks), firm=True)

    def take(self, trial: Trial) -> None:
        """Note how a load that was tried has done."""
        self.trials.append(trial)

    def _broke_twice(self, load: float) -> bool:
        return [trial.held for trial in self.trials if trial.load == load][-2:] == [False, False]

    def _latest(self) -> dict[float, Trial]:
        return {trial.load: trial for trial in self.trials}

    def _best(self) -> Trial | None:
        breaks = self.breaks_at
        held = [t for t in self._latest().values() if t.held and (breaks is None or t.load < breaks)]
        return max(held, key=lambda trial: trial.load, default=None)

    def _between(self, low: float, high: float) -> float:
        middle = self._rounded(math.sqrt(low * high))
        return min(max(middle, low + 1), high - 1) if self.whole else middle

    def _rounded(self, load: float) -> float:
        return float(round(load)) if self.whole else float(f"{load:.4g}")


def knee(points: Iterable[tuple[float, float, float]]) -> float | None:
    """
    Return the load at which throughput / latency is greatest, of points (load, throughput, latency); None for none.

    Below it more load brings more throughput at little cost, above it mostly waiting (power: Kleinrock, Power and
    deterministic rules of thumb for probabilistic problems in computer communications, ICC 1979).
    """
    powers = {load: throughput / latency for load, throughput, latency in points if latency > 0}
    return max(powers, key=lambda load: powers[load], default=None)
