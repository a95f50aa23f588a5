"""The page: its figures are the summary's, it names its sources, and no text from outside can run or load."""

import html as entities
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmload.errors import RunFolderError
from llmload.record import ErrorType, Outcome, RequestError, RequestRecord, stamps_of
from llmload.report import markdown as definitions
from llmload.report.figures import COLUMNS, LATENCIES
from llmload.report.html.assets import PAGE
from llmload.report.html.page import render, write_html
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS, RunFolder
from llmload.runs.loaded_run import load_run, read_summary
from llmload.units import NS_PER_S, milliseconds, number
from tests.recorded import manifest_of, records, write_folder
from tests.run_files import filled, laid_over

ROOT = Path(__file__).parents[2]
EVIL = "<script>alert(1)</script>\"'&</script><img src=x onerror=alert(1)>"


def finish(folder: Path, **changes: Any) -> Path:
    """Give the folder the summary that a run would have left."""
    counted = read_summary(RunFolder(folder)).model_dump(mode="json")
    summary = laid_over(counted, filled({"verdict": {"level": "VALID", "reasons": []}, **changes}))
    del summary["recomputed"]
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def page_of(*folders: Path) -> str:
    return render([load_run(RunFolder(folder)) for folder in folders])


def embedded(page: str) -> list[dict[str, Any] | None]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    charts: list[dict[str, Any] | None] = json.loads(data)
    return charts


def chart(page: str, title: str) -> dict[str, Any]:
    return next(each for each in embedded(page) if each is not None and each["title"] == title)


def words(page: str) -> str:
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(entities.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return finish(write_folder(tmp_path / "run", records(400)))


class TestFigures:
    def test_the_tables_are_the_summarys(self, run: Path) -> None:
        summary, text = RunFolder(run).read("summary.json"), words(page_of(run))

        for name, key in LATENCIES.items():
            cells = [milliseconds(summary[key][column]) for column in COLUMNS]
            assert " ".join([name, *cells, number(summary[key]["count"], 0)]) in text
        for figure in ("requests_per_min", "goodput_per_min"):
            assert number(summary[figure], 1) in text
        requests = summary["requests"]
        assert f"started {requests['started']} completed {requests['completed']} failed {requests['failed']}" in text

    def test_it_begins_with_what_was_found_and_what_was_run(self, run: Path) -> None:
        text = words(page_of(run))

        assert text.index("requests/min, TTFT p95") < text.index("; VALID") < text.index("What was run")
        for fact in ("model m ", "engine vLLM at http", "max_tokens not set", "seed 0", "of warm-up", "run 20260101-"):
            assert text.index("What was run") < text.index(fact) < text.index("Latency, ms"), fact

    def test_a_rate_has_the_interval_that_its_batches_leave(self, run: Path) -> None:
        low, high = re.findall(r"95%: ([\d.,]+) to ([\d.,]+) ", words(page_of(run)))[0]
        measured = RunFolder(run).read("summary.json")["requests_per_min"]

        assert float(low.replace(",", "")) < measured < float(high.replace(",", ""))

    def test_stages_are_rows_before_the_charts(self, tmp_path: Path) -> None:
        stage = {"name": "s1", "users": 2, "rate_per_s": None, "requests_per_min": 60.0, "ttft_s": {"p50": 0.25}}
        text = words(page_of(finish(write_folder(tmp_path / "run", records(50)), stages=[stage])))

        assert "s1 2 users 60.0 n/a n/a 250.0 " in text

    def test_names_are_rows_before_the_charts(self, tmp_path: Path) -> None:
        counts = {"completed": 8, "failed": 1, "censored": 0, "errors": {}}
        ask = {"name": "ask <b>", "requests_per_min": 60.0, **counts}
        text = words(page_of(finish(write_folder(tmp_path / "run", records(50)), by_name=[ask])))

        assert "By name" in text
        assert "ask <b> 8 1 60.0 n/a n/a" in text

    def test_the_verdict_comes_first_with_every_reason(self, tmp_path: Path) -> None:
        reasons = [{"level": "DEGRADED", "text": f"reason {index}"} for index in (1, 2)]
        verdict = {"level": "DEGRADED", "reasons": reasons}
        text = words(page_of(finish(write_folder(tmp_path / "run", records(20)), verdict=verdict)))

        assert text.index("DEGRADED Read the reasons") < text.index("reason 1") < text.index("Latency, ms")
        assert "reason 2" in text

    def test_gates_are_shown_passed_or_failed(self, tmp_path: Path) -> None:
        gates = [{"passed": True, "text": "ttft_s p95 < 9"}, {"passed": False, "text": "error_share < 0"}]
        text = words(page_of(finish(write_folder(tmp_path / "run", records(20)), gates=gates)))

        assert "gate passed ttft_s p95 < 9" in text
        assert "gate FAILED error_share < 0" in text

    def test_failures_are_below_the_verdict_in_the_engines_words(self, tmp_path: Path) -> None:
        failed = {"type": "http_5xx", "http_status": 503, "words": EVIL, "count": 3, "share": 0.125}
        folder = finish(write_folder(tmp_path / "run", records(20)), requests={"failures": [failed]})
        page = page_of(folder)

        assert f"http_5xx (503) 3 12.5% {EVIL}" in words(page)
        assert EVIL not in page

    def test_the_definitions_are_the_readmes(self, run: Path) -> None:
        assert definitions.markdown() in (ROOT / "docs" / "concepts" / "latencies.md").read_text(encoding="utf-8")
        text = words(page_of(run))
        assert all(f"{each.name} {each.formula} {each.unit}" in text for each in definitions.DEFINITIONS)

    def test_what_no_answer_did_is_not_defined(self, run: Path) -> None:
        loaded = load_run(RunFolder(run))
        text = words(render([replace(loaded, summary=loaded.summary.model_copy(update={"reasoning": None}))]))

        assert not any(each.formula in text for each in definitions.DEFINITIONS_OF_REASONING)

    def test_the_manifest_is_there_folded(self, run: Path) -> None:
        page = page_of(run)

        assert "<details>" in page
        assert '"run_id": "20260101-000000-known-0001"' in words(page)


class TestCharts:
    def test_events_are_drawn_at_their_time(self, tmp_path: Path) -> None:
        """Two requests of 10 tokens, 1 s each, one after the other, with chunks every 0.1 s."""
        manifest = manifest_of()
        now_ns = time.monotonic_ns()
        offset_s = manifest["started_unix_s"] - time.time()
        of = [
            RequestRecord(
                request_id=str(index),
                prompt_id="p",
                started_ns=(start := now_ns + int(offset_s * NS_PER_S) + index * 10 * NS_PER_S),
                done_ns=start + NS_PER_S,
                outcome=Outcome.COMPLETED,
                chunk_ns=stamps_of(start, [NS_PER_S // 10] * 10),
                prompt_tokens=5,
                output_tokens=10,
            )
            for index in (0, 1)
        ]
        page = page_of(write_folder(tmp_path / "run", of, manifest=manifest))

        tokens, flight = chart(page, "Output tokens/s"), chart(page, "Users and requests in flight")["series"][-1]
        rate = dict(zip(tokens["series"][0]["x"], tokens["series"][0]["y"], strict=True))
        assert max(rate.values()) > 0
        width_s = tokens["series"][0]["x"][1] - tokens["series"][0]["x"][0]
        assert sum(rate.values()) * width_s == pytest.approx(20, rel=0.1)
        assert all(y == 0 for x, y in rate.items() if 2 < x < 9)
        assert sum(flight["y"]) * width_s == pytest.approx(2, rel=0.1)
        errors = words(page)
        assert "No request failed." in errors

    def test_tokens_without_chunk_times_are_spread_and_noted(self, tmp_path: Path) -> None:
        of = records(200)
        with_times = chart(page_of(write_folder(tmp_path / "a", of)), "Output tokens/s")["series"][0]
        page = page_of(write_folder(tmp_path / "b", of, with_chunks=False))
        without = chart(page, "Output tokens/s")["series"][0]

        assert sum(without["y"]) == pytest.approx(sum(with_times["y"]), rel=0.05)
        assert "Spread evenly over each answer" in words(page)

    def test_a_cdf_ends_at_100_per_cent_and_passes_its_percentiles(self, run: Path) -> None:
        summary, ttft = RunFolder(run).read("summary.json"), chart(page_of(run), "TTFT")
        (series,) = ttft["series"]

        assert series["y"][-1] == 100
        assert series["y"] == sorted(series["y"])
        marks = {mark["label"]: mark["at"] for mark in ttft["marks"]}
        assert marks["p95"] == pytest.approx(summary["ttft_s"]["p95"] * 1000, rel=1e-4)
        assert marks["SLO"] == 200

    def test_errors_are_stacked_by_type_and_add_up(self, run: Path) -> None:
        bars = chart(page_of(run), "Failed requests/min, by type")["series"]

        assert {series["name"].partition(" ")[0] for series in bars} == {"reset", "http_5xx"}
        assert all(top >= below for top, below in zip(bars[0]["y"], bars[1]["y"], strict=True))

    def test_a_percentile_is_not_drawn_from_too_few_values(self, run: Path) -> None:
        few = {series["name"]: series["y"] for series in chart(page_of(run), "TTFT over time")["series"]}

        assert any(value is not None for value in few["p50"])
        assert all(value is None for value in few["p99"]), "no group of 400 requests over 30 s holds 100"

    def test_a_staged_runs_stages_make_a_curve_in_the_order_of_their_load(self, tmp_path: Path) -> None:
        stages = [
            {"name": f"s{users}", "users": users, "rate_per_s": None, "output_tokens_per_s": rate}
            | {key: {"p50": 0.1 * users, "p95": 0.2 * users, "p99": 0.3} for key in LATENCIES.values()}
            for users, rate in ((2, 50.0), (8, 120.0), (4, 130.0))
        ]
        page = page_of(finish(write_folder(tmp_path / "run", records(50)), stages=stages))

        assert chart(page, "TTFT by load")["series"][0]["x"] == [2, 4, 8]
        against = chart(page, "TTFT against throughput")
        assert against["series"][0]["x"] == [50, 130, 120]
        assert against["pointNames"] == ["s2: 2 users", "s4: 4 users", "s8: 8 users"]

    def test_the_result_of_a_search_is_shown_and_marked(self, tmp_path: Path) -> None:
        figures = {key: {"p50": 0.1, "p95": 0.2, "p99": 0.3} for key in LATENCIES.values()}
        stages = [
            {"name": f"step-{users}", "users": users, "rate_per_s": None, "output_tokens_per_s": 9.0, **figures}
            for users in (2, 4)
        ]
        capacity = {
            "search": "users",
            "objectives": ["ttft_s p95 < 0.5"],
            "passes": 2.0,
            "fails": 4.0,
            "ended": "precision",
            "significant": True,
            "knee": None,
            "requests_per_min": 60.0,
            "requests_per_min_interval": [55.0, 65.0],
            "output_tokens_per_s": 9.0,
            "output_tokens_per_s_interval": None,
        }
        page = page_of(finish(write_folder(tmp_path / "run", records(50)), stages=stages, capacity=capacity))

        assert "capacity: 2 users: 60.0 (55.0 to 65.0) requests/min, 9.0 tok/s" in words(page)
        assert "objectives: ttft_s p95 < 0.5 4 users fail" in words(page)
        marks = {mark["label"]: mark["at"] for mark in chart(page, "TTFT by load")["marks"] if mark["axis"] == "x"}
        assert marks == {"passes": 2, "fails": 4}

    def test_engine_and_gpu_series_are_on_the_runs_time_axis(self, run: Path) -> None:
        start_s = json.loads((run / "manifest.json").read_text())["started_unix_s"]
        engine = f"unix_s,url,part,running,output_tokens\n{start_s + 1},http://e:1/metrics,,3,100\n"
        (run / ENGINE_METRICS).write_text(f"{engine}{start_s + 3},http://e:1/metrics,,4,300\n99,http")
        (run / GPU_METRICS).write_text(f"unix_s,url,part,power_w\n{start_s + 1},http://d:1,0,250\n")
        page = page_of(run)

        assert chart(page, "Requests in the engine")["series"][1]["y"] == [3, 4]
        rate = chart(page, "Output tokens/s, by the engine")["series"][0]
        assert rate["x"] == pytest.approx([1, 3])
        assert rate["y"] == [None, 100]
        assert chart(page, "Power")["series"][0]["y"] == [250]


class TestOrigins:
    def test_a_crashed_runs_figures_are_recomputed_and_marked(self, tmp_path: Path) -> None:
        crashed = write_folder(tmp_path / "run", records(200))
        with (crashed / "requests.jsonl").open("ab") as file:
            file.write(b'{"request_id": "cut sho')
        loaded = load_run(RunFolder(crashed))
        text = words(render([loaded]))

        assert loaded.summary.requests.completed == sum(r.ok for r in records(200))
        assert loaded.summary.verdict.level == "INVALID"
        assert "it left no summary.json, so these figures are counted from the requests" in text
        assert re.search(r"TTFT( [\d.,]+~){6} \d+ TTFT: queue", text)
        assert "p90 needs 200, p95 needs 400, p99 needs 2,000" in text
        assert "Built from 200 requests in requests.jsonl (200)." in text

    def test_a_run_before_its_first_request_is_a_page_too(self, tmp_path: Path) -> None:
        text = words(page_of(write_folder(tmp_path / "run", [])))

        assert "The folder contains no request." in text
        assert "4 users: nothing measured; INVALID" in text
        assert "n/a" not in text, "there are no cards of nothing"

    def test_requests_on_other_machines_are_named_as_missing(self, tmp_path: Path) -> None:
        run = finish(write_folder(tmp_path / "run", records(100)))
        summary = json.loads((run / "summary.json").read_text())
        summary["requests"]["completed"] += 60
        (run / "summary.json").write_text(json.dumps(summary))

        assert "60 requests that the summary counts are in no file of this folder" in words(page_of(run))

    def test_the_files_of_several_workers_are_one_run(self, tmp_path: Path) -> None:
        of = records(90)
        for worker in range(3):
            write_folder(tmp_path / "run", of[worker::3], file=f"requests.worker-{worker}.jsonl")

        assert "Built from 90 requests in requests.worker-0.jsonl (30), " in words(page_of(tmp_path / "run"))

    def test_a_folder_without_a_run_is_refused_in_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match=r"manifest\.json: no such file"):
            load_run(RunFolder(tmp_path))
        (tmp_path / "manifest.json").write_text("{}")
        with pytest.raises(
            RunFolderError, match=r"manifest\.json: schema_version is missing, and this llmload reads version 1"
        ):
            load_run(RunFolder(tmp_path))

    def test_a_page_is_not_written_through_the_links_of_a_folder(self, run: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.write_text("kept")
        for name in ("report.html", ".report.html.part"):
            (tmp_path / name).symlink_to(other)

        write_html(tmp_path / "report.html", [RunFolder(run)])

        assert other.read_text() == "kept"
        assert not (tmp_path / "report.html").is_symlink()

    def test_a_page_that_cannot_be_written_is_refused_in_one_line(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(RunFolderError, match=r"no/report\.html: cannot be written: No such file"):
            write_html(tmp_path / "no" / "report.html", [RunFolder(run)])


class TestSeveral:
    def test_each_run_has_a_column_a_verdict_and_a_curve(self, run: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        shutil.copytree(run, other)
        summary = json.loads((other / "summary.json").read_text()) | {"model": "other"}
        (other / "summary.json").write_text(json.dumps(summary))
        page = page_of(run, other)

        assert [series["name"] for series in chart(page, "TTFT")["series"]] == ["m", "other"]
        assert page.count('<article class="verdict') == 2
        assert "model m other" in words(page)

    def test_equal_runs_get_different_names(self, run: Path, tmp_path: Path) -> None:
        shutil.copytree(run, tmp_path / "twin")

        names = [series["name"] for series in chart(page_of(run, tmp_path / "twin"), "TTFT")["series"]]
        assert names == ["m, vLLM #1", "m, vLLM #2"]


class TestSafety:
    def evil(self, folder: Path) -> Path:
        """A run in which every text that comes from outside tries to be HTML."""
        manifest = manifest_of()
        manifest["run_id"] = manifest["scenario"]["scenario"]["name"] = EVIL
        manifest["scenario"]["engine"]["label"] = manifest["scenario"]["model"]["name"] = EVIL
        manifest["scenario"]["load"] = {"kind": "replay", "trace": EVIL, "duration_s": 30.0}
        start_s = manifest["started_unix_s"]
        stage = {
            "name": EVIL,
            "users": None,
            "rate_per_s": None,
            "start_unix_s": start_s,
            "window_start_unix_s": start_s,
            "end_unix_s": start_s + 9,
        }
        manifest["timeline"]["stages"] = [stage]
        error = RequestError(type=ErrorType.RESET, message=EVIL)
        of = [*records(30), *records(1)]
        of[3] = RequestRecord(
            request_id=EVIL,
            prompt_id=EVIL,
            started_ns=1,
            done_ns=2,
            outcome=Outcome.FAILED,
            error=error,
            finish_reason=EVIL,
        )
        finish(write_folder(folder, of, manifest=manifest))
        summary = json.loads((folder / "summary.json").read_text())
        summary |= {
            "token_source": EVIL,
            "stamp_source": EVIL,
            "gates": [{"objective": EVIL, "figure": None, "passed": False, "text": EVIL}],
        }
        reason = {"check": EVIL, "level": "DEGRADED", "figure": None, "limit": None, "text": EVIL}
        summary["verdict"] = {"level": "DEGRADED", "reasons": [reason]}
        summary["requests"]["errors"] = {EVIL: 1}
        (folder / "summary.json").write_text(json.dumps(summary))
        row = f'{start_s},"http://{EVIL.replace(chr(34), "")}","{EVIL.replace(chr(34), "")}",1\n'
        (folder / "engine_metrics.csv").write_text(f"unix_s,url,part,running\n{row}{row}")
        return folder

    def test_no_text_from_outside_becomes_html(self, tmp_path: Path) -> None:
        folder = self.evil(tmp_path / EVIL.replace("/", "_"))
        for page in (page_of(folder), page_of(folder, folder)):
            own = page
            for script in (
                "figures.js",
                "report.js",
                "theme.css",
                "report.css",
                "uplot/uPlot.iife.min.js",
                "uplot/uPlot.min.css",
            ):
                own = own.replace((PAGE / script).read_text(encoding="utf-8"), "")

            assert "alert(1)" in own
            assert own.lower().count("<script") == 3, "the data, the library, our own"
            assert "<img" not in own.lower()
            assert all(series for each in embedded(page) if each for series in each["series"])

    def test_the_page_has_no_url_to_load(self, run: Path) -> None:
        page = page_of(run)
        outside = re.sub(r"<(script|style)\b.*?</\1>|<pre>.*?</pre>", "", page, flags=re.DOTALL)

        assert re.findall(r'(?:src|href|action|srcset|data|poster)="([^"]*)"', outside) == ["data:,"]
        assert not re.search(r"@import|url\(", page)
        for name in ("figures.js", "report.js", "theme.css", "report.css"):
            text = (PAGE / name).read_text(encoding="utf-8")
            assert not re.search(r"https?:|//cdn|fetch\(|XMLHttpRequest|WebSocket|import\s*\(", text)

    def test_the_policy_allows_only_the_pages_own_scripts(self, run: Path) -> None:
        policy = entities.unescape(re.findall(r'Content-Security-Policy" content="([^"]+)"', page_of(run))[0])

        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy
        assert "http" not in policy


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium here")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"):
        options.add_argument(flag)
    for flag in ("--disable-background-networking", "--disable-component-update", "--window-size=1280,1000"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    yield opened
    opened.quit()


class TestInABrowser:
    def open(self, browser: Any, page: Path) -> None:
        for log in ("performance", "browser"):
            browser.get_log(log)  # what was before is forgotten
        browser.get(page.as_uri())

    def test_every_chart_is_drawn_without_requests_or_errors(self, browser: Any, run: Path, tmp_path: Path) -> None:
        page = tmp_path / "report.html"
        write_html(page, [RunFolder(run)])
        self.open(browser, page)

        drawn = browser.execute_script("return document.querySelectorAll('figure canvas').length")
        assert drawn == sum(each is not None for each in embedded(page.read_text(encoding="utf-8")))
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
        asked = [each["request"]["url"] for each in sent if each["documentURL"] == page.as_uri()]
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
        assert [entry["message"] for entry in browser.get_log("browser")] == []

    def test_hovering_shows_values_and_the_switch_turns_the_page_dark(
        self, browser: Any, run: Path, tmp_path: Path
    ) -> None:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By

        write_html(tmp_path / "report.html", [RunFolder(run)])
        self.open(browser, tmp_path / "report.html")
        first = browser.find_element(By.CSS_SELECTOR, "figure[data-chart]")
        ActionChains(browser).move_to_element(first.find_element(By.CSS_SELECTOR, ".u-over")).perform()
        assert re.search(r"output tokens/s [\d.,]+\s+at \d:\d\d", first.find_element(By.CLASS_NAME, "legend").text)

        browser.find_element(By.CSS_SELECTOR, "[data-theme-choice=dark]").click()
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"

    def test_it_fits_a_phone(self, browser: Any, run: Path, tmp_path: Path) -> None:
        write_html(tmp_path / "report.html", [RunFolder(run), RunFolder(run)])
        size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            self.open(browser, tmp_path / "report.html")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_injected_scripts_do_not_run(self, browser: Any, tmp_path: Path) -> None:
        from selenium.webdriver.support.expected_conditions import alert_is_present

        write_html(tmp_path / "report.html", [RunFolder(TestSafety().evil(tmp_path / "evil"))])
        self.open(browser, tmp_path / "report.html")

        assert alert_is_present()(browser) is False
        assert browser.execute_script("return document.querySelectorAll('figure canvas').length") > 0
