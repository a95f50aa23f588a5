"""The workers of a run as their master sees them: who takes part, who has answered, who is lost or put out."""

from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final

from gevent.event import Event

from llmload.loadgen.collected import Collected
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.credible import Limits
from llmload.loadgen.locust_compat import WorkerClient, is_lost, runs_here
from llmload.loadgen.messages import Totals
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

    def give_up(self) -> None:
        """Wait for nobody any longer; who has not arrived stays missing."""
        self._complete.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every worker has arrived, for ever if None; False if the time was not enough."""
        return bool(self._complete.wait(timeout_s))

    def _check(self) -> None:
        if not self.missing:
            self._complete.set()


LOST_WITH_WORKER: Final = "lost with their worker"


class Workers:
    """The workers that take part in one run; what is lost of them is noted with the run's coordinator."""

    def __init__(self, coordinator: RunCoordinator, ids: Iterable[str]) -> None:
        self.ids = sorted(ids)
        self.run_id = coordinator.run_id
        self.collected = Collected(self.run_id)
        self.started, self.exhausted, self.drained = (WorkerBarrier(self.ids) for _ in range(3))
        self._coordinator, self._conditions = coordinator, coordinator.conditions
        self._draining = self._settled = False
        self.edits = 0
        """How many edits of the load they must have heard of, to have started."""

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
        for worker in absent:
            self._wait_no_longer(worker)

    def _wait_no_longer(self, worker: str) -> None:
        self.started.drop(worker)
        self.exhausted.drop(worker)
        if self._draining:
            self.drained.drop(worker)

    @property
    def all_exhausted(self) -> bool:
        """Whether all workers that are not lost have nothing more to send, and there are such."""
        return bool(self.exhausted.arrived) and not self.exhausted.missing

    def take(self, worker: str, report: Totals) -> str | None:
        """Take a worker's report; return why it cannot be true, if it cannot."""
        if self._settled or worker not in self.ids or worker in self._conditions.rejected_workers:
            return None
        limits = Limits.of(
            self._coordinator, self._shard(worker).of(self._coordinator.scenario.load.ends_after_requests)
        )
        return self.collected.take(worker, report, limits)

    def put_out(self, worker: str, why: str) -> None:
        """Note that a worker is heard no longer, and why: what it reported before counts."""
        if worker in self.ids and not self._settled and worker not in self.drained.arrived:
            self._conditions.rejected_workers[worker] = why
            self._conditions.missing_workers.add(worker)
            self._wait_no_longer(worker)

    def expect(self) -> None:
        """Wait again until all have started the users that they are to have, since the load was edited."""
        self.edits += 1
        self.started = WorkerBarrier(set(self.ids) - self._conditions.missing_workers)

    def begin_drain(self) -> None:
        """From now on a worker may leave once it has drained."""
        self._draining = True

    def await_drained(self, timeout_s: float) -> None:
        """Wait until every worker has drained; those that have not by then are missing."""
        self.drained.wait(timeout_s)
        self._conditions.missing_workers |= self.drained.missing

    def settle(self) -> None:
        """
        Count the requests that lost workers wrote to their files but could not report.

        If their files are on other machines, their last reports count, and what was in flight then is cut.
        """
        self._settled = True
        conditions, latest = self._conditions, self.collected.latest
        conditions.other_version_workers |= {
            worker for worker, theirs in self.collected.versions.items() if theirs != version("llmload")
        }
        for worker in sorted(conditions.missing_workers & set(self.ids) - self.drained.arrived):
            is_here, reported = runs_here(worker), latest.get(worker)
            written = request_log_of(self._shard(worker), self._coordinator) if is_here else None
            if written is not None and (reported is None or written.ended >= reported.ended):
                latest[worker] = written
            elif reported is not None:
                reported.cut_in_flight()
                if is_here:  # its file is gone, or it held lines back for want of room
                    lines = 0 if written is None else written.ended
                    reported.lost_lines = Counter({LOST_WITH_WORKER: reported.ended - lines})

    def request_lines(self) -> dict[str, int]:
        """Return how many lines each worker has written, by its file's name."""
        return {self._shard(worker).log_name: totals.written for worker, totals in self.collected.latest.items()}

    def _shard(self, worker: str) -> WorkerShard:
        return WorkerShard(index=self.ids.index(worker), count=len(self.ids))


def request_log_of(shard: WorkerShard, coordinator: RunCoordinator) -> RunTotals | None:
    """
    Return the totals of a lost worker of this machine, counted from its file; None if there is none.

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
