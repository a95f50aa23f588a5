"""What llmload uses of Locust although it is not documented: each test names what is lost when Locust changes it."""

import locust as package
from locust import argument_parser, stats
from locust.argument_parser import get_parser, ui_extra_args_dict
from locust.env import Environment
from locust.event import Events
from locust.main import main
from locust.runners import LocalRunner, WorkerRunner
from locust.stats import RequestStats, setup_distributed_stats_event_listeners
from locust.web import WebUI

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import msgpack
import pytest

from llmload.loadgen import locust_compat, locust_statistics
from llmload.scenario.reading import free_port

WEB = Path(package.__file__).parent / "webui" / "dist"
RUNNERS = """
import json, sys, time
from locust import User
from locust.env import Environment
import gevent
from llmload.loadgen import locust_compat as compat

USED = {
    "master": [name for base in (compat.Runner, compat.Master) for name in vars(base) if not name.startswith("_")],
    "worker": [name for base in (compat.Runner, compat.Worker) for name in vars(base) if not name.startswith("_")],
    "client": [name for name in vars(compat.WorkerClient) if not name.startswith("_")],
}
port = int(sys.argv[1])
class Nobody(User):
    def task(self):
        pass

    tasks = [task]


master = Environment(user_classes=[Nobody]).create_master_runner("127.0.0.1", port)
worker = Environment(user_classes=[Nobody]).create_worker_runner("127.0.0.1", port)
heard = []
worker.register_message("plan", lambda environment, msg: heard.append(["plan", msg.data]))
master.register_message("done", lambda environment, msg: heard.append([msg.node_id == worker.client_id, msg.data]))
worker.environment.events.test_start.add_listener(lambda **_: heard.append("start"))
while not list(master.clients.all):
    gevent.sleep(0.05)
master.environment.events.test_start.add_listener(lambda **_: master.send_message("plan", {"a": b"b"}))
master.start(1, 1)
gevent.sleep(0.3)
worker.send_message("done", {"c": 1})
gevent.sleep(0.3)
(client,) = master.clients.all
objects = {"master": master, "worker": worker, "client": client}
compat.wait_for_no_workers(master)
quit_s = []
for _ in range(2):
    began_s = time.monotonic()
    master.quit()
    quit_s.append(time.monotonic() - began_s)
    master.clients.clear()
print(json.dumps({
    "missing": [f"{kind}.{name}" for kind, names in USED.items() for name in names if not hasattr(objects[kind], name)],
    "runs_here": compat.runs_here(worker.client_id),
    "is_lost": compat.is_lost(client),
    "quit_s": quit_s,
    "heard": [each if isinstance(each, str) else [each[0], repr(each[1])] for each in heard],
}))
"""


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locust parses the process's own command line again and again; here that is pytest's."""
    monkeypatch.setattr(sys, "argv", ["locust"])


@pytest.fixture(scope="module")
def runners() -> dict[str, Any]:
    """A master and a worker that are connected, in a separate process."""
    command = [sys.executable, "-c", RUNNERS, str(free_port())]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 0, said.stderr
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def test_runners_have_what_our_protocols_name(runners: dict[str, Any]) -> None:
    """Else: nodes fail with AttributeError at the first run."""
    assert runners["missing"] == []


def test_a_worker_is_named_after_its_host(runners: dict[str, Any]) -> None:
    """Else: what a lost worker of this machine wrote down is not counted."""
    assert runners["runs_here"]
    assert not runners["is_lost"]


def test_a_message_sent_in_test_start_arrives_before_the_worker_starts(runners: dict[str, Any]) -> None:
    """Else: every worker says that it came too late, since its plan comes after its start."""
    assert runners["heard"][:2] == [["plan", "{'a': b'b'}"], "start"]


def test_a_master_waits_for_its_workers_when_it_quits_and_for_none_when_they_have_left(runners: dict[str, Any]) -> None:
    """Else: the last reports are lost, or each run on workers ends a second later."""
    with_a_worker_s, with_none_s = runners["quit_s"]

    assert with_none_s < 0.4 < with_a_worker_s


def test_a_message_names_its_sender(runners: dict[str, Any]) -> None:
    """Else: totals and drained workers cannot be distinguished."""
    assert runners["heard"][2:] == [[True, "{'c': 1}"]]


def test_a_runner_that_has_not_started_has_no_run() -> None:
    """Else: the start form checks an edit where it should check a start."""
    runner = Environment().create_local_runner()

    assert isinstance(runner, LocalRunner)
    assert not locust_compat.has_a_run(runner)
    runner.quit()


def test_locusts_times_are_rounded_by_one_function_of_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else: Locust's tables and charts show two significant digits again."""
    monkeypatch.setattr(stats, "bucket_response_time", stats.bucket_response_time)
    locust_statistics.use_three_digits()
    table = RequestStats()

    for milliseconds in (12.34, 123.4, 1234.5):
        table.log_request("LLM", "chat", milliseconds, 0)  # type: ignore[arg-type]  # Locust logs floats as `int`

    assert set(table.get("chat", "LLM").response_times) == {12.3, 123, 1230}


def test_a_report_has_response_times_where_we_pack_them() -> None:
    """Else: reports of workers grow with the spread of latencies, up to megabytes."""
    events, table, received = Events(), RequestStats(), RequestStats()
    setup_distributed_stats_event_listeners(events, table)
    for milliseconds in range(100, 1000):
        table.log_request("LLM", "chat", milliseconds, 10)
    data: dict[str, Any] = {}
    events.report_to_master.fire(client_id="w", data=data)
    whole = len(msgpack.dumps(data))

    locust_statistics.shrink_report(data)
    small = len(msgpack.dumps(data))
    locust_statistics.restore_report(data)
    onward = Events()
    setup_distributed_stats_event_listeners(onward, received)
    onward.worker_report.fire(client_id="w", data=data | {"errors": {}})

    assert small < whole
    assert received.get("chat", "LLM").num_requests == 900
    assert received.total.get_response_time_percentile(0.5) == pytest.approx(550, abs=10)


def test_locusts_tables_go_through_one_logger() -> None:
    """Else: a headless run prints Locust's tables above ours."""
    assert stats.console_logger.name == "locust.stats_logger"


def test_the_start_form_shows_what_the_parsers_actions_say() -> None:
    """Else: the form does not begin with the scenario's values, or shows fields that its load does not have."""
    parser = get_parser()
    for name in ("--shown", "--hidden"):
        parser.add_argument(name, default="")
    locust_compat.show_option(parser, "shown", "as in the scenario", in_form=True)
    locust_compat.show_option(parser, "hidden", "", in_form=False)

    assert parser.parse_args([]).shown == "as in the scenario"
    assert "shown" in parser.args_included_in_web_ui
    assert "hidden" not in parser.args_included_in_web_ui


@pytest.fixture
def web_ui() -> Iterator[WebUI]:
    """Locust's web UI with a login, not served."""
    environment = Environment(parsed_options=get_parser().parse_args([]))
    runner = environment.create_local_runner()
    yield environment.create_web_ui("127.0.0.1", free_port(), web_login=True, delayed_start=True)
    runner.quit()


def test_the_web_ui_has_the_endpoints_and_the_blueprint_that_ours_extend(web_ui: WebUI) -> None:
    """Else: the start form is not checked, the live table has no rows, and our pages are under another path."""
    endpoints = {rule.endpoint for rule in locust_compat.app_of(web_ui).url_map.iter_rules()}

    assert {locust_compat.STATS, locust_compat.START, locust_compat.STOP, locust_compat.USER} <= endpoints
    assert set(locust_compat.PAGES) <= endpoints
    assert locust_compat.base_path(web_ui) in (None, "")
    assert callable(locust_compat.guard_of(web_ui))


def test_the_form_names_the_options_that_it_shows(web_ui: WebUI) -> None:
    """Else: the form may set any option of Locust's, or none of ours."""
    assert locust_compat.form_options(web_ui) == set(ui_extra_args_dict())


def test_locusts_pages_have_the_scripts_that_a_nonce_is_for() -> None:
    """Else: the pages' policy stops their own scripts, and they stay empty."""
    assert '<script type="module" crossorigin>' in (WEB / "report.html").read_text()
    for page, script in (("index", "templateArgs"), ("auth", "authArgs"), ("report", "templateArgs")):
        assert re.search(rf"<script>\s*window\.{script} = ", (WEB / f"{page}.html").read_text()), page


def test_the_form_shows_options_as_they_are_now(web_ui: WebUI) -> None:
    """Else: an edit sends back the values that the run began with, and is refused or undoes the edit before."""
    locust_compat.arrange_form(web_ui, {}, {})
    options: Any = web_ui.environment.parsed_options
    name = next(iter(ui_extra_args_dict()), None)
    web_ui.update_template_args()

    assert "extra_options" in web_ui.template_args
    if name is not None:
        setattr(options, name, "edited")
        web_ui.update_template_args()
        assert web_ui.template_args["extra_options"][name]["default_value"] == "edited"


def test_the_form_has_our_order_texts_and_choices(web_ui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else: it is sorted by the alphabet, the model in its middle, and names are typed that could be chosen."""
    shown = {name: {"default_value": "", "help_text": "of the command", "choices": None} for name in ("a", "b", "c")}
    monkeypatch.setattr(argument_parser, "ui_extra_args_dict", lambda: {name: dict(shown[name]) for name in shown})
    locust_compat.arrange_form(web_ui, {"c": "first", "a": "second"}, {"a": ("x", "y")})
    web_ui.update_template_args()

    app = locust_compat.app_of(web_ui)
    page = app.jinja_env.from_string("{{ options | tojson }}").render(options=web_ui.template_args["extra_options"])
    options = json.loads(page)
    assert list(options) == ["c", "a", "b"]
    assert [option["help_text"] for option in options.values()] == ["first", "second", "of the command"]
    assert [option["choices"] for option in options.values()] == [None, ["x", "y"], None]


def test_a_worker_builds_locusts_parser_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else: it does so a hundred times at each message that starts users, and is deaf for more than a second."""
    monkeypatch.setattr(argument_parser, "default_args_dict", argument_parser.default_args_dict)
    locust_compat.remember_default_options()

    assert argument_parser.default_args_dict() is argument_parser.default_args_dict()
    assert "argument_parser.default_args_dict()" in inspect.getsource(WorkerRunner.handle_message)


def test_a_time_limit_of_the_start_form_can_be_moved(web_ui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else: a late worker shortens the window of a run that the form started, and an edit makes it last for ever."""
    stops: list[str] = []
    monkeypatch.setattr(web_ui, "_stop_runners", lambda: stops.append("moved"))
    assert not locust_compat.has_time_limit(web_ui)

    web_ui._run_time_greenlet = gevent.spawn_later(0.05, stops.append, "as set")
    assert locust_compat.has_time_limit(web_ui)
    locust_compat.stop_after(web_ui, 0.1)
    gevent.sleep(0.2)

    assert stops == ["moved"]


def test_every_change_of_the_users_comes_past_the_runners_start(web_ui: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else: an edit is not noticed, and two loads are measured as one."""
    runner: Any = web_ui.environment.runner
    seen: list[tuple[int, float]] = []
    started: list[tuple[int, float]] = []

    def take(users: int, spawn_rate: float) -> bool:
        seen.append((users, spawn_rate))
        return users < 9

    monkeypatch.setattr(runner, "start", lambda *of: started.append(of))
    locust_compat.watch_starts(runner, take)
    locust_compat.app_of(web_ui).config["LOGIN_DISABLED"] = True
    client = locust_compat.app_of(web_ui).test_client()
    web_ui.web_login = False
    for users in (3, 9):
        client.post("/swarm", data={"user_count": users, "spawn_rate": 2})
        gevent.sleep(0.01)

    assert seen == [(3, 2), (9, 2)]
    assert started == [(3, 2)]
    assert "self.start(" in inspect.getsource(type(runner).shape_worker)
    assert "runner.start(" in inspect.getsource(main), "Locust's keys"


def test_locust_looks_at_a_headless_runs_time_limit_after_init() -> None:
    """Else: Locust ends a timed run by its own clock, and a late worker shortens the window."""
    environment = Environment(parsed_options=get_parser().parse_args([]))
    options: Any = environment.parsed_options
    options.run_time = 60.0
    source = inspect.getsource(main)

    limit = locust_compat.TimeLimit(environment)
    taken = options.run_time
    limit.give_back()

    assert (limit.length_s, taken, options.run_time) == (60.0, None, 60.0)
    assert (
        source.index("events.init.fire(")
        < source.index("def start_automatic_run")
        < source.index("if options.headless:\n        start_automatic_run()")
    )


def test_a_login_is_set_where_locust_reads_it(web_ui: WebUI) -> None:
    """Else: `--web-login` lets nobody in, or a locustfile's own login is overridden."""
    assert not locust_compat.has_own_login(web_ui)

    locust_compat.set_login(web_ui, lambda name: name, "./llm/login")

    assert locust_compat.has_own_login(web_ui)
    assert web_ui.auth_args["username_password_callback"] == "./llm/login"


@pytest.mark.parametrize("key", ["extendedTabs", "extendedCsvFiles"])
def test_locusts_page_reads_the_keys_that_we_fill(key: str) -> None:
    """Else: the tab "LLM" or the downloads are gone from Locust's page."""
    assert any(key in script.read_text(encoding="utf-8") for script in WEB.glob("assets/*.js"))


def test_locusts_page_has_a_body_to_add_a_script_to() -> None:
    """Else: the tab "LLM" is empty."""
    page = (WEB / "index.html").read_text(encoding="utf-8")

    assert 'src="./llm/assets/tab.js"></script></body>' in locust_compat.add_script(page, "./llm/assets/tab.js")


def test_the_page_polls_on_while_a_run_drains() -> None:
    """Else: Locust's page keeps the figures of before the drain."""
    figures: dict[str, Any] = {"state": "stopping"}
    locust_compat.keep_polling(figures)

    assert figures == {"state": "running"}


def test_the_writer_of_csv_files_ends_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "CSV_STATS_INTERVAL_SEC", 0.001)  # a process that ends in time hides what Locust does
    writer = locust_statistics.WholeCsv(Environment(user_classes=[]), [0.5], str(tmp_path / "l"))
    written = gevent.spawn(writer.stats_writer)
    gevent.sleep(0.01)
    writer.close_files()

    written.join(5.0)
    assert written.successful()
