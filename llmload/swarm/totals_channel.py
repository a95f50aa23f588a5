"""
Totals on their way from workers to the master.

Every report of a worker carries all it has counted in this run, so a report that is lost or comes twice changes
nothing; the master keeps the latest of each worker and adds them up.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final

from llmload.measure.totals import RunTotals
from llmload.swarm.session import Session

KEY: Final = "llmload"
"""Where the totals stand in Locust's report message."""


def report(session: Session) -> dict[str, Any]:
    """Return a worker's report."""
    return {
        "run_id": session.run_id,
        "version": version("llmload"),
        "totals": session.totals.to_message(),
        "stages": {name: totals.to_message(with_outside=False) for name, totals in session.stages.items()},
    }


@dataclass(slots=True)
class Collected:
    """What the workers have reported of one run."""

    run_id: str
    latest: dict[str, RunTotals] = field(default_factory=dict)
    stages: dict[str, dict[str, RunTotals]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def take(self, worker: str, message: dict[str, Any] | None) -> None:
        """Keep a worker's report, unless it speaks of another run."""
        if message is not None and message["run_id"] == self.run_id:
            self.versions[worker] = message["version"]
            self.latest[worker] = RunTotals.from_message(message["totals"])
            self.stages[worker] = {name: RunTotals.from_message(of) for name, of in message["stages"].items()}

    def merged(self) -> RunTotals:
        """Return the sum over all workers."""
        return _sum(self.latest.values())

    def merged_stages(self) -> dict[str, RunTotals]:
        """Return each stage's sum over all workers."""
        names = dict.fromkeys(name for stages in self.stages.values() for name in stages)
        return {name: _sum(of[name] for of in self.stages.values() if name in of) for name in names}


def _sum(parts: Iterable[RunTotals]) -> RunTotals:
    whole = RunTotals()
    for part in parts:
        whole.merge(part)
    return whole
