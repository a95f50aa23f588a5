"""What a locustfile needs: `install`, the users that chat, and the shapes that say how many of them run."""

from locust import LoadTestShape, User, between, constant, constant_pacing, events, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.event import Events
from locust.runners import MasterRunner, WorkerRunner
from locust.web import WebUI

from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import Final
from weakref import WeakSet

import gevent

from llmload.client.words import ToolCall
from llmload.loadgen import options
from llmload.loadgen.coordinating import CoordinatingNode, coordinating_node
from llmload.loadgen.descriptors import raise_limit
from llmload.loadgen.forks import Forks
from llmload.loadgen.local import LocalNode
from llmload.loadgen.locust_compat import Runner, environment_of, remember_default_options, rest, silence_spawn_rates
from llmload.loadgen.locust_statistics import use_three_digits, write_csv_to_the_end
from llmload.loadgen.master import MasterNode
from llmload.loadgen.node import REQUEST_NAME, Node, exit_on_wrong_use, set_node
from llmload.loadgen.own_users import REST_S, Answer, LlmUser, MeasuredUser, RequestFailed
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.session import fire_request_event, run_conversation
from llmload.loadgen.sockets import guard_sockets
from llmload.loadgen.web import pages
from llmload.loadgen.worker import WorkerNode
from llmload.scenario import Scenario
from llmload.scenario.load_protocol import MAX_SPAWN_RATE_PER_S, Load, UsersOfPhase
from llmload.scenario.reading import scenario_without_a_file

__all__ = [
    "Answer",
    "CapacityShape",
    "ChatUser",
    "LlmUser",
    "RequestFailed",
    "StagedShape",
    "SweepShape",
    "ToolCall",
    "between",
    "constant",
    "constant_pacing",
    "install",
    "join",
    "tag",
    "task",
]

# Joins a locustfile to llmload.


def join() -> None:
    """Join llmload to this process's Locust, as `from llmload import LlmUser` does."""
    install(events)


def install(events: Events) -> None:
    """
    Give Locust llmload's options, its pages, and a node, once; users and shapes find the node with `node_of`.
    """
    if events not in _JOINED:
        _JOINED.add(events)
        _Hooks(events)


_JOINED: Final[WeakSet[Events]] = WeakSet()


class _Hooks:
    def __init__(self, events: Events) -> None:
        self._ahead: Preparation | None = None
        self._forks = Forks()
        remember_default_options()
        silence_spawn_rates()
        use_three_digits()
        write_csv_to_the_end()
        events.init_command_line_parser.add_listener(self._on_command_line)
        events.init.add_listener(self._on_init)

    def _on_command_line(self, parser: LocustArgumentParser, **_: object) -> None:
        options.add_options(parser)
        options.bind_to_loopback(parser)
        with exit_on_wrong_use():
            guard_sockets()
            self._forks.prepare(parser)
        file = options.scenario_on_command_line()
        with exit_on_wrong_use():
            scenario = options.scenario_for_defaults(file or scenario_without_a_file())
            options.set_defaults(parser, scenario)
            options.set_spawn_rate(parser, scenario.load)
            self._prepare_ahead(parser, file, scenario)

    def _prepare_ahead(self, parser: LocustArgumentParser, file: Path | None, scenario: Scenario) -> None:
        """
        Read the prompts before Locust forks, so that they are read once, and before a worker meets its master.

        A worker that is reading answers nothing, and its master gives it up after four seconds.
        """
        parsed = None if self._ahead is not None else options.parsed_ahead(parser)
        if parsed is not None and not options.has_mistyped(parser):  # Locust refuses that in a moment
            options.refuse_meaningless(parser, parsed, scenario, other_users=_has_others(User))
            self._ahead = Preparation(file)
            self._ahead.scenario(parsed)

    def _on_init(self, environment: Environment, runner: Runner, web_ui: WebUI | None = None, **_: object) -> None:
        self._forks.over()
        raise_limit()
        with exit_on_wrong_use():
            preparation = self._ahead or Preparation(options.scenario_on_command_line())
            node = _node_for(environment, runner, preparation)
        set_node(environment, node)
        if web_ui is not None and isinstance(node, CoordinatingNode):
            pages.install(web_ui, node)
            node.metrics.add_page(web_ui)


def _has_others(base: type[User]) -> bool:
    """Return whether this process has a class of users that is not llmload's."""
    classes = [each for each in base.__subclasses__() if not issubclass(each, ChatUser)]
    return any(not each.abstract or _has_others(each) for each in classes)


def _node_for(environment: Environment, runner: Runner, preparation: Preparation) -> Node:
    if isinstance(runner, WorkerRunner):
        return WorkerNode(environment, runner, preparation)
    if isinstance(runner, MasterRunner):
        return MasterNode(environment, runner, preparation)
    return LocalNode(environment, runner, preparation)


TICK_S: Final = 1.0
"""How often Locust asks a shape for its users."""


class ChatUser(MeasuredUser):
    """
    One request in flight at a time: the next prompt is sent when the last answer is complete.

    In an open loop users rest: each process sends by its schedule, however many there are.
    """

    abstract = True
    replays_prompts = True

    def wait_time(self) -> float:
        """Return how long to think before the next conversation, in seconds."""
        session = self._node.session
        return 0.0 if session is None else session.think_time_s

    @task
    def chat(self) -> None:
        """Run one conversation: its requests one after the other."""
        try:
            sent = self._send_next()
        except Exception as error:  # noqa: BLE001 - Locust would log it and call the task again, for ever
            self._node.fault("a user's request", error)
            sent = False
        if not sent:
            rest(self, REST_S)  # nothing to send, until the run ends

    def _send_next(self) -> bool:
        session = self._node.session
        if session is None or not session.in_closed_loop:
            return False
        with session.acquire():
            conversation = session.next_conversation()
            if conversation is None:
                return False
            run_conversation(conversation, session, partial(fire_request_event, self.environment, REQUEST_NAME))
            return True


class _Shape(LoadTestShape):
    """A shape of llmload's: where it fails, the run ends, since Locust would only stop asking it."""

    abstract = True

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when the load is over."""
        node = coordinating_node(environment_of(self))
        try:
            return self._users_now(node)
        except Exception as error:  # noqa: BLE001 - it is the last that Locust hears of this shape
            node.fault("the shape of the load", error)
            return None

    @abstractmethod
    def _users_now(self, node: CoordinatingNode) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when the load is over."""


class StagedShape(_Shape):
    """
    The stages of a staged scenario, one after the other, then the end.

    In open-loop stages one user rests while each process sends by its schedule.
    """

    abstract = True
    load_kind = "staged"

    def _users_now(self, node: CoordinatingNode) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when all stages are over."""
        if node.coordinator is None or node.coordinator.summary is not None:  # the run is about to start
            now = node.scenario.load.users_at(0.0)
        else:
            now = self._users_of_phase(node, node.coordinator.scenario.load)
        if now is None:
            return None
        node.begin_stage(now.phase)
        return now.users, now.spawn_rate_per_s

    def _users_of_phase(self, node: CoordinatingNode, load: Load) -> UsersOfPhase | None:
        """Return what the load needs now; wait first for a phase that ends before Locust asks again."""

        def users_now() -> UsersOfPhase | None:
            run_time_s: float = self.get_run_time()  # type: ignore[no-untyped-call]  # Locust has it untyped
            return load.users_at(node.load_time_s(run_time_s))

        now = users_now()
        phase = None if now is None else now.phase
        while now is not None and now.phase == phase and now.left_s < TICK_S:
            gevent.sleep(now.left_s)
            now = users_now()
        return now


class _StepShape(_Shape):
    """
    The steps of a search or a sweep, one after the other, until it is over.

    The number of users never falls: those beyond the step's number rest, since Locust would cut their requests.
    """

    abstract = True

    def _users_now(self, node: CoordinatingNode) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when it is over."""
        coordinator = node.coordinator
        driver = None if coordinator is None or coordinator.summary is not None else coordinator.driver
        if driver is None:  # the run is about to start
            users = node.scenario.load.locust_users
        elif driver.finished:
            return None
        else:
            users = driver.max_users
        users = _for_each_sender(users, node.sender_count)
        return users, float(min(users, MAX_SPAWN_RATE_PER_S))


class CapacityShape(_StepShape):
    """The steps of a search, one after the other, until the highest load that passes is found."""

    abstract = True
    load_kind = "capacity"


class SweepShape(_StepShape):
    """The points of a sweep, one after the other, as often as the scenario says."""

    abstract = True
    load_kind = "sweep"


def _for_each_sender(users: int, senders: int) -> int:
    """Round up to a multiple of the processes that send, so that each has enough users for its shard of any step."""
    return -(-users // max(1, senders)) * max(1, senders)
