"""Who may use the web UI: every route that the application has, by every method, from every kind of page."""

from locust import User, task
from locust.argument_parser import get_parser
from locust.env import Environment
from locust.web import WebUI

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from flask import Flask
from flask.testing import FlaskClient

from llmload.errors import ConfigError
from llmload.loadgen import options
from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.metrics_server import MetricsEndpoint, MetricsSource
from llmload.loadgen.web import pages
from llmload.loadgen.web.guard import DEFAULT_HEADERS, AllowedHosts, OriginGuard
from llmload.loadgen.web.login import FREE_ATTEMPTS, LONGEST_WAIT_S, MAX_CLIENTS, Attempts
from llmload.metrics.totals import RunTotals
from llmload.scenario import load_scenario

HOST, PASSWORD = "127.0.0.1:8089", "a long one"
OWN = {"Host": HOST, "Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"}
EVIL = "http://evil.example"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LINKED = {"/", "/login", "/llm"}
OPEN = {"locust.send_assets", "locust.login", "llmload.llm_login", "static"}
"""Endpoints that a page needs before anyone is logged in."""


@dataclass(frozen=True)
class Source:
    """Where a request comes from, by the headers that a browser sends; `links` is whether it opens a link."""

    name: str
    headers: dict[str, str]
    is_own: bool = False
    links: bool = False


def _fetch(site: str, mode: str = "no-cors", dest: str = "empty", **headers: str) -> dict[str, str]:
    return {"Host": HOST, "Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest, **headers}


SOURCES = (
    Source("its own page", OWN, is_own=True),
    Source("its own page, opened by name", {**OWN, "Host": "localhost:8089", "Origin": "http://localhost:8089"}, True),
    Source("its own page over IPv6", {**OWN, "Host": "[::1]:8089", "Origin": "http://[::1]:8089"}, True),
    Source("an address that was typed", _fetch("none", "navigate", "document"), is_own=True),
    Source("its own page without Sec-Fetch", {"Host": HOST, "Origin": f"http://{HOST}"}, is_own=True),
    Source("its own page with Referer alone", {"Host": HOST, "Referer": f"http://{HOST}/llm"}, is_own=True),
    Source("a script", {"Host": HOST}, is_own=True),
    Source("a page elsewhere", _fetch("cross-site", "cors", Origin=EVIL)),
    Source("a page elsewhere that hides its name", _fetch("cross-site", "navigate", "document", Origin="null")),
    Source("a sandboxed frame", {"Host": HOST, "Origin": "null"}),
    Source("another port of this machine", _fetch("same-site", "cors", Origin="http://127.0.0.1:9999")),
    Source("another name of this machine", _fetch("cross-site", "cors", Origin="http://localhost:8089")),
    Source("another scheme", {"Host": "127.0.0.1", "Origin": "https://127.0.0.1:8089"}),
    Source("an extension", {"Host": HOST, "Origin": "chrome-extension://abcdef"}),
    Source("an old browser elsewhere", {"Host": HOST, "Origin": EVIL}),
    Source("a name that begins like ours", {"Host": HOST, "Origin": f"http://{HOST}.evil.example"}),
    Source("a user name that looks like ours", {"Host": HOST, "Origin": f"http://{HOST}@evil.example"}),
    Source("an image elsewhere", _fetch("cross-site", dest="image")),
    Source("a script element elsewhere", _fetch("cross-site", dest="script", Referer=f"{EVIL}/")),
    Source("a frame elsewhere", _fetch("cross-site", "navigate", "iframe", Referer=f"{EVIL}/")),
    Source("a link elsewhere", _fetch("cross-site", "navigate", "document", Referer=f"{EVIL}/"), links=True),
    Source("a link elsewhere, without Sec-Fetch", {"Host": HOST, "Referer": f"{EVIL}/page"}, links=True),
    Source("a rebound name", {"Host": "evil.example:8089", "Origin": f"{EVIL}:8089", "Sec-Fetch-Site": "same-origin"}),
    Source("a rebound name, old browser", {"Host": "evil.example:8089"}),
    Source("a rebound name without a dot", {"Host": "evil:8089"}),
    Source("two hosts", {"Host": f"{HOST},evil.example"}),
    Source("an empty host", {"Host": ""}),
    Source("a host with a user", {"Host": f"evil.example@{HOST}"}),
)


class Nobody(User):
    @task
    def rest(self) -> None:
        """Send nothing."""


@dataclass
class Site:
    """Locust's application with our pages, of a node whose parts only note what is done."""

    app: Flask
    web_ui: WebUI
    node: Any
    done: list[str] = field(default_factory=list)

    def client(self) -> FlaskClient:
        return self.app.test_client()

    def logged_in(self, headers: dict[str, str] = OWN) -> FlaskClient:
        client = self.app.test_client()
        answer = client.post("/llm/login", headers=headers, data={"username": "llmload", "password": PASSWORD})
        assert answer.status_code == 302
        assert answer.location == "/"
        return client


def parsed(file: Path, *arguments: str) -> argparse.Namespace:
    parser = get_parser()
    options.add_options(parser)
    scenario = load_scenario(file)
    options.set_defaults(parser, scenario)
    found: argparse.Namespace = parser.parse_args([*arguments])
    return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Return a function that makes the application, with or without a login."""
    from locust import argument_parser

    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIO)
    sites: list[Site] = []

    def make(*, login: bool = False, base: str | None = None, names: str = "", bound: str = "127.0.0.1") -> Site:
        environment = Environment(user_classes=[Nobody])
        environment.parsed_options = parsed(file, "--web-allowed-hosts", names)
        runner = environment.create_local_runner()
        shown = {name: {"default_value": ""} for name in ("model", "prompts", "max_tokens")}
        monkeypatch.setattr(argument_parser, "ui_extra_args_dict", lambda: {k: dict(v) for k, v in shown.items()})
        web_ui = WebUI(environment, bound, 0, web_base_path=base, web_login=login, delayed_start=True)
        assert web_ui.app is not None
        done: list[str] = []
        monkeypatch.setattr(runner, "start", lambda *_, **__: done.append("start"))
        monkeypatch.setattr(runner, "stop", lambda: done.append("stop"))
        monkeypatch.setattr(environment, "update_user_class", lambda _: done.append("user"))
        environment.events.reset_stats.add_listener(lambda **_: done.append("reset"))
        scenario = load_scenario(file)
        node: Any = SimpleNamespace(
            coordinator=None,
            live=None,
            runner=runner,
            environment=environment,
            scenario=scenario,
            options=environment.parsed_options,
            edits=SimpleNamespace(running=None),
            preparation=SimpleNamespace(scenario=lambda _: scenario, meet_engine=lambda _: None),
            note_stop=lambda _: done.append("note"),
        )
        pages.install(web_ui, cast("CoordinatingNode", node))
        source: Any = SimpleNamespace(
            coordinator=None,
            runner=runner,
            totals=RunTotals,
            stages=dict,
            names=dict,
            worker_states=list,
            process_cpu_usage=dict,
        )
        MetricsEndpoint(cast("MetricsSource", source), scenario).add_page(web_ui)
        sites.append(Site(web_ui.app, web_ui, node, done))
        return sites[-1]

    monkeypatch.setenv("LLMLOAD_WEB_PASSWORD", PASSWORD)
    yield make
    for each in sites:
        each.node.runner.quit()


SCENARIO = """
[scenario]
name = "guarded"
[engine]
name = "vllm"
base_url = "http://127.0.0.1:9"
[model]
name = "m"
[load]
kind = "closed_loop"
users = 1
requests = 1
[prompts]
source = "builtin"
"""


def routes(app: Flask) -> Iterator[tuple[str, str]]:
    """Yield the path and the endpoint of every route, with something in place of what varies."""
    for rule in app.url_map.iter_rules():
        values = dict.fromkeys(rule.arguments, "none.js")
        path = app.url_map.bind("").build(rule.endpoint, values)
        yield path, rule.endpoint


BODIES: dict[str, dict[str, Any]] = {
    "locust.swarm": {"data": {"user_count": "1", "spawn_rate": "1"}},
    "locust.update_user": {"json": {"user_class_name": "Nobody"}},
    "llmload.llm_login": {"data": {"username": "llmload", "password": PASSWORD}},
}


def test_the_routes_are_those_that_are_known(site: Callable[..., Site]) -> None:
    """A new one is in the tables below by itself; this says that they are not empty."""
    found = dict(routes(site(login=True).app))

    assert {"/swarm", "/stop", "/stats/reset", "/user", "/llm", "/llm/login", "/llm/state", "/metrics"} <= set(found)
    assert sum("download" in path for path in found) == 4


@pytest.mark.parametrize("login", [False, True], ids=["open", "with a login"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_each_route_by_each_method(site: Callable[..., Site], source: Source, login: bool) -> None:
    made = site(login=login)
    client = made.logged_in(source.headers if source.is_own else OWN) if login else made.client()
    for path, endpoint in routes(made.app):
        for method in METHODS:
            row = f"{method} {path}"
            body = BODIES.get(endpoint, {}) if method == "POST" else {}

            answer = client.open(path, method=method, headers=source.headers, **body)
            answer.get_data()
            answer.close()
            gevent.sleep()  # what Locust starts, it starts in a greenlet

            may = source.is_own or (source.links and path in LINKED and method in {"GET", "HEAD"})
            assert (answer.status_code == 403) is not may, row
            assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")], row
            assert set(DEFAULT_HEADERS) <= set(answer.headers.keys()), row
            assert answer.headers["X-Frame-Options"] == "SAMEORIGIN", row
            if not may:
                assert answer.mimetype == "text/plain", row
                assert "Set-Cookie" not in answer.headers, row
                assert method == "HEAD" or (answer.text.startswith("Refused: ") and answer.text.count("\n") == 1), row
    changed = {"start", "note", "stop", "reset", "user"} if source.is_own else set()
    assert set(made.done) == changed


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_login_nothing_is_shown_or_done(site: Callable[..., Site], method: str) -> None:
    made = site(login=True)
    client = made.client()

    for path, endpoint in routes(made.app):
        answer = client.open(path, method=method, headers=OWN, **(BODIES.get(endpoint, {}) if method == "POST" else {}))
        answer.close()
        if endpoint not in OPEN and answer.status_code != 405:
            assert (answer.status_code, (answer.location or "")[:6]) == (302, "/login"), path

    assert made.done == []


def test_pages_run_their_own_scripts_alone(site: Callable[..., Site]) -> None:
    made = site()
    made.node.environment.host = "http://x/</script><script>alert(1)</script>"

    for path, inline in (("/", 1), ("/stats/report", 2)):
        answer = made.client().get(path, headers=OWN)
        policy = answer.headers["Content-Security-Policy"]
        nonce = policy.partition("'nonce-")[2].partition("'")[0]
        assert answer.text.count(f'<script nonce="{nonce}"') == inline, path
        assert "</script><script>alert" not in answer.text, path
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
        assert "frame-ancestors 'self'" in policy
        assert nonce not in made.client().get(path, headers=OWN).headers["Content-Security-Policy"]
    page = made.client().get("/llm", headers=OWN)
    page.close()
    assert "unsafe" not in page.headers["Content-Security-Policy"]


def test_names_that_the_user_gives_are_allowed(site: Callable[..., Site]) -> None:
    client = site(names="load.example.com, other.example.com:8443").client()

    def status(host: str, origin: str) -> int:
        return client.post("/stop", headers={"Host": host, "Origin": origin}).status_code

    assert status("load.example.com", "https://load.example.com") == 200
    assert status("load.example.com:8089", "http://load.example.com:8089") == 200
    assert status(HOST, "https://load.example.com") == 200, "behind a proxy that names the address"
    assert status(HOST, "https://other.example.com:8443") == 200
    assert status(HOST, "https://other.example.com") == 403
    assert status(HOST, "http://load.example.com:1234") == 403, "another port of that host"
    assert status("evil.example", EVIL) == 403


def test_under_a_base_path_its_pages_may_be_linked(site: Callable[..., Site]) -> None:
    client = site(base="/load").client()
    link = next(source.headers for source in SOURCES if source.links)

    for path in ("/", "/llm"):
        page = client.get(f"/load{path}", headers=link)
        page.close()
        assert page.status_code == 200
    assert client.get("/load/llm/state", headers=link).status_code == 403


@pytest.mark.parametrize(
    ("bound", "host", "allowed"),
    [
        ("127.0.0.1", "load2:8089", False),
        ("127.0.0.1", "app.localhost:8089", True),
        ("127.0.0.1", "10.0.0.5:8089", True),
        ("127.0.0.1", "2130706433", False),
        ("::1", "load2", False),
        ("0.0.0.0", "load2:8089", True),
        ("0.0.0.0", "load2.ns.svc:8089", True),
        ("", "load2.local", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", "local.evil.example", False),
        ("load.example.com", "LOAD.example.com.", True),
        ("0.0.0.0", "[::1", False),
        ("0.0.0.0", "a:99999", False),
        ("0.0.0.0", "a/b", False),
    ],
)
def test_what_a_server_may_be_called(bound: str, host: str, allowed: bool) -> None:
    assert AllowedHosts(bound).allow(host) is allowed


@pytest.mark.parametrize("names", ["http://load", "a b", "a,b/c", "me@host", "x:port"])
def test_names_that_are_none_are_refused(names: str) -> None:
    with pytest.raises(ConfigError, match=f"--web-allowed-hosts {names}"):
        AllowedHosts("127.0.0.1", names)


def test_a_refusal_says_what_to_do_and_repeats_nothing_else() -> None:
    guard = OriginGuard(lambda *_: [], AllowedHosts("127.0.0.1"))

    def text(**headers: str) -> str:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", **{f"HTTP_{k}": v for k, v in headers.items()}}
        return guard.refusal(environ) or ""

    assert text(HOST="evil.example:1").endswith("start Locust with --web-allowed-hosts evil.example")
    assert f"another page ({EVIL})" in text(HOST=HOST, ORIGIN=EVIL)
    assert "<" not in text(HOST="<b>") + text(HOST=HOST, REFERER="http://<b>/") + text(HOST=HOST, ORIGIN="<b>")
    assert len(text(HOST="e" * 5000)) < 300


class TestForm:
    @pytest.mark.parametrize(
        "field",
        ["out", "settings", "scenario", "set", "metrics_host", "web_allowed_hosts", "headless", "tls_key", "csv"],
    )
    def test_a_field_that_is_not_shown_is_named(self, site: Callable[..., Site], field: str) -> None:
        made = site()
        before = dict(vars(made.node.options))

        answer = made.client().post("/swarm", headers=OWN, data={"user_count": 1, "spawn_rate": 1, field: "x"})

        assert answer.status_code == 400
        assert f"no field '{field}'" in answer.text
        assert vars(made.node.options) == before
        assert made.done == []

    @pytest.mark.parametrize("source", ["/etc/passwd", "../secret.jsonl", "hf:owner/name"])
    def test_prompts_are_those_that_locust_was_started_with(self, site: Callable[..., Site], source: str) -> None:
        made = site()
        client = made.client()

        refused = client.post("/swarm", headers=OWN, data={"user_count": 1, "spawn_rate": 1, "prompts": source}).json
        accepted = client.post("/swarm", headers=OWN, data={"user_count": 1, "spawn_rate": 1, "prompts": "lima"}).json

        assert refused is not None
        assert not refused["success"]
        assert f"restart it with --prompts {source}" in refused["message"]
        assert accepted is not None
        assert accepted["success"]

    @pytest.mark.parametrize(("field", "text"), [("user_count", "many"), ("spawn_rate", "x"), ("run_time", "soon")])
    def test_a_wrong_number_leaves_no_other_field_behind(
        self, site: Callable[..., Site], field: str, text: str
    ) -> None:
        made = site()
        form = {"host": "http://127.0.0.1:10", "model": "other", "user_count": 1, "spawn_rate": 1, field: text}

        refused = made.client().post("/swarm", headers=OWN, data=form).json

        assert refused is not None
        assert refused["message"].startswith(f"{field}: {text!r} is not ")
        assert (made.node.options.host, made.node.options.model) == ("http://127.0.0.1:9", "m")

    def test_a_user_class_has_only_what_its_dialog_sets(self, site: Callable[..., Site]) -> None:
        made = site()
        client = made.client()

        for body in ({"user_class_name": "Nobody", "on_start": 1}, {"__init__": 1}, [1], "x"):
            assert client.post("/user", headers=OWN, json=body).status_code == 400
        assert made.done == []

    def test_a_body_has_a_size(self, site: Callable[..., Site]) -> None:
        big = b"x" * (pages.MAX_FORM_BYTES + 1)

        assert site().client().post("/user", headers=OWN, data=big).status_code == 413


class TestLogin:
    def test_wrong_passwords_are_slowed_and_the_right_one_is_not_looked_at(self, site: Callable[..., Site]) -> None:
        made = site(login=True)
        client = made.client()

        def attempt(password: str, address: str = "10.0.0.1") -> str:
            form = {"username": "llmload", "password": password}
            where = {"REMOTE_ADDR": address}
            answer = client.post("/llm/login", headers=OWN, data=form, environ_overrides=where)
            if answer.location == "/":
                return "in"
            return client.get(answer.location, headers=OWN).text

        for _ in range(FREE_ATTEMPTS):
            assert "Wrong user name or password." in attempt("guess")
        assert "Too many wrong passwords from this address: try again in 1 s." in attempt(PASSWORD)
        assert attempt(PASSWORD, "10.0.0.2") == "in"

    def test_the_cookie_is_for_this_site_and_no_script(self, site: Callable[..., Site]) -> None:
        made = site(login=True)
        form = {"username": "llmload", "password": PASSWORD}

        cookie = made.client().post("/llm/login", headers=OWN, data=form).headers["Set-Cookie"]

        assert cookie.startswith("llmload_session=")
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert len(made.app.secret_key or b"") == 32

    def test_each_attempt_doubles_the_wait(self) -> None:
        now_s = 0.0
        attempts = Attempts(lambda: now_s)
        waits_s = []
        for _ in range(FREE_ATTEMPTS + 10):
            attempts.fail("10.0.0.1")
            waits_s.append(attempts.wait_s("10.0.0.1"))
            now_s += waits_s[-1]
            assert attempts.wait_s("10.0.0.1") == 0

        assert waits_s == [0, 0, 1, 2, 4, 8, 16, 32, *[LONGEST_WAIT_S] * 5]
        now_s += 1000
        attempts.fail("10.0.0.1")
        assert attempts.wait_s("10.0.0.1") == 0, "it is forgotten"

    def test_who_has_an_ipv6_network_is_one_client(self) -> None:
        attempts = Attempts(lambda: 0.0)
        for last in range(FREE_ATTEMPTS):
            attempts.fail(f"2001:db8::{last}")
            attempts.fail("::ffff:10.0.0.1")

        assert attempts.wait_s("2001:db8::ffff") > 0
        assert attempts.wait_s("10.0.0.1") > 0
        assert attempts.wait_s("2001:db8:0:1::1") == 0
        attempts.forget("2001:db8::9")
        assert attempts.wait_s("2001:db8::ffff") == 0

    def test_what_is_remembered_is_bounded(self) -> None:
        attempts = Attempts(lambda: 0.0)
        for number in range(2 * MAX_CLIENTS):
            attempts.fail(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")

        assert len(attempts) == MAX_CLIENTS
