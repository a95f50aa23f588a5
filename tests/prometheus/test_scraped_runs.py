"""Real runs of every mode, scraped by a real Prometheus: the last scrape equals the run folder."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from llmload.scenario.reading import free_port
from llmload.simulator import SimulationSettings, spawn
from tests.loadgen.forked import Forked, Zygote
from tests.prometheus.conftest import Locust, Prometheus, running_prometheus, scenario, summary_in, text_at, until

FIXED: dict[str, Any] = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "output_tokens": 16}
ENGINES: dict[str, dict[str, Any]] = {
    "alone": {**FIXED, "faults": {"http_500": 0.1}},
    "processes": {"ttft_s": 0.02, "prefill_s_per_token": 0.001, "itl_s": 0.005, "output_tokens_mean": 20},
    "workers": {"ttft_s": 0.1, "itl_s": 0.01, "itl_load_factor": 3.0, "output_tokens_mean": 20, "slots": 3},
    "web": {**FIXED},
    "starved": {**FIXED},
}
"""Constant times, times that rise with the prompt, and times that rise with the load."""
LOADS = {
    "alone": 'kind = "closed_loop"\nusers = 4\nrequests = 120',
    "processes": 'kind = "staged"\nstages = [{ users = 2, duration_s = 3 }, { users = 6, duration_s = 3 }]',
    "workers": 'kind = "open_loop"\nrate_per_s = 12\nrequests = 70',
    "web": 'kind = "closed_loop"\nusers = 2\nrequests = 60',
    "starved": 'kind = "closed_loop"\nusers = 2\nduration_s = 120',
}
HEADLESS = ("alone", "processes", "workers")
OUTCOMES = ("completed", "failed", "censored")
STARVED_S = 0.15


@dataclass
class Scraped:
    """The runs, when they are over, and the server that has seen them."""

    server: Prometheus
    folder: Path
    errors: dict[str, str]
    before_the_first_run: str
    firing: list[dict[str, Any]]

    def last(self, series: str, **labels: str) -> float | None:
        inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
        return self.server.value(f"sum(last_over_time({series}{{{inside}}}[10m]))")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Iterator[Scraped]:
    """All at once, since most of their time is waiting: for seconds to pass, for a scrape, for an alert to be due."""
    folder = tmp_path_factory.mktemp("scraped")
    ports, locust = {name: free_port() for name in LOADS}, Locust(folder, zygote)
    with ExitStack() as stack:
        stack.callback(locust.end)
        engines = {
            name: stack.enter_context(spawn(SimulationSettings(model="m", **settings)))
            for name, settings in ENGINES.items()
        }
        watched = ("engine", int(engines["alone"].url.rpartition(":")[2]))
        server = stack.enter_context(running_prometheus(folder, *ports.items(), watched))
        files = {name: scenario(folder, engines[name].url, load, name) for name, load in LOADS.items()}
        starved, firing = start(locust, files, ports, "starved"), []
        thread = threading.Thread(target=lambda: firing.extend(starve(starved, server)))
        thread.start()
        stack.callback(thread.join)
        web = start(locust, files, ports, "web", "--web-port", str(ports["web"]), "--metrics-port", "off")
        meeting = ("--master-bind-port", str(free_port()))
        runs = {
            "alone": start(locust, files, ports, "alone"),
            "processes": start(locust, files, ports, "processes", "--processes", "2"),
            "workers": start(locust, files, ports, "workers", "--master", "--expect-workers", "1", *meeting),
        }
        locust("--config", files["workers"], "--worker", "--master-port", meeting[1], out="workers")
        before = through_the_form(f"http://127.0.0.1:{ports['web']}", web)
        errors = {name: process.communicate(timeout=120)[1] for name, process in runs.items()}
        ended = 'last_over_time(llmload_run_end_timestamp_seconds{scenario="web"}[1m]) > 0'
        until(lambda: server.query(ended), "the web UI's run never ended")
        thread.join()
        yield Scraped(server, folder, errors, before, firing)


def start(locust: Locust, files: dict[str, str], ports: dict[str, int], name: str, *further: str) -> Forked:
    headless = ("--metrics-port", str(ports[name]), "--headless", "--llmload-linger", "60")
    return locust("--config", files[name], *(() if "--web-port" in further else headless), *further, out=name)


def through_the_form(url: str, process: Forked) -> str:
    """Start the run as the start form does, and return what was served before."""
    until(lambda: "llmload_requests_started_total" in text_at(f"{url}/metrics"), "the web UI served no series")
    before = text_at(f"{url}/metrics")
    with urlopen(f"{url}/swarm", data=urlencode({"user_count": 2, "spawn_rate": 2}).encode(), timeout=20) as answer:
        assert json.load(answer)["success"], process.poll()
    return before


def starve(process: Forked, server: Prometheus) -> list[dict[str, Any]]:
    """Stop the process for most of each fifth of a second, as on a busy machine, until the alert fires."""
    firing: list[dict[str, Any]] = []
    end_s = time.monotonic() + 90
    while not firing and process.poll() is None and time.monotonic() < end_s:
        for _ in range(5):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(STARVED_S)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.05)
        firing = server.query('ALERTS{alertname="LoadGeneratorSaturated",alertstate="firing",scenario="starved"}')
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return firing


@pytest.mark.parametrize("mode", ["alone", "processes", "workers", "web"])
def test_the_last_scrape_of_a_run_equals_its_summary(scraped: Scraped, mode: str) -> None:
    summary = summary_in(scraped.folder / mode)
    requests, labels = summary["requests"], {"scenario": mode}

    assert "no scrape came" not in scraped.errors.get(mode, "")
    assert requests["completed"] >= 30
    assert {outcome: scraped.last("llmload_requests_total", outcome=outcome, **labels) for outcome in OUTCOMES} == {
        outcome: requests[outcome] for outcome in OUTCOMES
    }
    assert scraped.last("llmload_requests_started_total", **labels) == requests["started"]
    tokens = scraped.last("llmload_output_tokens_total", **labels)
    assert tokens == summary["engine_metrics"]["client_output_tokens"]
    assert summary["engine_metrics"]["output_tokens_gap"] == 0
    for name, key in (("time_to_first_token", "ttft_s"), ("inter_token_latency", "itl_s")):
        exact = scraped.last(f"llmload_{name}_quantile_seconds", percentile="p99", **labels)
        assert exact == pytest.approx(summary[key]["p99"])
    level = scraped.server.query(f'last_over_time(llmload_verdict{{scenario="{mode}"}}[10m]) == 1')
    assert [sample["metric"]["level"] for sample in level] == [summary["verdict"]["level"]]
    info = f'llmload_run_info{{scenario="{mode}"}}[10m]'
    assert scraped.server.value(f"max(max_over_time({info}))") == 1
    assert scraped.server.value(f"max(last_over_time({info}))") == 0


@pytest.mark.parametrize("mode", HEADLESS)
def test_prometheus_own_quantiles_are_within_6_per_cent_of_the_summary(scraped: Scraped, mode: str) -> None:
    summary = summary_in(scraped.folder / mode)
    for series, key, quantile in (
        ("time_to_first_token", "ttft_s", "p95"),
        ("time_to_first_token", "ttft_s", "p99"),
        ("inter_token_latency", "itl_s", "p99"),
    ):
        buckets = f'last_over_time(llmload_{series}_seconds_bucket{{scenario="{mode}"}}[10m])'
        said = scraped.server.value(f"histogram_quantile(0.{quantile[1:]}, {buckets})")
        assert said == pytest.approx(summary[key][quantile], rel=0.06), (key, quantile)


def test_failures_and_the_engines_own_counts_are_scraped(scraped: Scraped) -> None:
    summary = summary_in(scraped.folder / "alone")

    failed = scraped.last("llmload_request_errors_total", error_type="http_5xx", scenario="alone")
    assert failed == summary["requests"]["failed"] > 0
    seen_of_engine = scraped.server.value("sum(last_over_time(vllm:generation_tokens_total[10m]))")
    assert seen_of_engine == scraped.last("llmload_output_tokens_total", scenario="alone")
    assert abs(summary["engine_metrics"]["ttft_gap_s"]) < 0.5, "a busy machine's own delay, and no more"


def test_the_slowest_request_is_an_exemplar_with_its_id(scraped: Scraped) -> None:
    for mode in HEADLESS:
        exemplars = scraped.server.exemplars(f'llmload_e2e_request_latency_seconds_bucket{{scenario="{mode}"}}')
        files = (scraped.folder / mode).glob("*/requests*.jsonl")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        by_id = {line["request_id"]: line for line in lines}
        slowest = max(exemplars, key=lambda exemplar: float(exemplar["value"]))

        assert float(slowest["value"]) == pytest.approx(max(line["e2e_s"] or 0 for line in by_id.values()))
        assert by_id[slowest["labels"]["request_id"]]["e2e_s"] == pytest.approx(float(slowest["value"]))


def test_a_saturated_generator_shows_in_its_series(scraped: Scraped) -> None:
    assert [alert["metric"]["scenario"] for alert in scraped.firing] == ["starved"]


def test_the_web_ui_serves_the_series_before_the_first_run(scraped: Scraped) -> None:
    assert 'llmload_requests_started_total{engine="simulated engine"' in scraped.before_the_first_run
    assert 'scenario="web"} 0.0' in scraped.before_the_first_run


def test_a_port_in_use_is_one_warning_and_not_a_failed_run(locust: Locust, tmp_path: Path) -> None:
    with socket.socket() as taken, spawn(SimulationSettings(model="m", **FIXED)) as engine:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        path = scenario(tmp_path, engine.url, 'kind = "closed_loop"\nusers = 2\nrequests = 2')
        process = locust("--config", path, "--headless", "--metrics-port", port, "--processes", "2")
        _, err = process.communicate(timeout=60)

    assert process.returncode == own_code(tmp_path / "runs"), err
    assert err.count("metrics are not served") == 1
    assert f"metrics are not served: 127.0.0.1:{port} Address already in use; --metrics-port takes another" in err


def test_an_invalid_port_is_wrong_use(locust: Locust, tmp_path: Path) -> None:
    with spawn(SimulationSettings(model="m", **FIXED)) as engine:
        wrong = locust("--config", scenario(tmp_path, engine.url), "--headless", "--metrics-port", "http")
        _, err = wrong.communicate(timeout=60)

    assert (wrong.returncode, "--metrics-port http: is not a port number" in err) == (2, True), err


def test_the_web_uis_series_are_behind_its_login(locust: Locust, tmp_path: Path) -> None:
    port = free_port()
    with spawn(SimulationSettings(model="m", **FIXED)) as engine:
        path = scenario(tmp_path, engine.url)
        locust("--config", path, "--web-port", str(port), "--web-login", "--metrics-port", "off")
        until(lambda: text_at(f"http://127.0.0.1:{port}/login"), "the web UI never came up")

        text = text_at(f"http://127.0.0.1:{port}/metrics")

    assert text
    assert "llmload_requests" not in text


def test_ctrl_c_ends_the_lingering_with_the_runs_own_exit_code(locust: Locust, tmp_path: Path) -> None:
    with spawn(SimulationSettings(model="m", **FIXED)) as engine:
        path = scenario(tmp_path, engine.url)
        process = locust("--config", path, "--headless", "--metrics-port", str(free_port()), "--llmload-linger", "300")
        until(lambda: bool(list(tmp_path.glob("runs/*/summary.json"))), "the run never ended")
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)

    assert process.returncode == own_code(tmp_path / "runs"), err
    assert "Traceback" not in err


def own_code(out: Path) -> int:
    """The exit code of a run in which nothing failed: a busy machine may have made it INVALID."""
    summary = summary_in(out)
    assert summary["requests"]["completed"] == summary["requests"]["started"] == 2
    return 3 if summary["verdict"]["level"] == "INVALID" else 0
