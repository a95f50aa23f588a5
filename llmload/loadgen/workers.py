"""What the steering node watches while a run goes on: whether its workers are there and how busy they are."""

from locust.runners import STATE_MISSING, MasterRunner

import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from gevent.event import Event

from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.session import Session, WorkerShard
from llmload.metrics.totals import RunTotals
from llmload.runs.folder import RunFolder, read_records

# The end of a run: nothing new is sent, what is in flight may finish, what is cut says so.
#
# Locust ends a headless distributed run by dropping every request in flight, which drops the slow ones. Here the node
# that steers the run blocks in `test_stopping` until its requests, or those of every worker, have come to an end:
#
#     master --DRAIN(timeout)--> worker   stops starting, waits until idle, cuts the rest
#     master --ABORT--> worker            does not wait any longer: a second Ctrl-C
#     worker --DRAINED(totals)--> master  all that the worker has counted

DRAIN, DRAINED, EXHAUSTED = "llmload_drain", "llmload_drained", "llmload_exhausted"
ABORT = "llmload_abort"
STAGE = "llmload_stage"
STEP, TOTALS = "llmload_step", "llmload_totals"
ANSWER_GRACE_S = 10.0
"""How long past the drain's time-out a worker may take to answer."""


def drain(session: Session, timeout_s: float) -> None:
    """Let what is in flight finish for up to `timeout_s` seconds, then cut the rest."""
    session.stop_starting()
    if not session.wait_until_idle(timeout_s):
        session.abort()


class WorkerBarrier:
    """Which workers of a run have answered."""

    def __init__(self, workers: set[str]) -> None:
        self.expected = set(workers)
        self.answered: set[str] = set()
        self._complete = Event()
        self._check()

    @property
    def missing(self) -> set[str]:
        """Workers that have not answered."""
        return self.expected - self.answered

    def answer(self, worker: str) -> None:
        """Note a worker's answer."""
        self.answered.add(worker)
        self._check()

    def drop(self, worker: str) -> None:
        """Wait for this worker no longer: it is gone."""
        self.expected.discard(worker)
        self._check()

    def wait(self, timeout_s: float) -> bool:
        """Wait until every worker has answered; False if the time was not enough."""
        return bool(self._complete.wait(timeout_s))

    def _check(self) -> None:
        if not self.missing:
            self._complete.set()


PER_CENT: Final = 100.0


def check_workers(
    coordinator: RunCoordinator, runner: Any, planned: list[str], *, reporting: set[str], answered: set[str]
) -> set[str]:
    """
    Note workers that are gone or came late, and the busiest one's CPU, once a second; return who is gone now.

    Who has reported in this run is given up a second before Locust does so; who still starts has Locust's patience.
    """
    absent: set[str] = set()
    if isinstance(runner, MasterRunner):
        heard = {client.id for client in runner.clients.all if client.state != STATE_MISSING}
        silent = {client.id for client in runner.clients.all if client.heartbeat < 0}
        present = heard - (silent & reporting)
        absent = set(planned) - present - answered
        coordinator.missing_workers |= absent
        coordinator.late_workers |= present - set(planned)
        busy = max((client.cpu_usage for client in runner.clients.all), default=0)
    else:
        busy = runner.current_cpu_usage
    if coordinator.stage not in {"warm-up", "draining", "ended"} and busy:
        coordinator.worst_cpu_share = max(coordinator.worst_cpu_share or 0.0, busy / PER_CENT)
    return absent


def other_versions(versions: Mapping[str, str]) -> set[str]:
    """Return the workers that run another version of llmload than this node."""
    return {worker for worker, theirs in versions.items() if theirs != version("llmload")}


def ran_here(worker: str) -> bool:
    """Return whether a worker runs on this machine: Locust begins its name with the machine's."""
    return worker.rpartition("_")[0] == socket.gethostname()


def request_log_of(shard: WorkerShard, coordinator: RunCoordinator) -> RunTotals | None:
    """
    Return what a lost worker of this machine wrote down, counted anew from its file; None where there is none.

    A worker of another machine may write to the same folder, but its stamps are of another clock than the window's.
    """
    records = read_records(RunFolder(coordinator.folder.path), shard.log_name)
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
