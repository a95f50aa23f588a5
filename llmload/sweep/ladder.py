"""Which point of a sweep comes next, and when a ladder of loads has nothing more to show."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from llmload.scenario.sweep import Sweep

FLAT_POINTS: Final = 2
"""A ladder ends after this many loads in a row that hardly bring more, or of which nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPoint:
    """A load to measure, and in which pass over the ladder."""

    load: float
    round: int
    """Counted from 1."""
    shape: int | None = None
    """Which of `prompts.shapes`, by index; None where the sweep is not over them."""


@dataclass(slots=True, kw_only=True)
class Ladder:
    """
    The loads of a sweep in ascending order, measured once each and then again as often as `rounds` asks.

    The first pass ends early where throughput grows no more or is not measured any more, or where a gate is missed;
    later passes have its points.
    """

    loads: tuple[float, ...]
    rounds: int
    least_growth: float
    shape: int | None = None
    ended: str | None = None
    """Why the ladder ended before its last load; None where it did not."""
    _tried: int = 0
    _best: float = 0.0
    _flat: int = 0
    _unmeasured: int = 0
    _climbed: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, load: Sweep, shape: int | None = None) -> Self:
        """Return the ladder of a load, of one shape of prompts, before its first point."""
        return cls(loads=load.loads, rounds=load.rounds, least_growth=load.least_growth, shape=shape)

    def next(self) -> NextPoint | None:
        """Return what to measure next; None when the sweep is over."""
        climbed = self._climbed if self._is_climbed else self.loads
        done, at = divmod(self._tried, len(climbed))
        return None if done >= self.rounds else NextPoint(load=climbed[at], round=done + 1, shape=self.shape)

    @property
    def left(self) -> int:
        """How many points are left at most."""
        return len(self._climbed if self._is_climbed else self.loads) * self.rounds - self._tried

    def record(self, point: NextPoint, output_tokens_per_s: float | None, missed: Sequence[str] = ()) -> None:
        """Add what a point brought, and the gates that it missed."""
        self._tried += 1
        if point.round > 1:
            return
        self._climbed.append(point.load)
        is_flat = output_tokens_per_s and self._best and output_tokens_per_s < self._best * (1 + self.least_growth)
        self._flat = self._flat + 1 if is_flat else 0
        self._unmeasured = 0 if output_tokens_per_s else self._unmeasured + 1
        self._best = max(self._best, output_tokens_per_s or 0.0)
        if missed:
            self.ended = f"it missed {', '.join(missed)}"
        elif self._flat >= FLAT_POINTS:
            self.ended = f"{FLAT_POINTS} loads in a row brought less than {100 * self.least_growth:g}% more tok/s"
        elif self._unmeasured >= FLAT_POINTS:
            self.ended = f"the tok/s of {FLAT_POINTS} loads in a row could not be measured"
        if len(self._climbed) == len(self.loads):
            self.ended = None

    @property
    def _is_climbed(self) -> bool:
        return self.ended is not None or len(self._climbed) == len(self.loads)


def next_of(ladders: Sequence[Ladder]) -> tuple[Ladder, NextPoint] | None:
    """Return the next point of several ladders, and whose it is: a whole round of each before the next round."""
    following = ((each, point) for each in ladders if (point := each.next()) is not None)
    return min(following, key=lambda one: one[1].round, default=None)
