"""
Totals on their way from workers to the master.

Every report of a worker carries all it has counted in this run, so a report that is lost or comes twice changes
nothing; the master keeps the latest of each worker and adds them up.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from llmload.measure.totals import RunTotals

KEY: Final = "llmload"
"""Where the totals stand in Locust's report message."""


def report(run_id: str, totals: RunTotals) -> dict[str, Any]:
    """Return a worker's report."""
    return {"run_id": run_id, "totals": totals.to_message()}


@dataclass(slots=True)
class Collected:
    """What the workers have reported of one run."""

    run_id: str
    latest: dict[str, RunTotals] = field(default_factory=dict)

    def take(self, worker: str, message: dict[str, Any] | None) -> None:
        """Keep a worker's report, unless it speaks of another run."""
        if message is not None and message["run_id"] == self.run_id:
            self.latest[worker] = RunTotals.from_message(message["totals"])

    def merged(self) -> RunTotals:
        """Return the sum over all workers."""
        whole = RunTotals()
        for totals in self.latest.values():
            whole.merge(totals)
        return whole
