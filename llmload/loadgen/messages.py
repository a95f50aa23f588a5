"""
Totals on their way from workers to the master.

Every report of a worker carries all it has counted in this run, so a report that is lost or comes twice changes
nothing; the master keeps the latest of each worker and adds them up. While a run goes on, a report has limited room,
and where latencies spread widely its histograms are coarser; the last one is whole.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, Protocol

import msgpack  # type: ignore[import-untyped] # it ships no types

from llmload.metrics.totals import COARSEST, RunTotals

KEY: Final = "llmload"
"""Where the totals stand in Locust's report message."""


REPORT_BYTES: Final = 14_500
"""How large a worker's report grows, Locust's own part in it: what is around it makes less than 15 kB of that."""
_STAGES_ALWAYS: Final = 2
"""The stage that goes on, and the one before it, whose last requests are still coming in."""


class Counting(Protocol):
    """A process's part in a run, as far as it is reported."""

    @property
    def run_id(self) -> str:
        """Which run it is."""

    @property
    def totals(self) -> RunTotals:
        """What the process has counted."""

    @property
    def stages(self) -> dict[str, RunTotals]:
        """The same of each stage, in the order in which they began."""


def report(session: Counting) -> bytes:
    """Return a worker's whole report: its last one."""
    return _report(session, list(session.stages), 0)


class Reports:
    """The reports of a worker while a run goes on: each as fine as there is room for."""

    def __init__(self, session: Counting) -> None:
        self._session = session
        self._coarseness = 0
        self._made = 0

    def next(self, room_bytes: int) -> bytes:
        """Return a report of at most so many bytes, or the coarsest where even that is larger."""
        self._made += 1
        self._coarseness = max(0, self._coarseness - 1)  # one that has grown may have shrunk: another stage, say
        while True:
            made = _report(self._session, self._stages(), self._coarseness)
            if self._coarseness == COARSEST or len(made) <= room_bytes:
                return made
            self._coarseness += 1

    def fine(self) -> bytes:
        """Return a report as fine as the last one, however large."""
        self._made += 1
        return _report(self._session, self._stages(), 0)

    def _stages(self) -> list[str]:
        """The last stages, and an older one in turn: those no longer change."""
        names = list(self._session.stages)
        older = names[:-_STAGES_ALWAYS]
        return names[-_STAGES_ALWAYS:] + ([older[self._made % len(older)]] if older else [])


def _report(session: Counting, stages: list[str], coarseness: int) -> bytes:
    content = {
        "run_id": session.run_id,
        "version": version("llmload"),
        "totals": session.totals.to_message(coarseness=coarseness),
        "stages": {name: session.stages[name].to_message(with_outside=False, coarseness=coarseness) for name in stages},
    }
    return zlib.compress(msgpack.dumps(content))  # its names come again and again


def content_of(report: bytes) -> dict[str, Any]:
    """Return what a report says."""
    content: dict[str, Any] = msgpack.loads(zlib.decompress(report))
    return content


@dataclass(slots=True)
class Collected:
    """What the workers have reported of one run."""

    run_id: str
    latest: dict[str, RunTotals] = field(default_factory=dict)
    stages: dict[str, dict[str, RunTotals]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    final: set[str] = field(default_factory=set)
    """Workers that have sent their last, whole report."""

    def take(self, worker: str, report: bytes | None, *, final: bool = False) -> None:
        """Keep a worker's report, unless it speaks of another run or comes after the worker's last."""
        message = None if report is None else content_of(report)
        if message is None or message["run_id"] != self.run_id or (worker in self.final and not final):
            return
        if final:
            self.final.add(worker)
        self.versions[worker] = message["version"]
        self.latest[worker] = RunTotals.from_message(message["totals"])
        stages = {name: RunTotals.from_message(of) for name, of in message["stages"].items()}
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
        return {name: _sum(of[name] for of in self.stages.values() if name in of) for name in names}


def _sum(phases: Iterable[RunTotals]) -> RunTotals:
    whole = RunTotals()
    whole.merge(*phases)
    return whole
