"""Locust with its web UI, a client of it, and a browser with a person's actions on its pages."""

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
ELSEWHERE = "evil.example"
"""A name of somebody else, which the browser resolves to this machine."""


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
        f"host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
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
