"""
Whether a worker's report can be true, by the run that it is of: its load, phases and time, and what it said before.

Each rule holds for whatever an engine answers, so that a worker which counts honestly is never doubted.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from llmload.loadgen.coordinator import RunCoordinator
from llmload.metrics.received import contradiction, levels, step_back
from llmload.metrics.totals import RunTotals

CLOCK_S: Final = 30.0
"""How much longer a run may seem to a worker than to its master: messages and pauses; its clock is another's."""
CLOCK_SHARE: Final = 0.01
"""The same as a part of the run."""
MOST_PER_S: Final = 100_000
"""Requests that a process can start in a second, and far more: ten times what the fastest has done."""
LAG_SAMPLES_PER_S: Final = 50
"""Samples of the event loop's lag: twice and more what a worker takes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one worker can have done by now."""

    elapsed_s: float
    """How long the run has taken at most, by the worker's clock."""
    phases: frozenset[str] = frozenset()
    """The names of the load's phases."""
    requests: int | None = None
    """How many it may send; None where no number ends the load."""
    in_flight: int | None = None
    """How many it may have in flight at a time; None where that is not known."""

    @classmethod
    def of(cls, coordinator: RunCoordinator, requests: int | None) -> "Limits":
        """Return the limits of a worker that may send this number of requests."""
        timeline = coordinator.timeline
        return cls(
            elapsed_s=coordinator.elapsed_s * (1 + CLOCK_SHARE) + CLOCK_S,
            phases=frozenset() if timeline is None else frozenset(phase.name for phase in timeline.phases),
            requests=requests,
            in_flight=_most_in_flight(coordinator),
        )

    def broken_by(self, totals: RunTotals) -> str | None:
        """Return what totals say that cannot be; None where all of it can."""
        latencies = totals.all_answers("e2e_s")
        slots = MOST_PER_S if self.in_flight is None else self.in_flight
        most = {
            "started": int(self.elapsed_s * MOST_PER_S) if self.requests is None else self.requests,
            "in flight": slots,
            "last_done_s": self.elapsed_s,
            "busy_s": slots * self.elapsed_s,
            "e2e_s in all": slots * self.elapsed_s,
            "event_loop_lag_s values": self.elapsed_s * LAG_SAMPLES_PER_S,
        }
        said = {
            "started": totals.started,
            "in flight": totals.in_flight,
            "last_done_s": totals.last_done_s or 0.0,
            "busy_s": totals.busy_s,
            "e2e_s in all": latencies.total,
            "event_loop_lag_s values": totals.distributions.of("event_loop_lag_s").count,
        }
        for name, value in said.items():
            if value > most[name]:
                return f"{name} is {value:g}, and can be {most[name]:g} at most"
        return None


def _most_in_flight(coordinator: RunCoordinator) -> int | None:
    """Return how many requests may have been in flight at a time by now; None where that is not known."""
    load, timeline = coordinator.scenario.load, coordinator.timeline
    if coordinator.users_vary:  # a task may send several at a time
        return None
    if load.is_open_loop:
        return load.in_flight_limit
    if coordinator.driver is not None:
        return coordinator.driver.max_users
    if timeline is None:
        return load.most_users
    return sum(phase.users or 0 for phase in timeline.phases)  # users that a phase stops still have their last request


@dataclass(slots=True)
class Witness:
    """What a worker has said of a run, as far as later reports must agree with it."""

    whole: Mapping[str, float] = field(default_factory=dict)
    phases: dict[str, Mapping[str, float]] = field(default_factory=dict)
    names: dict[str, Mapping[str, float]] = field(default_factory=dict)

    def doubt(
        self, totals: RunTotals, phases: Mapping[str, RunTotals], names: Mapping[str, RunTotals], limits: Limits
    ) -> str | None:
        """Return why a report cannot be true, and remember nothing of it; None, and remember it, if it can."""
        found = contradiction(totals, is_whole=True) or step_back(self.whole, totals) or limits.broken_by(totals)
        for parts, before in ((phases, self.phases), (names, self.names)):
            for name, part in parts.items():
                found = found or _doubt_of_part(name, part, totals, before.get(name, {}))
        if found is None:
            self.whole = levels(totals)
            self.phases |= {name: levels(phase) for name, phase in phases.items()}
            self.names |= {name: levels(part) for name, part in names.items()}
        return found


def _doubt_of_part(name: str, part: RunTotals, whole: RunTotals, before: Mapping[str, float]) -> str | None:
    found = contradiction(part, is_whole=False) or step_back(before, part)
    more = [each for each in ("completed", "failed", "censored") if getattr(part, each) > getattr(whole, each)]
    if found is None and more:
        found = f"{more[0]} is {getattr(part, more[0])}, and {getattr(whole, more[0])} in the run"
    return None if found is None else f"{name}: {found}"
