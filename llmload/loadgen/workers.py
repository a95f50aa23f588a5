"""The workers of a run as their master sees them: who takes part, who has answered, who is lost."""

from collections.abc import Iterable
from importlib.metadata import version

from gevent.event import Event

from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.locust_compat import WorkerClient, is_lost, runs_here
from llmload.loadgen.reports import Collected
from llmload.loadgen.session import WorkerShard
from llmload.metrics.totals import RunTotals
from llmload.runs.requests import read_records


class WorkerBarrier:
    """Waits until every worker of a run has arrived."""

    def __init__(self, workers: Iterable[str]) -> None:
        self.arrived: set[str] = set()
        self._expected = set(workers)
        self._complete = Event()
        self._check()

    @property
    def missing(self) -> set[str]:
        """Workers that have not arrived."""
        return self._expected - self.arrived

    def arrive(self, worker: str) -> None:
        """Note that a worker has arrived."""
        self.arrived.add(worker)
        self._check()

    def drop(self, worker: str) -> None:
        """Wait for this worker no longer: it is lost."""
        self._expected.discard(worker)
        self._check()

    def wait(self, timeout_s: float) -> bool:
        """Wait until every worker has arrived; False if the time was not enough."""
        return bool(self._complete.wait(timeout_s))

    def _check(self) -> None:
        if not self.missing:
            self._complete.set()


class Workers:
    """The workers that take part in one run; what is lost of them is noted with the run's coordinator."""

    def __init__(self, coordinator: RunCoordinator, ids: Iterable[str]) -> None:
        self.ids = sorted(ids)
        self.run_id = coordinator.run_id
        self.collected = Collected(self.run_id)
        self.exhausted, self.drained = WorkerBarrier(self.ids), WorkerBarrier(self.ids)
        self._coordinator, self._conditions = coordinator, coordinator.conditions
        self._draining = False

    @property
    def all_missing(self) -> bool:
        """Whether no worker of the run is left."""
        return bool(self.ids) and self._conditions.missing_workers >= set(self.ids)

    def check(self, clients: Iterable[WorkerClient]) -> None:
        """
        Note which workers are missing now, and which came late.

        A worker that has reported in this run is missing a second before Locust says so; one that is still starting
        gets Locust's patience.
        """
        clients = list(clients)
        heard = {client.id for client in clients if not is_lost(client)}
        silent = {client.id for client in clients if client.heartbeat < 0}
        present = heard - (silent & set(self.collected.latest))
        may_leave = self.drained.arrived if self._draining else set()
        absent = set(self.ids) - present - may_leave
        self._conditions.missing_workers |= absent
        self._conditions.late_workers |= present - set(self.ids)
        if self._draining:
            for worker in absent:
                self.drained.drop(worker)

    def begin_drain(self) -> None:
        """From now on a worker may leave once it has drained."""
        self._draining = True

    def await_drained(self, timeout_s: float) -> None:
        """Wait until every worker has drained; those that have not by then are missing."""
        if not self.drained.wait(timeout_s):
            self._conditions.missing_workers |= self.drained.missing

    def settle(self) -> None:
        """
        Count what lost workers wrote down but could not report.

        If their files are on other machines, their last reports count, and what was in flight then is cut.
        """
        conditions, latest = self._conditions, self.collected.latest
        conditions.other_version_workers |= {
            worker for worker, theirs in self.collected.versions.items() if theirs != version("llmload")
        }
        for worker in sorted(conditions.missing_workers & set(self.ids) - self.drained.arrived):
            shard = WorkerShard(index=self.ids.index(worker), count=len(self.ids))
            written = request_log_of(shard, self._coordinator) if runs_here(worker) else None
            if written is not None:
                latest[worker] = written
            elif worker in latest:
                latest[worker].cut_in_flight()


def request_log_of(shard: WorkerShard, coordinator: RunCoordinator) -> RunTotals | None:
    """
    Return what a lost worker of this machine wrote down, counted again from its file; None if there is none.

    A worker of another machine may write to the same folder, but its stamps are of another clock than the window's.
    """
    records = read_records(coordinator.folder, shard.log_name)
    if records is None:
        return None
    totals = RunTotals()
    for record in records:
        totals.started += 1
        totals.add(
            record,
            window=coordinator.span.window,
            slo=coordinator.scenario.slo_limits(),
            run_start_ns=coordinator.span.start_ns,
        )
    return totals
