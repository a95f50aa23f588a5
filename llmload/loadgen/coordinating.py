"""What a node that coordinates a run does, be it alone or the master of workers."""

from locust.env import Environment

import logging
import signal
import sys
import time
from abc import abstractmethod
from typing import Final

import gevent
from gevent.event import Event

from llmload.errors import EngineError, ExitCode
from llmload.loadgen import terminal
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.edits import LoadEdits
from llmload.loadgen.ending import fault_text, leave_at_once, say, say_fault
from llmload.loadgen.live import LiveView
from llmload.loadgen.locust_compat import (
    PER_CENT,
    TimeLimit,
    has_own_shape,
    has_time_limit,
    shape_kind,
    stop_after,
    watch_starts,
)
from llmload.loadgen.locust_statistics import silence_tables
from llmload.loadgen.metrics_server import MetricsEndpoint
from llmload.loadgen.node import Node, has_own_tasks, node_of
from llmload.loadgen.options import limit_is_option
from llmload.loadgen.other_users import other_users
from llmload.loadgen.own_users import check_load
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.step_driver import StepDriver
from llmload.metrics.by_name import NamedTotals
from llmload.metrics.totals import RunTotals
from llmload.scenario import Scenario
from llmload.scenario.load_protocol import Load
from llmload.scenario.model import SERVED_MODEL
from llmload.stats.histogram import Histogram

SUPERVISE_S: Final = 1.0
LATE_S: Final = 30.0
"""How much later than its ramp takes all users of a timed load may run; without them it ends, and measured nothing."""

logger = logging.getLogger(__name__)


class CoordinatingNode(Node):
    """
    A node with a run folder, a verdict, a live view and an exit code; a search drives its load through it.

    It checks the scenario, the engine and its own options as it is made; ConfigError or EngineError if they are wrong.
    """

    def __init__(self, environment: Environment, preparation: Preparation) -> None:
        self.coordinator: RunCoordinator | None = None
        """Of the current or last run; None before the first."""
        self._report = ""
        """Where a headless run's report is, in words."""
        self.live: LiveView | None = None
        self._opened = Event()
        """All users run, in all processes."""
        self._interrupted, self._lingers = False, False
        super().__init__(environment, preparation)
        if self.headless:
            environment.process_exit_code = ExitCode.INVALID  # so that an end that passes us by is never good
        scenario = self.scenario
        scenario.load.check_shape(shape_kind(environment))
        check_load(environment, scenario.load)
        terminal.interval_s(self.options.progress)
        self._meet_engine(scenario)
        if preparation.is_default:
            say(self._assumed(scenario))
        self.metrics = MetricsEndpoint(self, scenario)
        self.metrics.serve(self.options.metrics_host, self.options.metrics_port, self.options.web_allowed_hosts)
        self._time_limit = TimeLimit(environment) if self.headless else None
        environment.events.quit.add_listener(self.guard("the report of the run", self._on_quit))
        self.edits = LoadEdits(self)
        watch_starts(self.runner, self.edits.take)

    def _assumed(self, scenario: Scenario) -> str:
        """Return what a run without a scenario does, in a line."""
        model = "the engine's model" if scenario.model.name == SERVED_MODEL else f"model {scenario.model.name}"
        prompts = scenario.prompts
        does = f"{model}, {prompts.source} prompts"
        does += "" if prompts.input_tokens is None else f" of {prompts.input_tokens} tokens"
        if prompts.output_tokens is not None:
            does += f", answers of {prompts.output_tokens} tokens"
        elif scenario.request.max_tokens is not None and not prompts.shapes:
            does += f", max_tokens = {scenario.request.max_tokens}"
        if self.headless:
            load = scenario.load
            does += f", {load.text}" + (f", {load.ends_after_s:g} s" if load.ends_after_s is not None else "")
        return (
            f"no scenario was given: {does}; options change it (--help-llmload), or a file: llmload scenarios new NAME"
        )

    def _meet_engine(self, scenario: Scenario) -> None:
        try:
            self.preparation.meet_engine(scenario)
        except EngineError as error:
            if self.headless:
                raise
            logger.warning("%s", error)  # with the web UI, the engine may be started later
        else:
            if self.headless:
                self.preparation.calibrate(scenario)

    # Totals so far, over all processes that have reported

    @abstractmethod
    def totals(self) -> RunTotals:
        """Return the totals of the run."""

    @abstractmethod
    def stages(self) -> dict[str, RunTotals]:
        """Return the totals of each stage or step."""

    @abstractmethod
    def step_totals(self, name: str) -> RunTotals:
        """Return the totals of one stage or step."""

    @abstractmethod
    def names(self) -> NamedTotals:
        """Return the totals of each name, where requests have names."""

    @abstractmethod
    def counts(self) -> tuple[int, int]:
        """Return how many requests have ended, and how many are in flight."""

    @abstractmethod
    def request_lines(self) -> dict[str, int]:
        """Return how many lines each process has written, by its file's name."""

    def loop_lag(self) -> Histogram:
        """Return how late the event loops of all processes ran, in seconds."""
        return self.totals().distributions["event_loop_lag_s"]

    def users(self) -> int:
        """Return how many users run."""
        return self.runner.user_count

    def busy_users(self) -> int:
        """Return how many users run and do not rest: in a search, at most those of the step."""
        driver = None if self.coordinator is None else self.coordinator.driver
        return self.users() if driver is None else min(self.users(), driver.target_users)

    # Processes: users at work, and their CPU

    @abstractmethod
    def process_cpu_usage(self) -> dict[str, float]:
        """Return the CPU use of each process, by its name in the metrics, in per cent of one core."""

    @property
    @abstractmethod
    def sender_count(self) -> int:
        """How many processes send."""

    @abstractmethod
    def sender_cpu_usage(self) -> float:
        """Return the CPU use of the busiest process that sends, in per cent of one core."""

    def worker_states(self) -> list[str]:
        """Return Locust's state of each worker; empty if this process sends itself."""
        return []

    # Start

    @abstractmethod
    def _senders(self) -> set[str]:
        """Return the ids of the workers that take part in a run that starts now; empty if this process sends itself."""

    @abstractmethod
    def _check_descriptors(self, load: Load, workers: set[str]) -> None:
        """Raise ConfigError where a process that sends may not open as many connections as it has users."""

    @abstractmethod
    def _start_senders(self, coordinator: RunCoordinator, workers: set[str]) -> None:
        """Let every process that sends begin the coordinator's run."""

    def _start(self) -> None:
        if self._time_limit is not None:
            self._time_limit.give_back()
        self._opened.clear()
        self.options.num_users = self.runner.target_user_count or None
        scenario, file = self.scenario, self.preparation.file
        if scenario.model.name == SERVED_MODEL:
            self.preparation.meet_engine(scenario)  # which says why the model is not known
        self.preparation.calibrate(scenario)
        workers = self._senders()
        scenario.load.check_workers(len(workers))
        self._check_descriptors(scenario.load, workers)
        self.coordinator = coordinator = RunCoordinator(
            scenario=scenario,
            scenario_file=file,
            workload=self.preparation.workload(scenario, file.parent),
            deployment=self.preparation.deployment,
            workers=len(workers) or 1,
            limit_is_option=limit_is_option(file, self.options),
            users_vary=has_own_tasks(self.environment) or has_own_shape(self.environment),
        )
        if coordinator.driver is not None:
            coordinator.driver.prepare()
        coordinator.open_folder()
        coordinator.engine_scraper.begin()
        self.spawn("reading the engine's metrics", coordinator.engine_scraper.watch)
        self._start_senders(coordinator, workers)
        if coordinator.driver is not None:
            self.spawn(f"the {coordinator.driver.noun}", self._drive, coordinator.driver)
        self.edits.begin(coordinator)
        self.live = LiveView(coordinator, self, lambda: coordinator.rate_per_s)
        self.spawn("the live view", self.live.watch)
        self.spawn("the supervision of processes", self._supervise)
        if self._time_limit is not None and self._time_limit.length_s is not None:
            self.spawn("the time limit", self._end_in_time, coordinator, self._time_limit.length_s)
        if self.headless:
            self.spawn("the progress", terminal.show, coordinator, self.live, self, self.options.progress)

    def _end_in_time(self, coordinator: RunCoordinator, limit_s: float) -> None:
        """End the load when its time is over, which begins when all users run, less their ramp."""
        self._opened.wait(limit_s + LATE_S)
        gevent.sleep(max(0.0, coordinator.span.left_s(limit_s)))
        gevent.spawn(self.end)  # not in this greenlet, which ends with the run

    def _drive(self, driver: StepDriver) -> None:
        """Drive a search or a sweep from its first step to its end."""
        driver.run(self)

    def _cancel_start(self) -> None:
        coordinator, self.coordinator = self.coordinator, None
        if coordinator is not None:
            coordinator.engine_scraper.close()
            coordinator.folder.discard()

    def _supervise(self) -> None:
        """Look after the processes that send once a second, until killed; nothing else happens in this greenlet."""
        while True:
            since_s = time.monotonic()
            gevent.sleep(SUPERVISE_S)
            if self.coordinator is not None:
                self.coordinator.conditions.note_pause(time.monotonic() - since_s - SUPERVISE_S)
            self._check_processes()
            self.check_locust()

    def _check_processes(self) -> None:
        """Note how busy the busiest process is, and where the run folder is."""
        coordinator, usage = self.coordinator, self.sender_cpu_usage()
        if coordinator is not None:
            coordinator.folder.look()
        if coordinator is not None and usage and coordinator.stage not in {"warm-up", "draining", "ended"}:
            coordinator.conditions.note_cpu(usage / PER_CENT)

    # The window, stages of a staged load, and steps of a search

    @abstractmethod
    def _send_opening(self, coordinator: RunCoordinator) -> None:
        """Let every process that sends open its window and begin its first phase."""

    @abstractmethod
    def _send_stage(self, coordinator: RunCoordinator, index: int) -> None:
        """Let every process that sends begin a stage."""

    @abstractmethod
    def _send_step(self, coordinator: RunCoordinator, command: StepCommand) -> None:
        """Let every process that sends follow a command of the search."""

    def load_time_s(self, run_time_s: float) -> float:
        """Return how much of a staged load's time has passed, `run_time_s` after Locust started it."""
        timeline = None if self.coordinator is None else self.coordinator.timeline
        return run_time_s if timeline is None else timeline.elapsed_s(run_time_s)

    def begin_stage(self, index: int) -> None:
        """Begin a stage of a staged load in every process, if neither the clock nor an earlier call has."""
        coordinator = self.coordinator
        timeline = None if coordinator is None else coordinator.timeline
        if coordinator is not None and timeline is not None and index > timeline.index:
            timeline.begin(index)
            coordinator.note_times()
            self._send_stage(coordinator, index)

    def command_step(self, command: StepCommand) -> None:
        """Let every process follow a command of the search."""
        coordinator = self.coordinator
        if coordinator is not None and coordinator.timeline is not None:
            coordinator.timeline.apply(command)
            coordinator.note_times()
            self._send_step(coordinator, command)

    def _on_spawning_complete(self, **_: object) -> None:
        if self.coordinator is not None:
            self.coordinator.note_all_users()

    @abstractmethod
    def expect_senders(self) -> None:
        """Wait from now on for the users of the edited load, not for those before it."""

    @abstractmethod
    def await_senders(self) -> None:
        """Wait until the users of the current load run in every process."""

    def begin_measuring(self, coordinator: RunCoordinator) -> None:
        """Open the window and begin the first phase in every process; to be called once all of them send."""
        coordinator.span.open()
        if coordinator.timeline is not None:
            coordinator.timeline.begin_first()
        self._send_opening(coordinator)
        self._opened.set()
        limit_s, web_ui = coordinator.ends_s, self.environment.web_ui
        if limit_s is not None and web_ui is not None and has_time_limit(web_ui):
            stop_after(web_ui, coordinator.span.left_s(limit_s))
        coordinator.note_times()

    # End

    @abstractmethod
    def _settle(self) -> None:
        """Count what is known of processes that could not report."""

    def _drain_run(self) -> None:
        if self.coordinator is not None:
            self.coordinator.end_load()

    def _stop(self) -> None:
        coordinator = self.coordinator
        if coordinator is not None and coordinator.summary is None:
            coordinator.conditions.requests_cut = self._ending.is_cut
            self.guard("counting what lost workers left", self._settle)()
            self.guard("reading the engine's metrics", coordinator.engine_scraper.end)()
            coordinator.finish(
                self.totals(),
                self.stages(),
                self.request_lines(),
                names=self.names(),
                other_users=other_users(self.environment),
            )
            if not self.headless:
                terminal.show_summary(coordinator, "table")
                gevent.spawn(self.guard("the report", terminal.show_report), coordinator, "table")

    def fault(self, what: str, error: Exception) -> None:
        coordinator = self.coordinator
        if coordinator is None:
            say_fault(what, error)
        elif fault_text(what, error) not in coordinator.conditions.faults:  # once, where it fails for each request
            self._note_fault(coordinator, say_fault(what, error))

    def _on_signal(self, number: signal.Signals) -> None:
        coordinator, ending, limit_s = self.coordinator, self._ending, self.options.drain_on_sigterm
        if coordinator is None or coordinator.summary is not None:
            self._end_without_run(number)
            return
        coordinator.conditions.signalled = True
        if not ending.begun:
            self.note_stop(number.name)
            if number is not signal.SIGINT:
                ending.cut_after(limit_s)
            self.end()
            if not self.headless:
                self._quit_process()
        elif number is not signal.SIGINT and not ending.limited:
            ending.cut_after(limit_s)
        elif not ending.is_cut:
            ending.cut()
        else:
            where = coordinator.folder.path
            leave_at_once(f"ended at once by {number.name}: llmload report {where} shows what it has")

    def _end_without_run(self, number: signal.Signals) -> None:
        """End a process that has no run now: one that has not begun, one that writes its report, or an idle web UI."""
        if self._lingers:
            self._signals.raise_in_main()  # which ends the wait for a last scrape
        elif not self.headless:
            self._quit_process()
        elif self.coordinator is None:
            self._interrupted = True
            say(f"ended by {number.name} before the run began: nothing was sent")
            self.runner.quit()  # a master lets its workers go
            self._signals.raise_in_main(SystemExit(ExitCode.INTERRUPTED))
        elif number is signal.SIGINT:
            where = self.coordinator.folder.path
            leave_at_once(f"ended by {number.name} while the report was written: llmload report {where} writes it")

    def note_stop(self, by: str) -> None:
        """Note who stops the run, for the verdict: it may not have done what it was to do."""
        if self.coordinator is not None and not self._ending.begun:
            self.coordinator.conditions.ended_by = by

    def _note_fault(self, coordinator: RunCoordinator, text: str) -> None:
        """Note what failed in a run for its verdict, and end it."""
        coordinator.conditions.faults.append(text)
        if not self._ending.begun:
            gevent.spawn(self.end)  # not in this greenlet, which may end with the run

    def _on_quitting(self, **further: object) -> None:
        super()._on_quitting(**further)
        if self.coordinator is not None:
            if self.headless:
                self.guard("the report", self._write_files)(self.coordinator)
            self.environment.process_exit_code = self.coordinator.exit_code(self.options.exit_code_on_error)
        elif self.headless:  # nothing was started
            self.environment.process_exit_code = ExitCode.INTERRUPTED if self._interrupted else ExitCode.WRONG_USE
        if self.headless:
            silence_tables()

    def _write_files(self, coordinator: RunCoordinator) -> None:
        """Write what a headless run leaves beside its summary, before its exit code is decided."""
        self._report = terminal.report_line(coordinator)
        terminal.write_for_ci(coordinator, self.options.junit, self.options.markdown)

    def _on_quit(self, exit_code: int, **_: object) -> None:
        coordinator, options = self.coordinator, self.options
        if coordinator is not None and self.headless:
            faults = len(coordinator.conditions.faults)
            self.guard("the tables", terminal.show_summary)(coordinator, options.summary)
            terminal.show_line(self._report, options.summary)
            self._lingers = True
            self.metrics.linger(options.linger)
            self._lingers = False
            if len(coordinator.conditions.faults) > faults:
                sys.exit(max(exit_code, ExitCode.INVALID))


def coordinating_node(environment: Environment) -> CoordinatingNode:
    """Return the node of a process that coordinates."""
    node = node_of(environment)
    if not isinstance(node, CoordinatingNode):
        raise TypeError(f"shapes run where a run is coordinated, not on a {type(node).__name__}")
    return node
