"""What the workers of a run have reported of it, as far as it can be true."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from llmload.loadgen.credible import Limits, Witness
from llmload.loadgen.messages import Drained, Totals
from llmload.metrics.by_name import NamedTotals
from llmload.metrics.totals import RunTotals


@dataclass(slots=True)
class Collected:
    """The latest report of each worker of one run, added up on demand."""

    run_id: str
    latest: dict[str, RunTotals] = field(default_factory=dict)
    stages: dict[str, dict[str, RunTotals]] = field(default_factory=dict)
    names: dict[str, NamedTotals] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    final: set[str] = field(default_factory=set)
    """Workers that have sent their last report."""
    _witnesses: dict[str, Witness] = field(default_factory=dict)

    def take(self, worker: str, report: Totals, limits: Limits) -> str | None:
        """Keep a worker's report; return why it cannot be true, and keep the one before, if it cannot."""
        is_last = isinstance(report, Drained)
        if report.run_id != self.run_id or (worker in self.final and not is_last):
            return None
        try:
            totals, stages, names = report.unpack(limits.phases)
        except ValueError as error:
            return str(error)
        doubt = self._witnesses.setdefault(worker, Witness()).doubt(totals, stages, names, limits)
        if doubt is not None:
            return doubt
        if is_last:
            self.final.add(worker)
        self.versions[worker] = report.version
        self.latest[worker] = totals
        self.stages.setdefault(worker, {}).update(stages)
        self.names.setdefault(worker, NamedTotals()).update(names)
        return None

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

    def merged_names(self) -> NamedTotals:
        """Return each name's sum over all workers."""
        whole = NamedTotals()
        whole.merge(*self.names.values())
        return whole


def _sum(parts: Iterable[RunTotals]) -> RunTotals:
    whole = RunTotals()
    whole.merge(*parts)
    return whole
