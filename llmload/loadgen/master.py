"""The master of a run: its workers, whether they are still there, and what it sends them."""

from locust.env import Environment

import logging
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

import gevent
from gevent.event import Event

from llmload.loadgen.capacity_driver import CapacityDriver
from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.descriptors import check_descriptors
from llmload.loadgen.ending import say
from llmload.loadgen.locust_compat import Master, WorkerClient, is_lost, runs_here
from llmload.loadgen.messages import (
    KEY,
    Abort,
    BeginStage,
    Collected,
    Drain,
    Drained,
    Exhausted,
    Fault,
    OpenWindow,
    Started,
    Step,
    Totals,
    WorkerPlan,
    listen,
    parse,
    send,
)
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.session import ABORT_GRACE_S, WorkerShard
from llmload.metrics.totals import RunTotals
from llmload.runs.requests import read_records
from llmload.scenario.load_protocol import Load

# The workers of a run as their master sees them: who takes part, who has answered, who is lost.


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
        self._draining = False
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
            self.started.drop(worker)
            if self._draining:
                self.drained.drop(worker)

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


REPLY_GRACE_S: Final = 10.0
"""How long past the drain timeout a worker may take to reply."""
ABORT_REPLY_S: Final = 2.0
"""The same once what is in flight has been cut."""
QUIT_S: Final = 0.5
"""How long the message that ends workers may take to leave this process, as Locust has it."""
START_PATIENCE_S: Final = 5.0
"""How long workers may take to start before the log names those that have not."""

logger = logging.getLogger(__name__)


class MasterNode(CoordinatingNode):
    """The process that workers report to."""

    runner: Master

    def __init__(self, environment: Environment, runner: Master, preparation: Preparation) -> None:
        self.runner = runner
        super().__init__(environment, preparation)
        self._workers: Workers | None = None
        listen(runner, Started, self.guard("a worker's start", self._on_started))
        listen(runner, Totals, self.guard("a worker's report", self._on_totals))
        listen(runner, Exhausted, self.guard("the end of a worker's load", self._on_exhausted))
        listen(runner, Drained, self.guard("a worker's last report", self._on_drained))
        listen(runner, Fault, self.guard("a worker's fault", self._on_worker_fault))
        environment.events.worker_report.add_listener(self.guard("a worker's report", self._on_worker_report))

    # What the workers have reported

    def totals(self) -> RunTotals:
        """Return the totals of the run."""
        return RunTotals() if self._workers is None else self._workers.collected.merged()

    def stages(self) -> dict[str, RunTotals]:
        """Return the totals of each stage or step."""
        return {} if self._workers is None else self._workers.collected.merged_stages()

    def step_totals(self, name: str) -> RunTotals:
        """Return the totals of one stage or step."""
        return RunTotals() if self._workers is None else self._workers.collected.merged_stage(name)

    def counts(self) -> tuple[int, int]:
        """Return how many requests have ended, and how many are in flight."""
        reported = [] if self._workers is None else list(self._workers.collected.latest.values())
        return sum(totals.ended for totals in reported), sum(totals.in_flight for totals in reported)

    def request_lines(self) -> dict[str, int]:
        """Return how many lines each worker has written, by its file's name."""
        return {} if self._workers is None else self._workers.request_lines()

    def _on_totals(self, worker: str, report: Totals) -> None:
        if self._workers is not None:
            self._workers.collected.take(worker, report)

    def _on_worker_report(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        report = parse(Totals, data[KEY], client_id) if KEY in data else None
        if report is not None:
            self._on_totals(client_id, report)

    def _on_exhausted(self, worker: str, message: Exhausted) -> None:
        if self._workers is not None and message.run_id == self._workers.run_id:
            self._workers.exhausted.arrive(worker)
            if not self._workers.exhausted.missing:
                gevent.spawn(self.end)

    def _on_drained(self, worker: str, report: Drained) -> None:
        if self._workers is not None and report.run_id == self._workers.run_id:
            self._workers.collected.take(worker, report)
            self._workers.drained.arrive(worker)

    def _on_worker_fault(self, worker: str, message: Fault) -> None:
        if self._workers is not None and self.coordinator is not None and message.run_id == self._workers.run_id:
            text = f"worker {worker}: {message.text}"
            say(text)
            self._note_fault(self.coordinator, text)

    # Workers as processes

    def process_cpu_usage(self) -> dict[str, float]:
        """Return the CPU use of the master and of each worker, in per cent of one core."""
        present = sorted((client.id, client.cpu_usage) for client in self.runner.clients.all if not is_lost(client))
        workers = {str(index): usage for index, (_, usage) in enumerate(present)}
        return {"master": self.runner.current_cpu_usage, **workers}

    @property
    def sender_count(self) -> int:
        """How many workers are ready or running."""
        return self.runner.worker_count

    def sender_cpu_usage(self) -> float:
        """Return the CPU use of the busiest worker, in per cent of one core."""
        return max((client.cpu_usage for client in self.runner.clients.all), default=0.0)

    def worker_states(self) -> list[str]:
        """Return Locust's state of each worker."""
        return [client.state for client in self.runner.clients.all]

    def _check_processes(self) -> None:
        super()._check_processes()
        if self._workers is not None:
            self._workers.check(self.runner.clients.all)

    # A run

    def _senders(self) -> set[str]:
        return {client.id for client in self.runner.clients.all}

    def _check_descriptors(self, load: Load, workers: set[str]) -> None:
        if any(map(runs_here, workers)):  # with the limit that this process has too; others say so themselves
            check_descriptors(load, WorkerShard(index=0, count=len(workers)))

    def _start_senders(self, coordinator: RunCoordinator, workers: set[str]) -> None:
        self._workers = Workers(coordinator, workers)
        plan = WorkerPlan(
            run_id=coordinator.run_id,
            scenario=coordinator.scenario,
            base_dir=self.preparation.file.parent,
            workers=tuple(self._workers.ids),
        )
        send(self.runner, plan)  # before Locust's own message that starts users, on the same socket

    def _on_started(self, worker: str, message: Started) -> None:
        workers = self._workers
        if workers is not None and message.run_id == workers.run_id and message.edits == workers.edits:
            workers.started.arrive(worker)

    def expect_senders(self) -> None:
        """Wait from now on for the users of the edited load, not for those before it."""
        if self._workers is not None:
            self._workers.expect()

    def await_senders(self) -> None:
        """Wait until the users of the current load run in every worker that is not lost."""
        started = None if self._workers is None else self._workers.started
        if started is not None and not started.wait(START_PATIENCE_S):
            missing = ", ".join(sorted(started.missing))
            logger.warning("nothing is measured before all workers send; still starting: %s", missing)
            started.wait()

    def load_time_s(self, run_time_s: float) -> float:
        """Return how much of a staged load's time has passed: none before all workers send."""
        started = self._workers is None or not self._workers.started.missing
        return super().load_time_s(run_time_s) if started else 0.0

    def _search(self, search: CapacityDriver) -> None:
        if self._workers is not None:
            self._workers.started.wait()
        super()._search(search)

    def _send_opening(self, coordinator: RunCoordinator) -> None:
        send(self.runner, OpenWindow(run_id=coordinator.run_id))

    def _send_stage(self, coordinator: RunCoordinator, index: int) -> None:
        send(self.runner, BeginStage(run_id=coordinator.run_id, index=index))

    def _send_step(self, coordinator: RunCoordinator, command: StepCommand) -> None:
        send(self.runner, Step.of(coordinator.run_id, command))

    def _drain_run(self) -> None:
        super()._drain_run()
        if self.coordinator is not None and self._workers is not None:
            self._check_processes()  # those that have left by now did not wait for the drain
            self._workers.begin_drain()
            self._check_processes()
            send(self.runner, Drain(run_id=self.coordinator.run_id))
            self._workers.await_drained(self.coordinator.scenario.run.drain_timeout_s + REPLY_GRACE_S)

    def _abort(self) -> None:
        """Cut what workers have in flight, and wait for those that do not answer no longer."""
        if self.coordinator is not None and self._workers is not None:
            send(self.runner, Abort(run_id=self.coordinator.run_id))
            if not self._workers.drained.wait(ABORT_GRACE_S + ABORT_REPLY_S):
                self._workers.drained.give_up()

    def _refuse(self, text: str) -> None:
        """End a run that could not begin, and its workers with it: they are connected, and would wait for a run."""
        if self.headless:
            self.runner.send_message("quit")
            gevent.sleep(QUIT_S)
        super()._refuse(text)

    def _settle(self) -> None:
        if self._workers is not None:
            self._workers.settle()

    def _stop(self) -> None:
        super()._stop()
        if self.headless and self._workers is not None and self._workers.all_missing:
            gevent.spawn(self.end)  # Locust stops a run that has lost all its workers, but waits on
