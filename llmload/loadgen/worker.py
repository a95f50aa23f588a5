"""A worker of a distributed run: it sends its shard of the load, and reports to its master."""

from locust.env import Environment
from locust.event import Events

import logging
import signal
import sys
import time
from typing import Any, Final

import gevent
import msgpack

from llmload.errors import ExitCode
from llmload.loadgen.agreed import agreed
from llmload.loadgen.descriptors import check_descriptors
from llmload.loadgen.ending import fault_text, leave_at_once, say, say_fault
from llmload.loadgen.forks import PARENT_GONE
from llmload.loadgen.locust_compat import Worker
from llmload.loadgen.locust_statistics import send_statistics, shrink_report
from llmload.loadgen.messages import (
    KEY,
    MAX_TEXT,
    REPORT_BYTES,
    Abort,
    BeginStage,
    Drain,
    Exhausted,
    Fault,
    Message,
    OpenWindow,
    Reports,
    Started,
    Step,
    WorkerPlan,
    last_report,
    listen,
    send,
)
from llmload.loadgen.node import SendingNode
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.session import Session, WorkerShard
from llmload.loadgen.step_driver import REPORT_S

SILENCE_S: Final = 4.25
"""
How long a master may be silent. Locust's master answers each heartbeat, one a second, so it may be busy for 3 s; and a
worker whose master is gone has ended its load within 5 s.
"""
LISTEN_S: Final = 0.25
"""How often the silence is measured."""
LEAVE_GRACE_S: Final = 10.0
"""How long a worker that got Ctrl-C waits for its master to end the run; both may run in one terminal."""
SIGTERM_GRACE_S: Final = 2.0
"""The same for SIGTERM, after which SIGKILL may follow."""

logger = logging.getLogger(__name__)


class Silence:
    """How long the master has not been heard; time in which this process itself stood still does not count."""

    def __init__(self, events: Events) -> None:
        self.length_s = 0.0
        self.deaf = False
        """Whether the greenlet that would hear the master waits for something else."""
        events.heartbeat_received.add_listener(self._on_heartbeat)

    def await_limit(self) -> None:
        """Return once the master has been silent for `SILENCE_S`."""
        self.length_s, self.deaf = 0.0, False
        while self.deaf or self.length_s < SILENCE_S:
            since_s = time.monotonic()
            gevent.sleep(LISTEN_S)
            self.length_s += min(time.monotonic() - since_s, 2 * LISTEN_S)

    def _on_heartbeat(self, **_: object) -> None:
        self.length_s = 0.0


class WorkerNode(SendingNode):
    """A process that a master starts and stops."""

    runner: Worker

    def __init__(self, environment: Environment, runner: Worker, preparation: Preparation) -> None:
        self.runner = runner
        super().__init__(environment, preparation)
        self._plan: WorkerPlan | None = None
        self._run_id: str | None = None
        self._reported: set[str] = set()
        self._signalled = 0
        self._is_forked = bool(self.options.processes) and "--worker" not in sys.argv
        """Whether its master is on this machine, and speaks for it."""
        self._plan_ns = 0
        """When the plan came, which is when its run began for this worker; to open the session may take long."""
        self._reports: Reports | None = None
        self._silence = Silence(environment.events)
        self._last_reported: str | None = None
        """The run of which the master has the last report."""
        self._leaving = False
        """The process is ending, whatever the master does."""
        gevent.signal_handler(PARENT_GONE, self._on_parent_gone)
        self._own = preparation.scenario(self.options)  # a wrong one ends the process now, and prompts are read
        guard = self.guard
        listen(runner, WorkerPlan, guard("the plan of a run", self._on_plan))
        listen(runner, OpenWindow, guard("the opening of the window", self._on_open_window))
        listen(runner, BeginStage, guard("the start of a stage", self._on_stage))
        listen(runner, Step, guard("a step of the search", self._on_step))
        listen(runner, Drain, guard("the drain", self._on_drain), concurrent=True)
        listen(runner, Abort, guard("cutting what is in flight", self._on_abort), concurrent=True)
        # after Locust's own listeners
        environment.events.report_to_master.add_listener(guard("a report to the master", self._on_report_to_master))

    def _on_plan(self, _: str, plan: WorkerPlan) -> None:
        self._plan, self._plan_ns, self._run_id = plan, time.monotonic_ns(), plan.run_id

    def _start(self) -> None:
        plan, self._plan, self.session = self._plan, None, None
        if plan is None or self.runner.client_id not in plan.workers:
            logger.warning("this worker came after the run's start and takes no part in it")
            return
        scenario, base_dir = agreed(plan.scenario, self._own, self.preparation), self.preparation.file.parent
        shard = WorkerShard(index=plan.workers.index(self.runner.client_id), count=len(plan.workers))
        check_descriptors(scenario.load, shard)
        self.preparation.calibration = plan.calibration
        workload = self.preparation.workload(scenario, base_dir)
        session = self._open_session(scenario, workload, shard, plan.run_id, base_dir=base_dir, start_ns=self._plan_ns)
        self._reports = Reports(session)
        self.spawn("watching the master", self._watch_master, session)
        if session.scenario.load.measures_steps:
            self.spawn("reports to the master", self._report_often, self._reports)

    def _cancel_start(self) -> None:
        if self.session is not None:
            self.session.close()
            self.session = None

    def _refuse(self, text: str) -> None:
        """Leave the run, and let the master end it: it would wait for this worker."""
        self._tell(text)

    def fault(self, what: str, error: Exception) -> None:
        if fault_text(what, error) not in self._reported:
            self._tell(say_fault(what, error))

    def _tell(self, text: str) -> None:
        self._reported.add(text)
        if not self._is_forked:
            self.environment.process_exit_code = ExitCode.INVALID
        if self._run_id is not None:
            send(self.runner, Fault(run_id=self._run_id, text=text[:MAX_TEXT]))

    def _session_of(self, message: Message) -> Session | None:
        """Return the session, if the message is for its run."""
        return self.session if self.session is not None and self.session.run_id == message.run_id else None

    def _on_spawning_complete(self, **_: object) -> None:
        if self.session is not None:
            self.spawn("the answer to the master", self._say_started, self.session, self.session.edits)

    def _say_started(self, session: Session, edits: int) -> None:
        session.wait_for_leavers()
        send(self.runner, Started(run_id=session.run_id, edits=edits))

    def _on_open_window(self, _: str, message: OpenWindow) -> None:
        session = self._session_of(message)
        if session is not None:
            self._open_window(session)

    def _on_stage(self, _: str, message: BeginStage) -> None:
        session = self._session_of(message)
        if session is not None and session.timeline is not None:
            session.timeline.begin(message.index)

    def _on_step(self, _: str, message: Step) -> None:
        session = self._session_of(message)
        if session is not None:
            session.apply(message.command)

    # Reports

    def _report_often(self, reports: Reports) -> None:
        while True:
            gevent.sleep(REPORT_S)
            send(self.runner, reports.fine())

    def _on_report_to_master(self, data: dict[str, Any], **_: object) -> None:
        shrink_report(data)
        self.check_locust()
        session, reports = self.session, self._reports
        if session is None or reports is None:
            return
        if not session.scenario.load.measures_steps:  # a search has its own reports, more often and finer
            room_bytes = REPORT_BYTES - len(msgpack.dumps(data))
            data[KEY] = reports.next(room_bytes).to_wire()

    def _on_exhausted(self, session: Session) -> None:
        send(self.runner, Exhausted(run_id=session.run_id))

    # End

    def _on_test_stopping(self, **further: object) -> None:
        self._silence.deaf = True  # Locust calls this in the greenlet that hears the master
        super()._on_test_stopping(**further)

    def _drain_run(self) -> None:
        self._drain()

    def _on_drain(self, _: str, message: Drain) -> None:
        session = self._session_of(message)
        if session is not None:
            self._ending.drain()
            self._report_last(session)

    def _report_last(self, session: Session) -> None:
        session.settle()
        send_statistics(self.runner)  # Locust's own, which its master would otherwise get too late or never
        send(self.runner, last_report(session))
        self._last_reported = session.run_id

    def _on_abort(self, _: str, message: Abort) -> None:
        if self._session_of(message) is not None:
            self._ending.cut()  # `_on_drain`, which waits for it, then reports what was cut

    def _stop(self) -> None:
        self._close_session()

    # A master that is gone

    def _watch_master(self, session: Session) -> None:
        self._silence.await_limit()
        self._leave_master(session, f"the master was not heard for {self._silence.length_s:.1f} s")

    def _on_parent_gone(self) -> None:
        gevent.spawn(self._leave_master, self.session, "the master has ended")

    def _leave_master(self, session: Session | None, why: str) -> None:
        """Cut what is in flight, write it down and end the process: nobody counts any more what it sends."""
        if self._leaving:
            return
        self._leaving = True
        if session is not None and session.run_id != self._last_reported:
            in_flight = session.totals.in_flight
            session.abort()
            self._report_last(session)  # a master that was only stopped takes it later
            self.environment.process_exit_code = ExitCode.INVALID
            say(f"{why}: a worker ended its load and cut {in_flight} requests in flight")
        self._quit_process()

    def _on_quitting(self, **further: object) -> None:
        self._leaving = True
        super()._on_quitting(**further)

    def _on_signal(self, number: signal.Signals) -> None:
        session, ending = self.session, self._ending
        self._signalled += 1
        if not self._is_forked:
            self.environment.process_exit_code = ExitCode.INTERRUPTED
        if session is None or session.closed:
            self._quit_process()
        elif self._signalled == 1:
            is_sigint = number is signal.SIGINT
            if not is_sigint:
                ending.cut_after(self.options.drain_on_sigterm)
            self._leave(session, LEAVE_GRACE_S if is_sigint else SIGTERM_GRACE_S)
        elif not ending.is_cut:
            ending.cut()
        else:
            leave_at_once("" if self._is_forked else f"ended at once by {number.name}")

    def _leave(self, session: Session, grace_s: float) -> None:
        """Drain and report; if the master runs in this terminal it got Ctrl-C too, and ends the run meanwhile."""
        self._ending.drain()
        self._report_last(session)
        gevent.sleep(grace_s)
        self._quit_process()
