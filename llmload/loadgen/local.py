"""The node of a run in one process: it sends, and coordinates itself."""

from locust.env import Environment

import gevent
from gevent.event import Event

from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.descriptors import check_descriptors
from llmload.loadgen.locust_compat import (
    Runner,
)
from llmload.loadgen.node import SendingNode
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.session import Session, WorkerShard
from llmload.metrics.by_name import NamedTotals
from llmload.metrics.totals import RunTotals
from llmload.scenario.load_protocol import Load


class LocalNode(CoordinatingNode, SendingNode):
    """The only process of a run."""

    def __init__(self, environment: Environment, runner: Runner, preparation: Preparation) -> None:
        self.runner = runner
        self._spawned = Event()
        """Set when all users of the current load run."""
        super().__init__(environment, preparation)

    def totals(self) -> RunTotals:
        """Return the totals of the run."""
        return RunTotals() if self.session is None else self.session.totals

    def stages(self) -> dict[str, RunTotals]:
        """Return the totals of each stage or step."""
        return {} if self.session is None else self.session.stages

    def step_totals(self, name: str) -> RunTotals:
        """Return the totals of one stage or step."""
        return self.stages().get(name, RunTotals())

    def names(self) -> NamedTotals:
        """Return the totals of each name."""
        return NamedTotals() if self.session is None else self.session.names

    def counts(self) -> tuple[int, int]:
        """Return how many requests have ended, and how many are in flight."""
        totals = self.totals()
        return totals.ended, totals.in_flight

    def request_lines(self) -> dict[str, int]:
        """Return how many lines this process has written, by its file's name."""
        return {} if self.session is None else {self.session.shard.log_name: self.totals().written}

    def process_cpu_usage(self) -> dict[str, float]:
        """Return the CPU use of this process, in per cent of one core."""
        return {"local": self.runner.current_cpu_usage}

    @property
    def sender_count(self) -> int:
        """How many processes send."""
        return 1

    def sender_cpu_usage(self) -> float:
        """Return the CPU use of this process, in per cent of one core."""
        return self.runner.current_cpu_usage

    def _senders(self) -> set[str]:
        return set()

    def _check_descriptors(self, load: Load, workers: set[str]) -> None:  # noqa: ARG002 - there are none
        check_descriptors(load, WorkerShard(index=0, count=1))

    def _start_senders(self, coordinator: RunCoordinator, workers: set[str]) -> None:  # noqa: ARG002 - there are none
        self._spawned.clear()
        base_dir = self.preparation.file.parent
        workload = self.preparation.workload(coordinator.scenario, base_dir)
        self._open_session(
            coordinator.scenario,
            workload,
            WorkerShard(index=0, count=1),
            coordinator.run_id,
            base_dir=base_dir,
            start_ns=coordinator.span.start_ns,
        )

    def _cancel_start(self) -> None:
        self._close_session()
        self.session = None
        super()._cancel_start()

    def _on_spawning_complete(self, **further: object) -> None:
        super()._on_spawning_complete(**further)
        self._spawned.set()

    def expect_senders(self) -> None:
        """Wait from now on for the users of the edited load, not for those before it."""
        self._spawned.clear()

    def await_senders(self) -> None:
        """Wait until the users of the current load run, and those that an edit has stopped have their answers."""
        self._spawned.wait()
        if self.session is not None:
            self.session.wait_for_leavers()

    def _send_opening(self, coordinator: RunCoordinator) -> None:  # noqa: ARG002 - to this process alone
        if self.session is not None:
            self._open_window(self.session)

    def _send_stage(self, coordinator: RunCoordinator, index: int) -> None:  # noqa: ARG002 - the same
        if self.session is not None and self.session.timeline is not None:
            self.session.timeline.begin(index)

    def _send_step(self, coordinator: RunCoordinator, command: StepCommand) -> None:  # noqa: ARG002 - the same
        if self.session is not None:
            self.session.apply(command)

    def _on_exhausted(self, session: Session) -> None:  # noqa: ARG002 - there is one
        gevent.spawn(self.end)  # not in this greenlet, which ends with the run

    def _drain_run(self) -> None:
        super()._drain_run()
        self._drain()

    def _settle(self) -> None:
        if self.session is not None:
            self.session.settle()

    def _stop(self) -> None:
        super()._stop()
        self._close_session()
