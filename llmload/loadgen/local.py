"""A run in one process: the local node coordinates it and sends its requests."""

from locust.env import Environment

import gevent

from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.locust_compat import Runner
from llmload.loadgen.node import SendingNode
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.session import Session, WorkerShard
from llmload.metrics.totals import RunTotals


class LocalNode(CoordinatingNode, SendingNode):
    """The only process of a run."""

    def __init__(self, environment: Environment, runner: Runner, preparation: Preparation) -> None:
        self.runner = runner
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

    def counts(self) -> tuple[int, int]:
        """Return how many requests have ended, and how many are in flight."""
        totals = self.totals()
        return totals.ended, totals.in_flight

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

    def _start_senders(self, coordinator: RunCoordinator, workers: set[str]) -> None:  # noqa: ARG002 - there are none
        base_dir = self.preparation.file.parent
        workload = self.preparation.workload(coordinator.scenario, base_dir)
        self._open_session(coordinator.scenario, workload, WorkerShard(index=0, count=1), coordinator.run_id, base_dir)

    def _cancel_start(self) -> None:
        super()._cancel_start()
        self.session = None

    def _on_spawning_complete(self, **further: object) -> None:
        self._open_window()
        super()._on_spawning_complete(**further)

    def _send_stage(self, coordinator: RunCoordinator, index: int) -> None:  # noqa: ARG002 - to this process alone
        self._begin_own_stage(index)

    def _send_step(self, coordinator: RunCoordinator, command: StepCommand) -> None:  # noqa: ARG002 - the same
        if self.session is not None:
            self.session.apply(command)

    def _on_exhausted(self, session: Session) -> None:  # noqa: ARG002 - there is one
        gevent.spawn(self.end)  # not in this greenlet, which ends with the run

    def _on_test_stopping(self, **further: object) -> None:
        super()._on_test_stopping(**further)
        self._drain()

    def _settle(self) -> None:
        """Nothing is lost: there is one process."""

    def _stop(self) -> None:
        super()._stop()
        self._close_session()
