"""The master of a distributed run: it coordinates workers, and sends nothing itself."""

from locust.env import Environment

from typing import Any, Final

import gevent

from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.locust_compat import Master, is_lost
from llmload.loadgen.messages import (
    Abort,
    BeginStage,
    Drain,
    Drained,
    Exhausted,
    Step,
    Totals,
    WorkerPlan,
    listen,
    parse,
    send,
)
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.reports import KEY
from llmload.loadgen.session import ABORT_GRACE_S
from llmload.loadgen.workers import Workers
from llmload.metrics.totals import RunTotals

REPLY_GRACE_S: Final = 10.0
"""How long past the drain timeout a worker may take to reply."""


class MasterNode(CoordinatingNode):
    """The process that workers report to."""

    runner: Master

    def __init__(self, environment: Environment, runner: Master, preparation: Preparation) -> None:
        self.runner = runner
        super().__init__(environment, preparation)
        self._workers: Workers | None = None
        listen(runner, Totals, self._on_totals)
        listen(runner, Exhausted, self._on_exhausted)
        listen(runner, Drained, self._on_drained)
        environment.events.worker_report.add_listener(self._on_worker_report)

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

    def _start_senders(self, coordinator: RunCoordinator, workers: set[str]) -> None:
        self._workers = Workers(coordinator, workers)
        plan = WorkerPlan(
            run_id=coordinator.run_id,
            scenario=coordinator.scenario,
            base_dir=self.preparation.file.parent,
            workers=tuple(self._workers.ids),
        )
        send(self.runner, plan)  # before Locust's own message that starts users, on the same socket

    def _send_stage(self, coordinator: RunCoordinator, index: int) -> None:
        send(self.runner, BeginStage(run_id=coordinator.run_id, index=index))

    def _send_step(self, coordinator: RunCoordinator, command: StepCommand) -> None:
        send(self.runner, Step.of(coordinator.run_id, command))

    def _on_test_stopping(self, **further: object) -> None:
        super()._on_test_stopping(**further)
        if self.coordinator is not None and self._workers is not None:
            self._workers.begin_drain()
            self._check_processes()
            send(self.runner, Drain(run_id=self.coordinator.run_id))
            self._workers.await_drained(self.coordinator.scenario.run.drain_timeout_s + REPLY_GRACE_S)

    def _abort(self) -> None:
        """Cut what workers have in flight: those on other machines have not heard of Ctrl-C."""
        if self.coordinator is not None and self._workers is not None:
            send(self.runner, Abort(run_id=self.coordinator.run_id))
            self._workers.await_drained(ABORT_GRACE_S + REPLY_GRACE_S)

    def _settle(self) -> None:
        if self._workers is not None:
            self._workers.settle()

    def _stop(self) -> None:
        super()._stop()
        if self.headless and self._workers is not None and self._workers.all_missing:
            gevent.spawn(self.end)  # Locust stops a run that has lost all its workers, but waits on
