"""What llmload uses of Locust undocumented, but for statistics; tests/loadgen/test_locust_compat.py says why."""

from locust import LoadTestShape, User, argument_parser, log
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.rpc import Message
from locust.runners import STATE_CLEANUP, STATE_INIT, STATE_MISSING, STATE_RUNNING, STATE_STOPPED, STATE_STOPPING
from locust.user.task import LOCUST_STATE_WAITING
from locust.web import WebUI

import logging
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Protocol

import gevent
from flask import Flask
from gevent import getcurrent

from llmload.interrupts import heard

PER_CENT: Final = 100.0


# Runners: Locust has one class for each kind of process, and types only part of them.


class Runner(Protocol):
    """What llmload uses of every runner."""

    @property
    def state(self) -> str:
        """One of Locust's STATE_ constants."""

    @property
    def user_count(self) -> int:
        """How many users run, over all workers."""

    @property
    def target_user_count(self) -> int:
        """How many users are to run; 0 before the first start."""

    @property
    def current_cpu_usage(self) -> float:
        """CPU use of this process, in per cent of one core."""

    def stop(self) -> None:
        """End the run; the process stays."""

    def quit(self) -> None:
        """End the run and the process."""

    def register_message(self, msg_type: str, listener: Callable[..., None], concurrent: bool = False) -> None:
        """Call the listener with `environment` and `msg`; in its own greenlet if `concurrent`."""

    def send_message(self, msg_type: str, data: dict[str, Any] | None = None) -> None:
        """Send to every worker from a master, to the master from a worker."""


class Received(Protocol):
    """A message as Locust hands it to a listener."""

    node_id: str
    data: Any


class WorkerClient(Protocol):
    """A worker as its master knows it."""

    @property
    def id(self) -> str:
        """Host name and a random part."""

    @property
    def state(self) -> str:
        """One of Locust's STATE_ constants."""

    @property
    def heartbeat(self) -> int:
        """How many more heartbeats may be missed; negative for a silent worker."""

    @property
    def cpu_usage(self) -> float:
        """CPU use of the worker's process, in per cent of one core."""


class WorkerClients(Protocol):
    """All workers that have connected to a master."""

    @property
    def all(self) -> Iterable[WorkerClient]:
        """The workers, lost ones included."""


class Master(Runner, Protocol):
    """What llmload uses of a master's runner."""

    @property
    def clients(self) -> WorkerClients:
        """Its workers."""

    @property
    def worker_count(self) -> int:
        """How many workers are ready or running."""


class Worker(Runner, Protocol):
    """What llmload uses of a worker's runner."""

    @property
    def client_id(self) -> str:
        """The name that the master knows it by."""


def has_a_run(runner: Runner) -> bool:
    """Return whether a run has been started and has not been stopped."""
    return runner.state not in (STATE_INIT, STATE_STOPPED)


def watch_starts(runner: Runner, take: Callable[[int, float], bool]) -> None:
    """Pass users and spawn rate of each call of `start` to `take` first, and do not start them where it is False."""
    started: Any = runner  # Locust's runners have `start` with different arguments
    by_locust: Callable[..., None] = started.start

    def start(user_count: int, spawn_rate: float, **further: Any) -> None:
        if take(user_count, spawn_rate):
            by_locust(user_count, spawn_rate, **further)

    started.start = start  # Locust has no event for a load that is edited


def is_lost(client: WorkerClient) -> bool:
    """Return whether Locust has given the worker up."""
    return client.state == STATE_MISSING


def dismiss(master: Master, worker: str) -> None:
    """Let a worker end its process; Locust gives it no users any more, and counts it as lost if it has some."""
    runner: Any = master
    client = runner.clients.get(worker)
    if client is None:
        return
    if runner._users_dispatcher is None:
        del runner.clients[worker]
    else:
        client.heartbeat = -1  # Locust looks once a second
    runner.server.send_to_client(Message("quit", None, worker))


def wait_for_no_workers(master: Master) -> None:
    """Let a master whose workers have left quit at once: Locust waits half a second, and quits three times a run."""
    runner: Any = master
    quit_with_workers: Callable[[], None] = runner.quit

    def quit_at_once() -> None:
        if runner.clients:
            quit_with_workers()
        else:
            runner.stop(send_stop_to_client=False)
            runner.greenlet.kill(block=True)

    runner.quit = quit_at_once


def runs_here(worker: str) -> bool:
    """Return whether a worker runs on this machine: Locust begins its id with the host name."""
    return worker.rpartition("_")[0] == socket.gethostname()


def environment_of(shape: LoadTestShape) -> Environment:
    """Return the environment of a shape that runs."""
    if shape.runner is None:
        raise RuntimeError("a shape has no runner before Locust has started")
    return shape.runner.environment


def has_own_shape(environment: Environment) -> bool:
    """Return whether the locustfile's shape, not a scenario's load, says how many users run."""
    return environment.shape_class is not None and shape_kind(environment) is None


def shape_kind(environment: Environment) -> str | None:
    """Return the load kind of the locustfile's shape; None if it has no shape of llmload's."""
    kind: str | None = getattr(environment.shape_class, "load_kind", None)
    return kind


# Users, and what Locust says of them.

_FAST_RAMP: Final = "Your selected spawn rate is very high"


def silence_spawn_rates() -> None:
    """Keep Locust from warning of more than a hundred users a second: what they do to the figures is judged."""
    logging.getLogger("locust.runners").addFilter(_is_not_of_fast_ramps)


def _is_not_of_fast_ramps(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_FAST_RAMP)


def rest(user: User, length_s: float) -> None:
    """Sleep as a user that Locust may stop at once: with `--stop-timeout` it would wait for a task to end."""
    state, user._state = user._state, LOCUST_STATE_WAITING
    gevent.sleep(length_s)
    user._state = state


# The time limit, `--run-time`.


class TimeLimit:
    """
    The time limit of a headless run, taken from Locust before it starts its clock: ours runs from when all users run.

    Locust keeps the option until `give_back`.
    """

    def __init__(self, environment: Environment) -> None:
        options: Any = environment.parsed_options
        self._options = options
        self.length_s: float | None = None if environment.shape_class is not None else options.run_time
        if self.length_s is not None:
            options.run_time = None

    def give_back(self) -> None:
        """Let the option say again what it said; Locust has looked at it."""
        if self.length_s is not None:
            self._options.run_time = self.length_s


def has_time_limit(web_ui: WebUI) -> bool:
    """Return whether the web UI is to stop the run after some time."""
    return web_ui._run_time_greenlet is not None and not web_ui._run_time_greenlet.ready()


def stop_after(web_ui: WebUI, left_s: float) -> None:
    """Let the web UI stop the run after this time, and not when it was to stop it before."""
    web_ui._cancel_run_time_timer()
    web_ui._run_time_greenlet = gevent.spawn_later(max(0.0, left_s), web_ui._stop_runners)


# The command line.


def remember_default_options() -> None:
    """
    Let this process build Locust's own parser once.

    A worker builds it for each option of each message that starts users: a second and a half in which it sends and
    reads nothing, every second of a ramp.
    """
    argument_parser.default_args_dict = cache(argument_parser.default_args_dict)


def show_option(parser: LocustArgumentParser, dest: str, default: str, *, in_form: bool) -> None:
    """Change an option's default, and whether the start form shows it."""
    action: Any = next(action for action in parser._actions if action.dest == dest)
    action.default, action.include_in_web_ui = default, in_form


FOREVER_S: Final = 86_400.0


class EndSignals:
    """
    Takes what asks this process to end, SIGINT, SIGTERM and SIGHUP; made in the main greenlet.

    Python would raise KeyboardInterrupt in the greenlet that happens to run, and that one's request would be lost.
    Locust takes SIGTERM late (not while a shape runs) and ends the process in a second greenlet beside the first. Each
    signal calls `take` with its name, in its own greenlet; a SIGHUP that the process was started to ignore stays so.
    """

    def __init__(self, take: Callable[[signal.Signals], None]) -> None:
        self._main, self._loop = getcurrent(), gevent.get_hub().loop
        for number in heard():
            gevent.signal_handler(number, take, number)

    def raise_in_main(self, error: BaseException | type[BaseException] = KeyboardInterrupt) -> None:
        """Raise an error in the main greenlet: KeyboardInterrupt is what Locust waits for."""
        self._loop.run_callback(self._main.throw, error)


def quit_in_main_alone(environment: Environment) -> None:
    """Let only the main greenlet, which this is, end the process: not Locust's own handler of SIGTERM beside it."""
    main, fire = getcurrent(), environment.events.quitting.fire

    def fire_in_main(**arguments: Any) -> None:
        while getcurrent() is not main:
            gevent.sleep(FOREVER_S)  # to raise here would end the process: gevent hands that to the main greenlet
        fire(**arguments)  # type: ignore[no-untyped-call]  # Locust has it untyped

    environment.events.quitting.fire = fire_in_main  # type: ignore[method-assign]  # Locust has no hook for it


def take_unhandled() -> bool:
    """Return whether a greenlet of Locust's, or a listener, has raised since the last call; Locust has logged it."""
    raised, log.unhandled_greenlet_exception = log.unhandled_greenlet_exception, False
    return raised


# The web UI.

INDEX, STATS, START, STOP = "locust.index", "locust.request_stats", "locust.swarm", "locust.stop"
LOGIN, USER, REPORT = "locust.login", "locust.update_user", "locust.stats_report"
"""
Flask endpoints of Locust: the page, the figures it polls, the start form, the stop button, the login page, the dialog
for a user class, and the report.
"""
PAGES: Final = (INDEX, LOGIN, REPORT)
"""Those that answer with HTML."""
_STOPPING: Final = (STATE_CLEANUP, STATE_STOPPING, STATE_STOPPED)


def app_of(web_ui: WebUI) -> Flask:
    """Return the Flask application of the web UI."""
    if web_ui.app is None:
        raise RuntimeError("llmload's pages need Locust's Flask application")
    return web_ui.app


def base_path(web_ui: WebUI) -> str | None:
    """Return the path that all routes begin with; None without `--web-base-path`."""
    return app_of(web_ui).blueprints["locust"].url_prefix


def guard_of(web_ui: WebUI) -> Callable[..., Any]:
    """Return the decorator that puts a route behind the login, where there is one."""
    guard: Callable[..., Any] = web_ui.auth_required_if_enabled
    return guard


def add_to_page(web_ui: WebUI, *, tabs: list[dict[str, str]], links: list[dict[str, str]]) -> None:
    """Add tabs, and links beside Locust's CSV downloads."""
    web_ui.template_args |= {"extended_tabs": tabs, "extended_csv_files": links}


def add_script(page: str, source: str) -> str:
    """Return Locust's index page with one more script."""
    return page.replace("</body>", f'<script type="module" src="{source}"></script></body>', 1)


def keep_polling(figures: dict[str, Any]) -> None:
    """Let Locust's page poll its figures until the drain is over: it stops at any state but running."""
    if figures["state"] in _STOPPING:
        figures["state"] = STATE_RUNNING


def arrange_form(web_ui: WebUI, labels: Mapping[str, str], choices: Mapping[str, Sequence[str]]) -> None:
    """
    Let the start form show the options in the order of `labels` and with their text, and `choices` as lists.

    Each has the value that it has now, also in a page that is loaded again: an edit sends all fields back.
    """
    by_locust: Callable[[], None] = web_ui.update_template_args
    place = {name: index for index, name in enumerate(labels)}
    app_of(web_ui).jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # of what the page's script reads

    def update_template_args() -> None:
        by_locust()
        options: dict[str, Any] = web_ui.template_args["extra_options"]
        for name, option in options.items():
            option["default_value"] = getattr(web_ui.environment.parsed_options, name, option["default_value"])
            option |= {"help_text": labels[name]} if name in labels else {}
            option |= {"choices": [*choices[name]]} if name in choices else {}
        ordered = sorted(options, key=lambda name: place.get(name, len(place)))
        web_ui.template_args["extra_options"] = {name: options[name] for name in ordered}

    web_ui.update_template_args = update_template_args  # type: ignore[method-assign]  # Locust has no hook for it


def form_options(web_ui: WebUI) -> frozenset[str]:
    """Return the options that the start form shows, by their names among the parsed options."""
    return frozenset(web_ui.template_args["extra_options"])


def has_own_login(web_ui: WebUI) -> bool:
    """Return whether the locustfile has set up a login."""
    manager: Any = web_ui.login_manager
    return manager._user_callback is not None


def set_login(web_ui: WebUI, load_user: Callable[[str], object], route: str) -> None:
    """Let Locust's login page post user name and password to a route."""
    manager: Any = web_ui.login_manager
    manager.user_loader(load_user)
    web_ui.auth_args |= {"username_password_callback": route}
