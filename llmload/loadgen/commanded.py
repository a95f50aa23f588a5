"""Phases that begin when a master commands it: the steps of a search, and what edits make of a running load."""

import time
from dataclasses import dataclass
from typing import ClassVar, Self

from llmload.loadgen.phases import (
    FOREVER_NS,
    Phase,
    PhaseTimeline,
    SpikeTimeline,
    StageTimeline,
    StepCommand,
)
from llmload.record import Window
from llmload.scenario.capacity import Capacity
from llmload.scenario.load_protocol import Load
from llmload.scenario.loads import Spike
from llmload.scenario.staged import Staged
from llmload.scenario.sweep import Sweep


@dataclass(slots=True)
class _Commanded:
    load: float
    begin_ns: int
    measured_ns: int | None = None
    closed_ns: int | None = None


class CommandedTimeline(PhaseTimeline):
    """When each phase began on this process and its window opened; the first begins with the run."""

    prefix: ClassVar[str]
    """What the phases are called, with a number behind it."""

    def __init__(self, start_ns: int, load: float, *, of_users: bool) -> None:
        super().__init__(start_ns)
        self._of_users, self._paused = of_users, False
        self._begun = [_Commanded(load, start_ns)]

    @property
    def index(self) -> int:
        """The index of the current phase, or of the last one."""
        return len(self._begun) - 1

    @property
    def phases(self) -> list[Phase]:
        """Name and load of each phase so far."""
        return [
            Phase(
                name=self.name_of(index),
                users=int(begun.load) if self._of_users else None,
                rate_per_s=None if self._of_users else begun.load,
            )
            for index, begun in enumerate(self._begun)
        ]

    def apply(self, command: StepCommand) -> None:
        """Begin the commanded phase and open its window now, where that has not happened yet; none after the end."""
        now_ns = time.monotonic_ns()
        if self._end_ns is not None:
            return
        if command.index > self.index:
            self._begun.append(_Commanded(command.load, now_ns))
        self._paused = command.paused
        begun = self._begun[self.index]
        if command.measured and begun.measured_ns is None:
            begun.measured_ns = now_ns
        if command.closed and begun.closed_ns is None:
            begun.closed_ns = now_ns

    def name_of(self, index: int) -> str:
        """Return the name of the phase at an index."""
        return f"{self.prefix}-{index + 1}"

    def begin_ns(self, index: int) -> int | None:
        """Return when a phase began; None for one that has not."""
        return self._begun[index].begin_ns if index <= self.index else None

    @property
    def rate_per_s(self) -> float | None:
        """The rate of the current phase, 0 while it is paused; None where phases have users."""
        return None if self._of_users else self.rate_at(0)[0]

    def rate_at(self, moment_ns: int) -> tuple[float, int]:  # noqa: ARG002 - the protocol's
        """Return the rate of the current phase, which counts until the master commands another."""
        return 0.0 if self._paused else self._begun[self.index].load, FOREVER_NS

    def window(self, index: int) -> Window:
        """Return the window of a phase, as far as it is known; a phase that is not measured has none."""
        begun = self._begun[index] if index <= self.index else None
        if begun is None or begun.measured_ns is None:
            return Window(start_ns=None)
        end_ns = self._end_ns if index == self.index else self._begun[index + 1].begin_ns
        return Window(start_ns=begun.measured_ns, end_ns=begun.closed_ns or end_ns)


class StepTimeline(CommandedTimeline):
    """The steps of a search, or of a sweep."""

    prefix = "step"

    def __init__(self, load: Capacity | Sweep, start_ns: int) -> None:
        super().__init__(start_ns, load.first_load, of_users=load.has_users)
        self.load = load


class EditTimeline(CommandedTimeline):
    """The phases of a load that was edited during the run: the first lasts until the first edit."""

    prefix = "phase"

    @classmethod
    def at_edit(cls, load: Load, start_ns: int, opened_ns: int | None) -> Self:
        """Return the timeline of a load that is edited now, for the first time, and whose window opened then."""
        timeline = cls(start_ns, load.target or 0.0, of_users=not load.is_open_loop)
        if opened_ns is not None and opened_ns < time.monotonic_ns():
            timeline._begun[0].measured_ns = opened_ns
        return timeline


def timeline_of(load: Load, start_ns: int) -> PhaseTimeline | None:
    """Return the timeline of a load that has phases; None for a load that is measured as a whole until it is edited."""
    match load:
        case Staged():
            return StageTimeline(load, start_ns)
        case Spike():
            return SpikeTimeline(load, start_ns)
        case Capacity() | Sweep():
            return StepTimeline(load, start_ns)
        case _:
            return None
