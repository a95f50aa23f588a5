"""A run put together: Locust's hooks on one side, session, totals and run folder on the other."""

from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.event import Events
from locust.runners import STATE_INIT, STATE_STOPPED, MasterRunner, WorkerRunner
from locust.web import WebUI

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import msgpack  # type: ignore[import-untyped] # it ships no types
from gevent import Greenlet

from llmload.errors import ConfigError, EngineError, LlmloadError
from llmload.exit_codes import ExitCode
from llmload.loadgen import locust_compat as locust_part
from llmload.loadgen import messages as totals_channel
from llmload.loadgen import options
from llmload.loadgen import terminal as printing
from llmload.loadgen import terminal as progress
from llmload.loadgen.capacity_driver import REPORT_S
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.live import LiveView
from llmload.loadgen.locust_compat import Interrupts, log_rows, with_three_digits
from llmload.loadgen.metrics_server import MetricsEndpoint
from llmload.loadgen.open_loop import open_schedule, target_rate
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.preparation import Preparation, open_session
from llmload.loadgen.session import ABORT_GRACE_S, Session, WorkerShard, watch_loop_lag
from llmload.loadgen.web import pages as webui
from llmload.loadgen.workers import (
    ABORT,
    ANSWER_GRACE_S,
    DRAIN,
    DRAINED,
    EXHAUSTED,
    STAGE,
    STEP,
    TOTALS,
    WorkerBarrier,
    check_workers,
    drain,
    other_versions,
    ran_here,
    request_log_of,
)
from llmload.metrics.totals import RunTotals
from llmload.prompts.workload import Workload
from llmload.record import RequestRecord
from llmload.scenario import Scenario
from llmload.stats.histogram import Histogram

logger = logging.getLogger(__name__)


@contextmanager
def exit_on_wrong_use() -> Iterator[None]:
    """End the process with exit code 2 and a line a fault, instead of a traceback."""
    try:
        yield
    except LlmloadError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"llmload: {line}\n")
        sys.stderr.flush()
        sys.exit(ExitCode.WRONG_USE)


class Run:
    """
    Joins a locustfile to llmload: `Run(locust.events)` at import, users with `run_of_llmload = that`.

    Every process has one. Where requests are sent (alone or as a worker) it has a `session` while a run goes on; where
    a run is steered (alone or as master) it has a `coordinator`.
    """

    request_name = "chat"
    """What Locust's tables call a request."""

    def __init__(self, events: Events) -> None:
        with_three_digits()
        self._environment: Environment
        self._interrupts: Interrupts
        self._preparation: Preparation
        self._ahead: Preparation | None = None
        self._session: Session | None = None
        self._reports: totals_channel.Reports | None = None
        self._monitoring: MetricsEndpoint | None = None
        self._steering: RunCoordinator | None = None
        self._collected: totals_channel.Collected | None = None
        self.live: LiveView | None = None
        self._planned: list[str] = []
        self._exhausted, self._drained = WorkerBarrier(set()), WorkerBarrier(set())
        self._draining = False
        self._helpers: list[Greenlet[..., Any]] = []
        events.init_command_line_parser.add_listener(self._on_command_line)
        events.init.add_listener(self._on_init)
        events.test_start.add_listener(self._on_test_start)
        events.spawning_complete.add_listener(self._on_spawning_complete)
        events.request.add_listener(self._on_request)
        events.worker_report.add_listener(self._on_worker_report)
        events.test_stopping.add_listener(self._on_test_stopping)
        events.test_stop.add_listener(self._on_test_stop)
        events.quit.add_listener(self._on_quit)

    @property
    def scenario(self) -> Scenario:
        """The scenario as it stands on the command line and in the start form."""
        return self._preparation.scenario(self._options)

    @property
    def coordinator(self) -> RunCoordinator | None:
        """What this node keeps of the run that it steers, or steered last; None where it has steered none."""
        return self._steering

    @property
    def session(self) -> Session | None:
        """This process's part in the run that goes on; None where it has none."""
        return self._session

    def totals(self) -> RunTotals:
        """Return what the run has come to so far, over all processes that have reported."""
        if self._collected is not None:
            return self._collected.merged()
        return RunTotals() if self._session is None else self._session.totals

    def stages(self) -> dict[str, RunTotals]:
        """Return what each stage has come to so far, over all processes that have reported."""
        if self._collected is not None:
            return self._collected.merged_stages()
        return {} if self._session is None else self._session.stages

    # Start

    def _on_command_line(self, parser: LocustArgumentParser, **_: object) -> None:
        options.add_options(parser)
        options.bind_to_loopback(parser)
        file = options.scenario_on_command_line()
        if file is not None:
            with exit_on_wrong_use():
                options.set_defaults(parser, options.scenario_for_defaults(file))
                self._prepare_ahead(parser, file)

    def _prepare_ahead(self, parser: LocustArgumentParser, file: Path) -> None:
        """
        Read the prompts before Locust forks, so that they are read once, and before a worker meets its master.

        A worker that reads is deaf, and its master gives it up after four seconds.
        """
        parsed = None if self._ahead is not None else options.parsed_ahead(parser)
        if parsed is not None:
            self._ahead = Preparation(file)
            self._ahead.scenario(parsed)

    def _on_init(self, environment: Environment, runner: Any, web_ui: WebUI | None = None, **_: object) -> None:
        self._environment = environment
        self._interrupts = Interrupts(self._on_interrupt)
        environment.events.quitting.add_listener(self._on_quitting)  # now, so that it comes before the runner's own
        with exit_on_wrong_use():
            file = options.scenario_on_command_line()
            if file is None:
                raise ConfigError("no scenario: give one with --config FILE, for example --config scenarios/demo.toml")
            self._preparation = self._ahead or Preparation(file)
            scenario = self._preparation.scenario(self._options)
            if not isinstance(runner, WorkerRunner):
                scenario.load.check_shape(getattr(environment.shape_class, "load_kind", None))
                progress.every_s(self._options.progress)  # what is wrong with it is said before the start
                self._meet_engine(scenario)
                self._monitoring = MetricsEndpoint(self, runner, scenario)
                self._monitoring.serve(self._options.metrics_host, self._options.metrics_port)
        if web_ui is not None:
            webui.install(web_ui, self, self._preparation)
            if self._monitoring is not None:
                self._monitoring.add_page(web_ui)
        if isinstance(runner, WorkerRunner):
            runner.register_message(DRAIN, self._on_drain, concurrent=True)
            runner.register_message(ABORT, self._on_abort, concurrent=True)
            runner.register_message(STAGE, self._on_stage)
            runner.register_message(STEP, self._on_step)
            environment.events.report_to_master.add_listener(self._on_report_to_master)  # now, so that it comes last
        elif isinstance(runner, MasterRunner):
            runner.register_message(EXHAUSTED, self._on_exhausted)
            runner.register_message(DRAINED, self._on_drained)
            runner.register_message(TOTALS, self._on_totals)

    def _meet_engine(self, scenario: Scenario) -> None:
        try:
            self._preparation.meet_engine(scenario)
        except EngineError as error:
            if self._headless:
                raise
            logger.warning("%s", error)  # with the web UI, the engine may be started later

    @property
    def _options(self) -> argparse.Namespace:
        parsed: argparse.Namespace | None = self._environment.parsed_options
        if parsed is None:
            raise RuntimeError("llmload needs Locust's command-line options on the environment")
        return parsed

    @property
    def _runner(self) -> Any:  # which methods it has depends on the process's part
        return self._environment.runner

    @property
    def _headless(self) -> bool:
        return bool(self._options.headless)

    def _on_test_start(self, **_: object) -> None:
        start = self._start_as_worker if isinstance(self._runner, WorkerRunner) else self._start_as_coordinator
        if self._headless:
            with exit_on_wrong_use():
                start()
            return
        try:
            start()
        except LlmloadError as error:  # a web UI outlives a start form that was filled in wrongly
            logger.error("%s", error)  # noqa: TRY400 - the line says it all, a traceback would hide it
            self._steering = self._session = None
            gevent.spawn(self._runner.stop)

    def _start_as_coordinator(self) -> None:
        runner = self._runner
        self._options.num_users = runner.target_user_count or None
        scenario, file = self._preparation.scenario(self._options), self._preparation.file
        workload = self._preparation.workload(scenario, file.parent)
        workers = set(runner.clients) if isinstance(runner, MasterRunner) else set()
        scenario.load.check_workers(len(workers))
        self._steering = RunCoordinator(
            scenario=scenario,
            scenario_file=file,
            workload=workload,
            deployment=self._preparation.deployment,
            workers=len(workers) or 1,
        )
        self._steering.open_folder()
        self._steering.engine_scraper.sample()
        self._helpers.append(gevent.spawn(self._steering.engine_scraper.watch))
        self._planned = sorted(workers)
        if isinstance(runner, MasterRunner):
            self._collected = totals_channel.Collected(self._steering.run_id)
            self._exhausted, self._drained = WorkerBarrier(workers), WorkerBarrier(workers)
            self._draining = False
            self._options.llmload_plan = {
                "run_id": self._steering.run_id,
                "scenario": scenario.model_dump(mode="json"),
                "base_dir": str(file.parent),
                "workers": self._planned,
            }
        else:
            self._start_session(scenario, workload, WorkerShard(index=0, count=1), self._steering.run_id, file.parent)
        if self._steering.search is not None:
            self._helpers.append(gevent.spawn(self._steering.search.run, self))
        self.live = LiveView(
            self._steering,
            self.totals,
            self.busy_users,
            self._look_after_workers,
            self.stages,
            target_rate(scenario.load, self._steering.timeline, lambda: str(self._options.rate)),
        )
        self._helpers.append(gevent.spawn(self.live.watch))
        if self._headless:
            how = self._options.progress
            self._helpers.append(
                gevent.spawn(progress.show, self._steering, self.live, self.totals, self.step_totals, how)
            )

    def _start_as_worker(self) -> None:
        plan = self._options.llmload_plan
        if self._runner.client_id not in plan["workers"]:
            logger.warning("this worker came after the run's start and takes no part in it")
            self._session = None
            return
        scenario, base_dir = Scenario.model_validate(plan["scenario"]), Path(plan["base_dir"])
        shard = WorkerShard(index=plan["workers"].index(self._runner.client_id), count=len(plan["workers"]))
        workload = self._preparation.workload(scenario, base_dir)
        self._start_session(scenario, workload, shard, plan["run_id"], base_dir)

    def _start_session(
        self, scenario: Scenario, workload: Workload, shard: WorkerShard, run_id: str, base_dir: Path
    ) -> None:
        session = open_session(scenario, workload, shard, run_id)
        schedule = open_schedule(session, shard, self._environment, self.request_name, base_dir)
        self._session, self._reports = session, totals_channel.Reports(session)
        self._helpers += [
            gevent.spawn(session.keep_counting),
            gevent.spawn(watch_loop_lag, session.totals),
            gevent.spawn(self._end_when_exhausted, session),
        ]
        if schedule is not None:
            self._helpers.append(gevent.spawn(schedule.run))
        if session.scenario.load.measures_steps and isinstance(self._runner, WorkerRunner):
            self._helpers.append(gevent.spawn(self._report_often, self._reports))

    # Stages

    def begin_stage(self, index: int) -> None:
        """Begin a stage of a staged load everywhere, if it has not begun; called where the run is steered."""
        clock = None if self._steering is None else self._steering.timeline
        if clock is None or index <= clock.index:
            return
        clock.begin(index)
        if self._steering is not None:
            self._steering.note_times()
        if isinstance(self._runner, MasterRunner):
            self._runner.send_message(STAGE, {"place": index})
        else:
            self._begin_own_stage(index)

    def _begin_first_stage(self, coordinator: RunCoordinator) -> None:
        """Begin the first stage everywhere once its users run, so that all judge the same span of it."""
        clock = coordinator.timeline
        if clock is not None and clock.begun_by_master and clock.index == 0:
            clock.restart_first()
            if isinstance(self._runner, MasterRunner):
                self._runner.send_message(STAGE, {"place": 0})
            else:
                self._begin_own_stage(0)

    def _on_stage(self, msg: Any, **_: object) -> None:
        self._begin_own_stage(msg.data["place"])

    def _begin_own_stage(self, index: int) -> None:
        clock = None if self._session is None else self._session.timeline
        if clock is not None and clock.begun_by_master:
            clock.begin(index) if index else clock.restart_first()

    # A search, through which the steering node drives it

    def command_step(self, command: StepCommand) -> None:
        """Tell every process which step of a search goes on; called where the run is steered."""
        coordinator = self._steering
        if coordinator is None or coordinator.timeline is None:
            return
        coordinator.timeline.apply(command)
        coordinator.note_times()
        if isinstance(self._runner, MasterRunner):
            self._runner.send_message(STEP, command.to_message(coordinator.run_id))
        elif self._session is not None:
            self._session.apply(command)

    def _on_step(self, msg: Any, **_: object) -> None:
        if self._session is not None and self._session.run_id == msg.data["run_id"]:
            self._session.apply(StepCommand.from_message(msg.data))

    def counts(self) -> tuple[int, int]:
        """Return how many requests have ended and how many are on their way, over all processes that have reported."""
        phases = [self.totals()] if self._collected is None else list(self._collected.latest.values())
        return sum(phase.ended for phase in phases), sum(phase.in_flight for phase in phases)

    def step_totals(self, name: str) -> RunTotals:
        """Return what a step has come to so far, over all processes that have reported."""
        if self._collected is not None:
            return self._collected.merged_stage(name)
        return RunTotals() if self._session is None else self._session.stages.get(name, RunTotals())

    def users(self) -> int:
        """Return how many users run."""
        return int(self._runner.user_count)

    def busy_users(self) -> int:
        """Return how many users run and do not rest: of a search's step, as many as it asks for."""
        search = None if self._steering is None else self._steering.search
        return self.users() if search is None else min(self.users(), search.asked_users)

    def loop_lag(self) -> Histogram:
        """Return how late the event loops of all processes ran so far."""
        return self.totals().distributions["event_loop_lag_s"]

    def _report_often(self, reports: totals_channel.Reports) -> None:
        while True:
            gevent.sleep(REPORT_S)
            self._runner.send_message(TOTALS, reports.fine())

    def _on_totals(self, msg: Any, **_: object) -> None:
        if self._collected is not None:
            self._collected.take(msg.node_id, msg.data)

    # While it goes on

    def _on_spawning_complete(self, **_: object) -> None:
        if self._steering is not None and self._steering.span.window.start_ns is not None:
            self._steering.users_changed = True  # the load was edited while it was judged
        opens = self._steering is not None and self._steering.span.window.start_ns is None
        for span in (self._steering and self._steering.span, self._session and self._session.span):
            if span:
                span.open()
        if opens and self._steering is not None:
            self._begin_first_stage(self._steering)
            self._steering.note_times()

    def _on_request(self, context: dict[str, Any], **_: object) -> None:
        record = context.get("record")
        if isinstance(record, RequestRecord) and self._session is not None:
            self._session.record(record)
            log_rows(self._environment, self.request_name, record)

    def _on_report_to_master(self, data: dict[str, Any], **_: object) -> None:
        locust_part.shrink_report(data)
        session, reports = self._session, self._reports
        if session is None or reports is None:
            return
        if not session.scenario.load.measures_steps:  # a search has reports of its own, and finer ones
            room_bytes = totals_channel.REPORT_BYTES - len(msgpack.dumps(data))
            data[totals_channel.KEY] = reports.next(room_bytes)

    def _on_worker_report(self, client_id: str, data: dict[str, Any], **_: object) -> None:
        locust_part.restore(data)
        if self._collected is not None:
            self._collected.take(client_id, data.get(totals_channel.KEY))

    def _look_after_workers(self) -> None:
        if self._steering is not None:
            answered = self._drained.answered if self._draining else set()  # who reports before that leaves early
            reporting = set(self._collected.latest) if self._collected is not None else set()
            absent = check_workers(self._steering, self._runner, self._planned, reporting=reporting, answered=answered)
            for worker in sorted(absent) if self._draining else ():
                self._drained.drop(worker)

    def _end_when_exhausted(self, session: Session) -> None:
        session.exhausted.wait()
        runner = self._runner
        if isinstance(runner, WorkerRunner):
            runner.send_message(EXHAUSTED, {"run_id": session.run_id})
        else:
            gevent.spawn(self._end)

    def _on_exhausted(self, msg: Any, **_: object) -> None:
        if self._steering is not None and msg.data["run_id"] == self._steering.run_id:
            self._exhausted.answer(msg.node_id)
            if not self._exhausted.missing:
                gevent.spawn(self._end)

    def _end(self) -> None:
        runner = self._runner
        if self._headless:
            runner.quit()
        else:
            runner.stop()

    # End

    def _on_test_stopping(self, **_: object) -> None:
        if self._steering is not None:
            self._steering.span.close()
            if self._steering.timeline is not None:
                self._steering.timeline.end()
        if isinstance(self._runner, MasterRunner) and self._steering is not None:
            self._drain_workers(self._runner, self._steering)
        elif self._session is not None:
            drain(self._session, self._session.scenario.run.drain_timeout_s)

    def _drain_workers(self, runner: MasterRunner, coordinator: RunCoordinator) -> None:
        self._draining = True
        self._look_after_workers()
        runner.send_message(DRAIN, {"run_id": coordinator.run_id})
        if not self._drained.wait(coordinator.scenario.run.drain_timeout_s + ANSWER_GRACE_S):
            coordinator.missing_workers |= self._drained.missing

    def _on_drain(self, msg: Any, **_: object) -> None:
        session = self._session
        if session is not None and session.run_id == msg.data["run_id"]:
            drain(session, session.scenario.run.drain_timeout_s)
            self._runner.send_message(DRAINED, totals_channel.report(session))

    def _on_abort(self, msg: Any, **_: object) -> None:
        session = self._session
        if session is not None and session.run_id == msg.data["run_id"]:
            session.abort()  # the drain that waits for it then reports what was cut

    def _on_interrupt(self, count: int) -> None:
        session = self._session
        if not isinstance(self._runner, WorkerRunner) or session is None or session.closed:
            self._interrupts.raise_in_main()
        elif count == 1:
            self._leave(session)
        else:
            session.abort()

    def _leave(self, session: Session) -> None:
        """Drain as a worker; Ctrl-C reached the master too, if it runs in this terminal, and then it ends the run."""
        drain(session, session.scenario.run.drain_timeout_s)
        self._runner.send_message(DRAINED, totals_channel.report(session))
        gevent.sleep(ANSWER_GRACE_S)
        self._interrupts.raise_in_main()

    def _on_drained(self, msg: Any, **_: object) -> None:
        if self._collected is not None:
            self._collected.take(msg.node_id, msg.data, final=True)
            self._drained.answer(msg.node_id)

    def _on_test_stop(self, **_: object) -> None:
        gevent.killall(self._helpers, block=False)
        self._helpers.clear()
        if self._steering is not None and self._steering.summary is None:
            self._gather(self._steering)
            self._steering.engine_scraper.sample()
            self._steering.finish(self.totals(), self.stages())
            if not self._headless:
                printing.show_summary(self._steering, "table")
                gevent.spawn(printing.show_report, self._steering, "table")
        if self._session is not None:
            self._session.close()
        if self._headless and self._planned and self._steering and self._steering.missing_workers >= set(self._planned):
            gevent.spawn(self._end)  # Locust stops a run without workers, but waits on

    def _gather(self, coordinator: RunCoordinator) -> None:
        """
        Take in what lost workers wrote down but could not report.

        Where their files are on other machines, their last reports stand, and what was in flight then is cut.
        """
        if self._collected is None:
            return
        coordinator.other_version_workers |= other_versions(self._collected.versions)
        for worker in sorted(coordinator.missing_workers & set(self._planned) - self._drained.answered):
            shard = WorkerShard(index=self._planned.index(worker), count=len(self._planned))
            written = request_log_of(shard, coordinator) if ran_here(worker) else None
            if written is not None:
                self._collected.latest[worker] = written
            elif worker in self._collected.latest:
                self._collected.latest[worker].cut_in_flight()

    def _on_quitting(self, environment: Environment, **_: object) -> None:
        runner = self._runner
        if runner.state not in (STATE_INIT, STATE_STOPPED):
            try:
                runner.stop()
            except KeyboardInterrupt:  # a second Ctrl-C: cut what is in flight and report what there is
                if self._session is not None:
                    self._session.abort()
                elif self._steering is not None:
                    self._abort_workers(runner, self._steering)
                self._on_test_stop()
        if self._steering is not None:
            environment.process_exit_code = self._steering.exit_code
            if self._headless:
                printing.silence_locust_tables()

    def _abort_workers(self, runner: MasterRunner, coordinator: RunCoordinator) -> None:
        """Cut what workers have in flight: those on other machines have not heard of Ctrl-C."""
        runner.send_message(ABORT, {"run_id": coordinator.run_id})
        if not self._drained.wait(ABORT_GRACE_S + ANSWER_GRACE_S):
            coordinator.missing_workers |= self._drained.missing

    def _on_quit(self, **_: object) -> None:
        if self._steering is not None and self._headless:
            printing.show_summary(self._steering, self._options.summary)
            printing.show_report(self._steering, self._options.summary)
            with exit_on_wrong_use():
                printing.write_for_ci(self._steering, self._options.junit, self._options.markdown)
            if self._monitoring is not None:
                self._monitoring.linger(self._options.llmload_linger)
