"""The web UI: a run in a real browser from the form to the download, and the answer of each route."""

import csv
import io
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, OpenerDirector, ProxyHandler, build_opener

import pytest

from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

FIXED = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 8}
LOAD = "users = 3\nduration_s = 60"
OPEN = 'kind = "open_loop"\nrate_per_s = 10\nduration_s = 120'
REPEAT = "[prompts]\nrepeat = true"
PASSWORD = "a long one"
ROUTES = (
    "llm",
    "llm/assets/page.js",
    "llm/state",
    "llm/points?after=-1",
    "llm/download/summary.json",
    "llm/download/report.html",
    "llm/download/requests.csv",
    "llm/download/requests.jsonl",
    "stats/requests",
)


@dataclass
class Served:
    """A Locust process with its web UI, and a client of it."""

    root: str
    opener: OpenerDirector

    def get(self, path: str) -> str:
        with self.opener.open(self.root + path) as answer:
            text: str = answer.read().decode()
            return text

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, **form: object) -> str:
        with self.opener.open(self.root + path, data=urlencode(form).encode()) as answer:
            text: str = answer.read().decode()
            return text

    def start_run(self, users: int = 3, host: str = "", **further: object) -> Any:
        form = {"user_count": users, "spawn_rate": 10, "host": host, "run_time": "", **further}
        return json.loads(self.post("swarm", **form))

    def status(self, path: str) -> int:
        try:
            self.get(path)
        except HTTPError as error:
            error.close()
            return error.code
        return 200


def until(true: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.1)
    return found


@pytest.fixture
def serve(engine: StartEngine, locust: Locust, write_scenario: WriteScenario) -> Iterator[Callable[..., Served]]:
    """Start Locust with its web UI; it ends with the test, by Ctrl-C."""
    started = []

    def start(
        *arguments: str,
        base: str = "",
        env: dict[str, str] | None = None,
        load: str = LOAD,
        faults: dict[str, float] | None = None,
    ) -> Served:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        scenario = write_scenario(engine(**FIXED, faults=faults or {}).url, load, REPEAT)
        if load == OPEN:
            scenario.write_text(scenario.read_text().replace('kind = "closed_loop"\n', ""))
        where = ["--web-base-path", base] if base else []
        process = locust.start("--config", str(scenario), "--web-port", str(port), *where, *arguments, env=env)
        started.append(process)
        jar = HTTPCookieProcessor(CookieJar())
        served = Served(f"http://127.0.0.1:{port}{base}/", build_opener(jar, ProxyHandler({})))

        def answers() -> bool:
            assert process.poll() is None, process.communicate()
            try:
                return bool(served.get(""))
            except OSError:
                return False

        until(answers)
        return served

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            locust.finish(process)


class TestRoutes:
    def test_before_the_first_run_all_figures_are_empty(self, serve: Callable[..., Served]) -> None:
        served = serve()

        assert served.json("llm/state") == {"run_id": None, "stage": None}
        assert served.json("llm/points") == {"run_id": None, "points": []}
        assert served.status("llm/download/summary.json") == 404
        assert served.status("llm/download/requests.csv") == 404
        assert "<script" in served.get("llm")

    def test_pages_and_downloads_agree_with_the_run_folder(self, serve: Callable[..., Served], locust: Locust) -> None:
        served = serve()
        assert served.start_run(users=2)["success"]
        until(lambda: len(served.json("llm/points")["points"]) >= 3)

        points = served.json("llm/points")["points"]
        after = served.json(f"llm/points?after={points[1]['t_s']}")["points"]
        state = served.json("llm/state")
        running = served.json("stats/requests")
        assert after[0] == points[2]
        assert state["stage"] == "measuring"
        assert state["users"] == 2
        assert state["ttft_s"]["p50"] == pytest.approx(0.05, abs=0.03)
        assert " so far" in json.dumps(running["extended_stats"])
        assert served.status("llm/download/summary.json") == 404, "it is written at the end"

        served.post("stop")
        (folder,) = locust.out.iterdir()
        summary = json.loads((folder / "summary.json").read_text())
        lines = (folder / "requests.jsonl").read_text().splitlines()
        table = list(csv.DictReader(io.StringIO(served.get("llm/download/requests.csv"))))
        assert served.json("llm/state")["stage"] == "ended"
        assert served.json("llm/download/summary.json") == summary
        assert served.get("llm/download/requests.jsonl").splitlines() == lines
        assert [row["request_id"] for row in table] == [json.loads(line)["request_id"] for line in lines]
        assert len(table) == summary["requests"]["started"]
        assert {row["error_type"] for row in table} == {""}
        assert "chunk_tokens" not in table[0]

    def test_an_invalid_form_is_refused_with_the_reason(self, serve: Callable[..., Served], locust: Locust) -> None:
        served = serve()

        wrong_seed, nobody = served.start_run(seed="abc"), served.start_run(host="http://127.0.0.1:9")

        assert not wrong_seed["success"]
        assert "scenario.seed" in wrong_seed["message"]
        assert "'abc'" in wrong_seed["message"]
        assert not nobody["success"]
        assert "http://127.0.0.1:9" in nobody["message"]
        assert not locust.out.exists()

    def test_every_page_is_under_the_base_path(self, serve: Callable[..., Served]) -> None:
        served = serve(base="/load")

        assert "./llm/assets/tab.js" in served.get("")
        for route in ("llm", "llm/assets/tab.js", "llm/state", "llm/points"):
            assert served.status(route) == 200, route
        assert not served.start_run(seed="abc")["success"]


class TestLogin:
    def test_without_a_login_there_is_no_data(self, serve: Callable[..., Served]) -> None:
        served = serve("--web-login", env={"LLMLOAD_WEB_PASSWORD": PASSWORD})
        assert 'src="./assets/' in served.get(""), "the login page"

        for route in ROUTES:
            assert "window.authArgs" in served.get(route), route
        assert "window.authArgs" in served.post("swarm", user_count=1, spawn_rate=1)
        served.post("llm/login", username="llmload", password="guessed")
        assert "window.authArgs" in served.get("llm/state")

        served.post("llm/login", username="llmload", password=PASSWORD)
        assert served.json("llm/state")["stage"] is None
        assert served.start_run()["success"]
        assert until(lambda: served.json("llm/points")["points"])

    def test_without_a_password_nobody_can_log_in(self, serve: Callable[..., Served]) -> None:
        served = serve("--web-login", env={"LLMLOAD_WEB_PASSWORD": ""})

        page = served.post("llm/login", username="llmload", password="")

        assert "LLMLOAD_WEB_PASSWORD" in page
        assert "window.authArgs" in served.get("llm/state")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Debian's chromium, headless, that can reach this machine alone."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="the browser is driven by selenium")
    from selenium.webdriver.chrome.service import Service

    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "no-proxy-server",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "window-size=1280,1000",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.implicitly_wait(10)
    yield driver
    driver.quit()


class Page:
    """A person's actions on the pages."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str = "body") -> str:
        # In one step, since the page redraws what a handle would point to.
        text: str = self.browser.execute_script(f"return document.querySelector({selector!r})?.innerText ?? ''")
        return text

    def press(self, label: str) -> None:
        self.browser.find_element("xpath", f"//button[normalize-space(.)='{label}']").click()

    def fill(self, selector: str, text: str) -> None:
        field = self.find(selector)
        field.send_keys("\ue009a\ue000", text)  # Ctrl-A, release

    def open(self, label: str, within: str = "") -> None:
        """Unfold a part of a form, and wait until it no longer moves."""
        phase = f"{within}.MuiAccordionSummary-root"
        found = [each for each in self.browser.find_elements("css selector", phase) if each.text == label]
        found[0].click()
        until(lambda: found[0].get_attribute("aria-expanded") == "true")
        time.sleep(0.5)

    def value(self, name: str, within: str = "") -> str:
        text: str = self.find(f"{within}input[name={name}],{within}select[name={name}]").get_attribute("value")
        return text

    def drawn(self) -> list[str]:
        script = "return [...document.querySelectorAll('#charts canvas')].map((canvas) => canvas.toDataURL())"
        found: list[str] = self.browser.execute_script(script)
        return found

    def faults(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]

    def hosts(self) -> set[str | None]:
        messages = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        sent = (
            m["params"] for m in messages if m["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")
        )
        urls = (urlsplit(params.get("url") or params["request"]["url"]) for params in sent)
        return {url.hostname for url in urls if url.scheme in ("http", "https", "ws", "wss")}


class TestBrowser:
    def test_a_run_from_the_form_to_the_download(
        self, serve: Callable[..., Served], browser: Any, locust: Locust, tmp_path: Path
    ) -> None:
        served, page = serve(load=OPEN), Page(browser)
        browser.get(served.root)
        page.open("Custom parameters")
        assert [page.value(name) for name in ("rate", "arrivals", "model", "maxTokens")] == [
            "10",
            "poisson",
            "simulated",
            "",
        ]
        page.fill("input[name=rate]", "many")
        page.press("Start")
        until(lambda: "load.rate_per_s: input should be a valid number, got 'many'" in page.text())
        assert not locust.out.exists(), "nothing was sent"
        page.fill("input[name=rate]", "8")
        page.fill("input[name=maxTokens]", "4")
        page.press("Start")
        page.press("LLM")
        until(lambda: " so far" in page.text("table"))
        until(lambda: "measuring" in page.text("table"))
        table = page.text("table")
        assert all(row in table for row in ("Last 10 s", "Target rate, req/s", "TTFT p50 / p95 / p99, ms"))

        page.press("Edit")
        page.open("Custom parameters", "[role=presentation] ")
        assert page.value("rate", "[role=presentation] ") == "8"
        page.fill("[role=presentation] input[name=maxTokens]", "5")
        page.press("Update")
        until(lambda: "request.max_tokens: cannot become 5 during the run" in page.text())
        page.press("Edit")
        page.open("Custom parameters", "[role=presentation] ")
        page.fill("[role=presentation] input[name=maxTokens]", "4")
        page.fill("[role=presentation] input[name=rate]", "30")
        page.press("Update")

        browser.get(f"{served.root}llm")
        until(lambda: len(page.drawn()) == 10)
        before = page.drawn()
        assert "requests/min" in page.text("#figures")
        until(lambda: "30.0\nrequests/s target" in page.text("#figures").replace("\n\n", "\n"))
        until(lambda: all(now != then for now, then in zip(page.drawn()[:4], before[:4], strict=True)))
        until(lambda: served.json("llm/points")["points"][-1]["sent_per_s"] > 20)

        browser.get(f"{served.root}?tab=llm")
        page.press("Stop")
        until(lambda: "ended" in page.text("table"))
        assert "so far" not in page.text("table")

        page.press("LLM charts")
        browser.switch_to.frame(page.find("iframe"))
        (folder,) = locust.out.iterdir()
        summary = (folder / "summary.json").read_bytes()
        until(lambda: page.text("#level") == json.loads(summary)["verdict"]["level"])
        page.find("#summary").click()
        (fetched,) = until(lambda: list((tmp_path / "downloads").glob("*-summary.json")))
        assert fetched.read_bytes() == summary
        assert json.loads(summary)["load"]["rate_per_s"] == 30
        assert [stage["rate_per_s"] for stage in json.loads(summary)["stages"]] == [8, 30]
        assert {
            row["output_tokens"] for row in csv.DictReader(io.StringIO(served.get("llm/download/requests.csv")))
        } == {"4"}
        assert page.faults() == []
        assert page.hosts() == {"127.0.0.1"}

    def test_failures_show_in_the_engines_words(self, serve: Callable[..., Served], browser: Any) -> None:
        served, page = serve(faults={"http_503": 0.5, "html_error": 0.1}), Page(browser)
        browser.get(f"{served.root}llm")
        assert not page.find("#failures").is_displayed()
        served.start_run()

        until(lambda: "http_5xx (502)" in page.text("#failures"))
        until(lambda: "Simulated fault http_503." in page.text("#failures"))
        assert "502 Bad Gateway" in page.text("#failures")
        most = served.json("llm/state")["failures"][0]
        assert (most["type"], most["http_status"], most["words"]) == ("http_5xx", 503, "Simulated fault http_503.")
        assert "wait until it is ready" in page.text("#reasons")
        browser.get(f"{served.root}?tab=llm")
        until(lambda: "http_5xx (503): Simulated fault http_503." in page.text("table"))
        assert page.faults() == []

    def test_edited_users_are_another_phase_on_every_page(
        self, serve: Callable[..., Served], browser: Any, locust: Locust
    ) -> None:
        served, page = serve(), Page(browser)
        browser.get(served.root)
        page.press("Start")
        until(lambda: (served.json("llm/state").get("window_s") or 0) > 1)
        page.press("Edit")
        page.fill("[role=presentation] input[name=userCount]", "7")
        page.press("Update")
        page.press("LLM")
        until(lambda: "phase-2, 7 users" in page.text("table"))
        until(lambda: "the load was edited once: figures are of phase-2, 7 users" in page.text("table"))

        browser.get(f"{served.root}llm")
        until(lambda: "phase-2" in page.text("#stages"))
        assert [line.split()[:2] for line in page.text("#stages").splitlines()[-2:]] == [
            ["phase-1", "3"],
            ["phase-2", "7"],
        ]
        assert "the load was edited once" in page.text("#stage")
        until(lambda: (served.json("llm/state")["stages"][1]["measured_s"] or 0) > 1)
        browser.save_screenshot(str(locust.out.parent / "llm.png"))
        served.post("stop")
        (folder,) = locust.out.iterdir()
        browser.get((folder / "report.html").as_uri() if (folder / "report.html").is_file() else served.root)
        browser.get(f"{served.root}llm/download/report.html")
        until(lambda: "the load was edited once: figures are of phase-2, 7 users" in page.text())
        browser.save_screenshot(str(locust.out.parent / "report.png"))
        assert page.faults() == []

    def test_the_theme_is_the_one_chosen_in_locust(self, serve: Callable[..., Served], browser: Any) -> None:
        served, page = serve(), Page(browser)
        background = "return getComputedStyle(document.body).backgroundColor"
        browser.get(f"{served.root}llm")
        light = browser.execute_script(background)

        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        until(lambda: browser.execute_script(background) == "rgb(18, 18, 18)")
        browser.execute_script("localStorage.theme = 'light'")
        browser.refresh()

        assert browser.execute_script(background) == light == "rgb(255, 255, 255)"
        assert "No run yet" in page.text("#verdict")
        assert page.faults() == []

    def test_a_login_opens_the_pages(self, serve: Callable[..., Served], browser: Any) -> None:
        served, page = serve("--web-login", env={"LLMLOAD_WEB_PASSWORD": PASSWORD}), Page(browser)
        browser.get(f"{served.root}llm")
        page.fill("input[name=username]", "llmload")
        page.fill("input[name=password]", PASSWORD)
        page.press("Login")
        page.press("Start")
        page.press("LLM charts")
        browser.switch_to.frame(page.find("iframe"))

        until(lambda: page.text("#level").endswith(" so far"))
        assert page.faults() == []
        assert page.hosts() == {"127.0.0.1"}
