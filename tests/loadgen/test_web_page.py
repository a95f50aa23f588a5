"""The web UI: a run in a real browser from the form to the download, and the answer of each route."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmload.report.conclusion import conclusion
from llmload.runs.summary import Summary
from tests.loadgen.browsing import OPEN, PASSWORD, Page, Served, browser, serve, until
from tests.loadgen.conftest import Locust

__all__ = ["browser", "serve"]

ROUTES = (
    "llm",
    "llm/assets/page.js",
    "llm/state",
    "llm/points?after=-1",
    "llm/options",
    "llm/download/summary.json",
    "llm/download/report.html",
    "llm/download/requests.csv",
    "llm/download/requests.jsonl",
    "stats/requests",
)


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
        assert after[0] == points[2]
        assert state["stage"] == "measuring"
        assert state["users"] == 2
        assert state["ttft_s"]["p50"] == pytest.approx(0.05, abs=0.03)
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
        browser.switch_to.frame(page.find("iframe"))
        until(lambda: " so far" in page.text("#level"))
        until(lambda: "TTFT p95, ms" in page.text("#figures"))
        assert not page.find("#edit").is_displayed(), "Locust's own buttons are above it"
        browser.switch_to.default_content()

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

        page.fill("#target", "20")
        page.press("Edit")
        until(lambda: "20.0\nrequests/s target" in page.text("#figures").replace("\n\n", "\n"))
        page.press("Stop")
        until(lambda: "ended" in page.text("#stage"))
        assert "so far" not in page.text("#level")

        browser.get(f"{served.root}?tab=llm")
        browser.switch_to.frame(page.find("iframe"))
        (folder,) = locust.out.iterdir()
        summary = (folder / "summary.json").read_bytes()
        until(lambda: page.text("#level") == json.loads(summary)["verdict"]["level"])
        assert page.text("#conclusion") == conclusion(Summary.model_validate_json(summary))
        page.find("#summary").click()
        (fetched,) = until(lambda: list((tmp_path / "downloads").glob("*-summary.json")))
        assert fetched.read_bytes() == summary
        assert json.loads(summary)["load"]["rate_per_s"] in (20, 30)
        assert [stage["rate_per_s"] for stage in json.loads(summary)["stages"]] == [8, 30, 20]
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
        browser.get(f"{served.root}llm")
        until(lambda: "phase-2" in page.text("#stages"))
        assert [line.split()[:2] for line in page.text("#stages").splitlines()[-2:]] == [
            ["phase-1", "3"],
            ["phase-2", "7"],
        ]
        until(lambda: "the load was edited once: figures are of phase-2, 7 users" in page.text("#stage"))
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
        page.press("LLM")
        browser.switch_to.frame(page.find("iframe"))

        until(lambda: page.text("#level").endswith(" so far"))
        assert page.faults() == []
        assert page.hosts() == {"127.0.0.1"}
