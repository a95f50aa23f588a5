"""
Reports of workers: made as fine as there is room for, and added up by the master.

During a run a report has limited room, so histograms are coarser where latencies spread widely; the last report is
whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import msgpack

from llmload.loadgen.messages import Drained, Totals, ignore
from llmload.metrics.totals import COARSEST, RunTotals

KEY: Final = "llmload"
"""Our key in Locust's own report."""
REPORT_BYTES: Final = 14_500
"""Limit of a worker's report, Locust's own part included: with its envelope it is less than 15 kB."""
_STAGES_ALWAYS: Final = 2
"""The current stage, and the one before it, whose last requests are still ending."""

T = TypeVar("T", bound=Totals)


class Counting(Protocol):
    """The part of a session that is reported."""

    @property
    def run_id(self) -> str:
        """Which run it is."""

    @property
    def totals(self) -> RunTotals:
        """What the process has counted."""

    @property
    def stages(self) -> dict[str, RunTotals]:
        """The same of each stage, in the order in which they began."""


def last_report(session: Counting) -> Drained:
    """Return a worker's whole report."""
    return _report(Drained, session, list(session.stages), 0)


class Reports:
    """The reports of a worker during a run."""

    def __init__(self, session: Counting) -> None:
        self._session = session
        self._coarseness = 0
        self._made = 0

    def next(self, room_bytes: int) -> Totals:
        """Return a report of at most `room_bytes` on the wire, or the coarsest if even that is larger."""
        self._made += 1
        self._coarseness = max(0, self._coarseness - 1)  # the next stage may need less room
        while True:
            made = _report(Totals, self._session, self._stages(), self._coarseness)
            if self._coarseness == COARSEST or wire_bytes(made) <= room_bytes:
                return made
            self._coarseness += 1

    def fine(self) -> Totals:
        """Return a report as fine as the last one, of any size."""
        self._made += 1
        return _report(Totals, self._session, self._stages(), 0)

    def _stages(self) -> list[str]:
        """Return the last stages, and one older stage in turn: those no longer change."""
        names = list(self._session.stages)
        older = names[:-_STAGES_ALWAYS]
        return names[-_STAGES_ALWAYS:] + ([older[self._made % len(older)]] if older else [])


def wire_bytes(report: Totals) -> int:
    """Return how many bytes a report takes in a message."""
    return len(msgpack.dumps(report.to_wire()))


def _report(kind: type[T], session: Counting, stages: list[str], coarseness: int) -> T:
    return kind.pack(
        session.run_id,
        session.totals.to_message(coarseness=coarseness),
        {name: session.stages[name].to_message(with_out_of_window=False, coarseness=coarseness) for name in stages},
    )


@dataclass(slots=True)
class Collected:
    """What the workers have reported of one run: the latest report of each, added up on demand."""

    run_id: str
    latest: dict[str, RunTotals] = field(default_factory=dict)
    stages: dict[str, dict[str, RunTotals]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    final: set[str] = field(default_factory=set)
    """Workers that have sent their last report."""

    def take(self, worker: str, report: Totals) -> None:
        """Keep a worker's report, unless it is of another run or comes after the worker's last."""
        is_last = isinstance(report, Drained)
        if report.run_id != self.run_id or (worker in self.final and not is_last):
            return
        try:
            totals, stages = report.unpack()
        except ValueError as error:
            ignore(type(report), worker, str(error))
            return
        if is_last:
            self.final.add(worker)
        self.versions[worker] = report.version
        self.latest[worker] = totals
        self.stages.setdefault(worker, {}).update(stages)

    def merged(self) -> RunTotals:
        """Return the sum over all workers."""
        return _sum(self.latest.values())

    def merged_stage(self, name: str) -> RunTotals:
        """Return one stage's sum over all workers."""
        return _sum(of[name] for of in self.stages.values() if name in of)

    def merged_stages(self) -> dict[str, RunTotals]:
        """Return each stage's sum over all workers."""
        names = dict.fromkeys(name for stages in self.stages.values() for name in stages)
        return {name: self.merged_stage(name) for name in names}


def _sum(parts: Iterable[RunTotals]) -> RunTotals:
    whole = RunTotals()
    whole.merge(*parts)
    return whole
