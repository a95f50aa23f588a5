"""The master of a run: its workers, whether they are still there, and what it sends them."""

from locust.env import Environment

import logging
from typing import Any, Final

import gevent

from llmload.loadgen.cluster import warn_if_open
from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.descriptors import check_descriptors
from llmload.loadgen.ending import say
from llmload.loadgen.locust_compat import Master, dismiss, is_lost, runs_here, wait_for_no_workers
from llmload.loadgen.messages import (
    KEY,
    Abort,
    BeginStage,
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
from llmload.loadgen.sockets import MASTER_DOOR
from llmload.loadgen.step_driver import StepDriver
from llmload.loadgen.wire import printable
from llmload.loadgen.workers import Workers
from llmload.metrics.by_name import NamedTotals
from llmload.metrics.totals import RunTotals
from llmload.scenario.load_protocol import Load

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
        wait_for_no_workers(runner)
        super().__init__(environment, preparation)
        self._workers: Workers | None = None
        self._listen(environment)
        warn_if_open(self.options.master_bind_host, self.options.master_bind_port)

    def _listen(self, environment: Environment) -> None:
        """Hear the workers, and put out those that send what no worker sends."""
        runner = self.runner
        MASTER_DOOR.refuse = self.guard("putting a worker out", self._on_bad_worker)
        put_out = MASTER_DOOR.put_out
        listen(runner, Started, self.guard("a worker's start", self._on_started), refuse=put_out)
        listen(runner, Totals, self.guard("a worker's report", self._on_totals), refuse=put_out)
        listen(runner, Exhausted, self.guard("the end of a worker's load", self._on_exhausted), refuse=put_out)
        listen(runner, Drained, self.guard("a worker's last report", self._on_drained), refuse=put_out)
        listen(runner, Fault, self.guard("a worker's fault", self._on_worker_fault), refuse=put_out)
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

    def names(self) -> NamedTotals:
        """Return the totals of each name."""
        return NamedTotals() if self._workers is None else self._workers.collected.merged_names()

    def counts(self) -> tuple[int, int]:
        """Return how many requests have ended, and how many are in flight."""
        reported = [] if self._workers is None else list(self._workers.collected.latest.values())
        return sum(totals.ended for totals in reported), sum(totals.in_flight for totals in reported)

    def request_lines(self) -> dict[str, int]:
        """Return how many lines each worker has written, by its file's name."""
        return {} if self._workers is None else self._workers.request_lines()

    def _on_totals(self, worker: str, report: Totals) -> None:
        doubt = None if self._workers is None else self._workers.take(worker, report)
        if doubt is not None:
            MASTER_DOOR.put_out(worker, f"{report.name}: {doubt}")

    def _on_worker_report(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        if KEY in data:
            try:
                report = parse(Totals, data[KEY])
            except ValueError as error:
                MASTER_DOOR.put_out(client_id, f"{Totals.name}: {error}")
            else:
                self._on_totals(client_id, report)

    def _on_bad_worker(self, worker: str, why: str) -> None:
        """Let the run go on without a worker that sent what no worker sends."""
        say(f"worker {worker} was put out: {why}")
        if self._workers is not None:
            self._workers.put_out(worker, why)
        dismiss(self.runner, worker)

    def _on_exhausted(self, worker: str, message: Exhausted) -> None:
        if self._workers is not None and message.run_id == self._workers.run_id:
            self._workers.exhausted.arrive(worker)
            self._end_if_exhausted(self._workers)

    def _end_if_exhausted(self, workers: Workers) -> None:
        if workers.all_exhausted and not self._ending.begun:
            gevent.spawn(self.end)

    def _on_drained(self, worker: str, report: Drained) -> None:
        if self._workers is not None and report.run_id == self._workers.run_id:
            self._on_totals(worker, report)
            if worker in self._workers.collected.final:
                self._workers.drained.arrive(worker)

    def _on_worker_fault(self, worker: str, message: Fault) -> None:
        if self._workers is not None and self.coordinator is not None and message.run_id == self._workers.run_id:
            text = f"worker {worker}: {printable(message.text)}"
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
            self._end_if_exhausted(self._workers)

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
            workers=tuple(self._workers.ids),
            calibration=self.preparation.calibration,
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

    def _drive(self, driver: StepDriver) -> None:
        if self._workers is not None:
            self._workers.started.wait()
        super()._drive(driver)

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
