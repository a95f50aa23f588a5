"""What every process of a run is: a node. One that sends has a session; one that coordinates has a coordinator."""

from locust.env import Environment

import argparse
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import gevent
from gevent import Greenlet

from llmload.errors import ExitCode, LlmloadError
from llmload.loadgen.ending import Ending, Guard, say, say_fault
from llmload.loadgen.locust_compat import EndSignals, Runner, has_a_run, quit_in_main_alone, take_unhandled
from llmload.loadgen.locust_statistics import log_rows
from llmload.loadgen.open_loop import open_schedule
from llmload.loadgen.preparation import Preparation, open_session
from llmload.loadgen.session import Session, WorkerShard, watch_loop_lag
from llmload.prompts.workload import Workload
from llmload.record import RequestRecord
from llmload.scenario import Scenario

REQUEST_NAME: Final = "chat"
"""The name of requests in Locust's tables."""


@contextmanager
def exit_on_wrong_use() -> Iterator[None]:
    """End the process with exit code 2 and a line for each fault, instead of a traceback."""
    try:
        yield
    except LlmloadError as error:
        say(str(error))
        sys.exit(ExitCode.WRONG_USE)


class LoggedError(Exception):
    """An exception that Locust has caught and logged."""


class Node(ABC):
    """A process of a run, from Locust's `init` to its end; the runs that it starts come one after the other."""

    runner: Runner

    def __init__(self, environment: Environment, preparation: Preparation) -> None:
        self.environment, self.preparation = environment, preparation
        self.guard = Guard(self.fault)
        self._ending = self._new_ending()
        """Of the current or last run; of none before the first."""
        self._quits = False
        self._greenlets: list[Greenlet[..., Any]] = []
        self._signals = EndSignals(self.guard("the end by a signal", self._on_signal))
        quit_in_main_alone(environment)
        events, guard = environment.events, self.guard
        events.test_start.add_listener(self._on_test_start)
        events.spawning_complete.add_listener(guard("the end of the ramp", self._on_spawning_complete))
        events.test_stopping.add_listener(self._on_test_stopping)
        events.test_stop.add_listener(self._on_test_stop)
        # fired in reverse: before the runner's own listener
        events.quitting.add_listener(guard("the end of the process", self._on_quitting))

    @property
    def scenario(self) -> Scenario:
        """The scenario with the command line's and the start form's changes."""
        return self.preparation.scenario(self.options)

    @property
    def options(self) -> argparse.Namespace:
        """Locust's options; the start form's fields are among them."""
        parsed: argparse.Namespace | None = self.environment.parsed_options
        if parsed is None:
            raise RuntimeError("llmload needs Locust's command-line options on the environment")
        return parsed

    @property
    def headless(self) -> bool:
        """Whether the process ends with its run: there is no web UI to start another."""
        return bool(self.options.headless)

    def spawn(self, what: str, run: Callable[..., object], *arguments: object) -> "Greenlet[..., Any]":
        """Run a function in a greenlet that ends with the run, and return it; `what` is what it does, in words."""
        self._greenlets.append(gevent.spawn(self.guard(what, run), *arguments))
        return self._greenlets[-1]

    def end(self) -> None:
        """End the run, and the process if it is headless."""
        if self.headless:
            self.runner.quit()
        else:
            self.runner.stop()

    @abstractmethod
    def _start(self) -> None:
        """Begin a run; LlmloadError if it cannot begin."""

    @abstractmethod
    def _cancel_start(self) -> None:
        """Leave nothing of a run that could not begin."""

    @abstractmethod
    def _on_spawning_complete(self, **_: object) -> None:
        """All users run."""

    @abstractmethod
    def _drain_run(self) -> None:
        """End the load and wait until nothing is in flight."""

    @abstractmethod
    def _stop(self) -> None:
        """The run is over."""

    @abstractmethod
    def _abort(self) -> None:
        """Cut what is in flight: a second Ctrl-C."""

    @abstractmethod
    def fault(self, what: str, error: Exception) -> None:
        """Say in a line what failed, note it, and end the run."""

    @abstractmethod
    def _on_signal(self, number: signal.Signals) -> None:
        """End the load; where that has ended, cut what is in flight; else end the process as it is."""

    def _new_ending(self) -> Ending:
        guard = self.guard
        return Ending(
            guard("the end of the load", self._drain_run),
            guard("the end of the run", self._finish_run),
            guard("cutting what is in flight", self._abort),
        )

    def check_locust(self) -> None:
        """End the run where a greenlet of Locust's or a listener of the locustfile has failed."""
        if take_unhandled():
            self.fault("Locust, or a listener of the locustfile,", LoggedError("its traceback is in the log"))

    def _quit_process(self) -> None:
        """Let Locust end the process, unless it does so already."""
        if not self._quits:
            self._signals.raise_in_main()

    def _on_test_start(self, **_: object) -> None:
        self._ending = self._new_ending()
        take_unhandled()  # of before the run
        try:
            self._start()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run does not start, and says so
            text = say_fault("the start of the run", error)
            self.guard("leaving nothing of it", self._cancel_start)()
            self._end_greenlets()
            self._refuse(text)

    def _refuse(self, text: str) -> None:  # noqa: ARG002 - a worker tells its master
        """End a run that could not begin."""
        if self.headless:
            sys.exit(ExitCode.WRONG_USE)
        gevent.spawn(self.runner.stop)  # a wrong start form must not end the web UI

    def _on_test_stopping(self, **_: object) -> None:
        self._ending.drain()

    def _on_test_stop(self, **_: object) -> None:
        self._ending.finish()

    def _finish_run(self) -> None:
        self._end_greenlets()
        self._stop()

    def _end_greenlets(self) -> None:
        gevent.killall(self._greenlets, block=False)
        self._greenlets.clear()

    def _on_quitting(self, **_: object) -> None:
        self._quits = True
        if has_a_run(self.runner):
            self.runner.stop()
        if self._ending.begun:
            self._ending.finish()  # another greenlet may have begun it


class SendingNode(Node):
    """A node that sends requests: alone, or as a worker."""

    def __init__(self, environment: Environment, preparation: Preparation) -> None:
        super().__init__(environment, preparation)
        self.session: Session | None = None
        """This process's part in the current or last run; None before the first."""
        environment.events.request.add_listener(self.guard("counting a request", self._on_request))

    def _open_session(
        self, scenario: Scenario, workload: Workload, shard: WorkerShard, run_id: str, *, base_dir: Path, start_ns: int
    ) -> Session:
        name = REQUEST_NAME if has_own_tasks(self.environment) else None
        session = open_session(scenario, workload, shard, run_id, start_ns, name=name)
        schedule = open_schedule(session, shard, self.environment, REQUEST_NAME, base_dir)
        self.session = session
        self.spawn("counting requests", session.keep_counting)
        self.spawn("watching the event loop", watch_loop_lag, session.totals)
        self.spawn("the end of a counted load", self._end_when_exhausted, session)
        if schedule is not None:
            self.spawn("the schedule of an open loop", schedule.run)
        return session

    def _end_when_exhausted(self, session: Session) -> None:
        session.exhausted.wait()
        self._on_exhausted(session)

    @abstractmethod
    def _on_exhausted(self, session: Session) -> None:
        """Nothing is left to send, and nothing is in flight."""

    def _open_window(self, session: Session) -> None:
        session.span.open()
        if session.timeline is not None:
            session.timeline.begin_first()

    def _on_request(self, context: dict[str, Any], **_: object) -> None:
        record = context.get("record")
        if isinstance(record, RequestRecord) and self.session is not None:
            self.session.record(record)
            log_rows(self.environment, record.name or REQUEST_NAME, record)

    def _drain(self) -> None:
        """Let what is in flight finish for up to the drain timeout, then cut the rest."""
        session = self.session
        if session is not None:
            session.stop_starting()
            if not session.wait_until_idle(session.scenario.run.drain_timeout_s):
                session.abort()

    def _abort(self) -> None:
        if self.session is not None:
            self.session.abort()

    def _close_session(self) -> None:
        if self.session is not None:
            self.session.close()


def has_own_tasks(environment: Environment) -> bool:
    """Return whether users run whose requests are not just the scenario's prompts, one after the other."""
    return any(not getattr(each, "replays_prompts", False) for each in environment.user_classes)


# Users and shapes find their process's node by Locust's environment.

_NODES: Final[WeakKeyDictionary[Environment, Node]] = WeakKeyDictionary()


def set_node(environment: Environment, node: Node) -> None:
    """Make a node its process's."""
    _NODES[environment] = node


def node_of(environment: Environment) -> Node:
    """Return the process's node; RuntimeError where the locustfile's import has not joined llmload to Locust."""
    try:
        return _NODES[environment]
    except KeyError:
        raise RuntimeError("a locustfile imports its users so: from llmload import LlmUser") from None


def sending_node(environment: Environment) -> SendingNode:
    """Return the node of a process that sends."""
    node = node_of(environment)
    if not isinstance(node, SendingNode):
        raise TypeError(f"users run where requests are sent, not on a {type(node).__name__}")
    return node
