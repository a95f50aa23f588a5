"""A real browser with a page of another origin open: it tries to start, stop, read and edit, and nothing happens."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.loadgen.browsing import ELSEWHERE, PASSWORD, Page, Served, browser, serve, until
from tests.loadgen.conftest import Locust

__all__ = ["browser", "serve"]

ATTACK = Path(__file__).with_name("attack.html").read_text()


class Stranger(ThreadingHTTPServer):
    """Serves the attacking page, and notes what is sent to it: the loot."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.page, self.loot = "", list[str]()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: Stranger

    def do_GET(self) -> None:
        if not self.path.startswith(("/attack", "/favicon")):
            self.server.loot.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.server.page.encode())

    def do_POST(self) -> None:
        self.server.loot.append(self.path)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    with Stranger() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def attack(browser: Any, stranger: Stranger, served: Served, host: str) -> dict[str, str]:
    """Open the attacking page under a name, and return what it saw of each try."""
    loot = f"http://127.0.0.1:{stranger.port}"
    stranger.page = ATTACK.replace("TARGET", served.root).replace("LOOT", loot)
    browser.get(f"http://{host}:{stranger.port}/attack")
    seen: dict[str, str] = until(lambda: browser.execute_script("return window.seen"), 60)
    return seen


@pytest.mark.parametrize("host", [ELSEWHERE, "127.0.0.1"], ids=["elsewhere", "another port"])
def test_a_page_of_another_origin_does_nothing_and_sees_nothing(
    serve: Callable[..., Served], browser: Any, locust: Locust, stranger: Stranger, host: str
) -> None:
    served, page = serve("--web-login", env={"LLMLOAD_WEB_PASSWORD": PASSWORD}), Page(browser)
    browser.get(served.root)
    page.fill("input[name=username]", "llmload")
    page.fill("input[name=password]", PASSWORD)
    page.press("Login")
    until(lambda: "Number of users" in page.text())
    served.post("llm/login", username="llmload", password=PASSWORD)

    before = attack(browser, stranger, served, host)
    assert served.json("llm/state")["run_id"] is None, "nothing was started"
    assert not locust.out.exists()

    assert served.start_run(users=2)["success"]
    until(lambda: served.json("llm/state")["stage"] == "measuring")
    during = attack(browser, stranger, served, host)
    state = served.json("llm/state")
    assert (state["stage"], state["users"]) == ("measuring", 2), "nothing was stopped or edited"
    served.post("stop")

    (folder,) = locust.out.iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert not manifest.get("edits")
    assert stranger.loot == [], "nothing was sent to the host that the stranger named"
    for seen in (before, during):
        assert {name: value for name, value in seen.items() if name.startswith(("read", "cors", "json"))} == {
            name: "no" for name in seen if name.startswith(("read", "cors", "json"))
        }
        assert {value for name, value in seen.items() if name.startswith(("image", "script", "own script"))} == {"no"}
        assert seen["framed"] == "closed"
        assert (seen["form"], seen["form stop"]) == ("sent", "sent"), "the tries were made"


def test_a_name_that_resolves_to_this_machine_opens_nothing(
    serve: Callable[..., Served], browser: Any, locust: Locust
) -> None:
    served = serve()
    browser.get(served.root.replace("127.0.0.1", ELSEWHERE))
    assert f"Refused: {ELSEWHERE}:" in Page(browser).text()
    assert f"--web-allowed-hosts {ELSEWHERE}" in Page(browser).text()

    statuses = browser.execute_async_script(
        """
        const done = arguments[arguments.length - 1], form = new URLSearchParams({user_count: 5, spawn_rate: 5});
        const status = (path, method, body) => fetch(path, {method, body}).then((answer) => answer.status);
        const tries = [["/swarm", "POST", form], ["/stop", "POST"], ["/llm/state"], ["/"]], found = [];
        (async () => { for (const each of tries) found.push(await status(...each)); done(found); })();
        """
    )

    assert statuses == [403] * 4
    assert served.json("llm/state")["run_id"] is None
    assert not locust.out.exists()


def test_reports_show_without_a_fault(serve: Callable[..., Served], browser: Any) -> None:
    served, page = serve(), Page(browser)
    served.start_run()
    until(lambda: len(served.json("llm/points")["points"]) >= 2)
    served.post("stop")

    browser.get(f"{served.root}stats/report?theme=dark")
    until(lambda: "Request Statistics" in page.text())
    browser.get(f"{served.root}llm/download/report.html")
    until(lambda: browser.execute_script("return document.querySelectorAll('canvas').length"))

    assert page.faults() == []
    assert page.hosts() == {"127.0.0.1"}
