"""Real runs, scraped by a real Prometheus: what it saw last is what the run folder says."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from llmload.engines.simulated import SimulationSettings, spawn
from llmload.scenario.reading import load_scenario

from .conftest import ROOT, free_port, summary_in, until

FIXED = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "output_tokens": 16}


def scenario(folder: Path, url: str, load: str = "users = 4\nduration_s = 6\nwarmup_s = 2") -> str:
    file = folder / "scraped.toml"
    file.write_text(
        f'[tool.locust]\nlocustfile = "{ROOT}/locustfiles/chat.py"\n[scenario]\nname = "scraped"\n'
        f'[engine]\nname = "simulated"\nbase_url = "{url}"\n[model]\nname = "m"\n[prompts]\nrepeat = true\n'
        f'[monitor]\nengine_metrics_url = "{url}/metrics"\n[slo]\nttft_s = 0.06\n[load]\nkind = "closed_loop"\n{load}\n'
    )
    load_scenario(file)
    return str(file)


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]], ids=["alone", "two-workers"])
def test_the_last_scrape_of_a_headless_run_equals_its_summary(
    prometheus: Callable[..., Any], locust: Callable[..., Any], tmp_path: Path, processes: list[str]
) -> None:
    port = free_port()
    with spawn(SimulationSettings(model="m", **FIXED, faults={"http_500": 0.1})) as engine:
        server = prometheus(("llmload", port), ("engine", int(engine.url.rpartition(":")[2])))
        path = scenario(tmp_path, engine.url)
        arguments = ["--headless", "--metrics-port", str(port), "--llmload-linger", "30", *processes]
        process = locust("--config", path, *arguments)
        _, err = process.communicate(timeout=90)
        seen_engine = server.value("sum(vllm:generation_tokens_total)")

    summary = summary_in(tmp_path / "runs")
    last = {o: server.value(f'sum(last_over_time(llmload_requests_total{{outcome="{o}"}}[5m]))') for o in OUTCOMES}
    assert process.returncode in {1, 3}, err  # requests failed; on a busy machine the measurement may be worse
    assert "no scrape came" not in err
    assert last == {outcome: summary["requests"][outcome] for outcome in OUTCOMES}
    whole = {
        "started": "llmload_requests_started_total",
        "failed": 'llmload_request_errors_total{error_type="http_5xx"}',
    }
    for key, series in whole.items():
        assert server.value(f"sum(last_over_time({series}[5m]))") == summary["requests"][key]
    tokens = server.value("sum(last_over_time(llmload_output_tokens_total[5m]))")
    assert tokens == summary["engine_metrics"]["client_output_tokens"] == last["completed"] * 16
    assert summary["engine_metrics"]["output_tokens_gap"] == 0
    assert tokens == seen_engine
    assert abs(summary["engine_metrics"]["ttft_gap_s"]) < 0.05
    for name, key in (("time_to_first_token", "ttft_s"), ("inter_token_latency", "itl_s")):
        exact = server.value(f'max(last_over_time(llmload_{name}_quantile_seconds{{percentile="p99"}}[5m]))')
        assert exact == pytest.approx(summary[key]["p99"])
    level = server.query("last_over_time(llmload_verdict[5m]) == 1")
    assert [sample["metric"]["level"] for sample in level] == [summary["verdict"]["level"]]
    assert server.value("max(max_over_time(llmload_run_info[5m]))") == 1
    assert server.value("max(last_over_time(llmload_run_info[5m]))") == 0


OUTCOMES = ("completed", "failed", "censored")


def test_a_port_that_is_taken_is_a_warning_and_not_a_failed_run(locust: Callable[..., Any], tmp_path: Path) -> None:
    with socket.socket() as taken, spawn(SimulationSettings(model="m", **FIXED)) as engine:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = scenario(tmp_path, engine.url, "users = 1\nrequests = 2")
        process = locust("--config", path, "--headless", "--metrics-port", str(taken.getsockname()[1]))
        _, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert "metrics are not served: 127.0.0.1:" in err


def test_what_is_no_port_is_wrong_use_and_off_is_none(locust: Callable[..., Any], tmp_path: Path) -> None:
    with spawn(SimulationSettings(model="m", **FIXED)) as engine:
        path = scenario(tmp_path, engine.url, "users = 1\nrequests = 2")
        wrong = locust("--config", path, "--headless", "--metrics-port", "http")
        _, err = wrong.communicate(timeout=60)
        off = locust("--config", path, "--headless", "--metrics-port", "off")
        _, silent = off.communicate(timeout=60)

    assert (wrong.returncode, "--metrics-port http: is no port" in err) == (2, True), err
    assert off.returncode == 0, silent


def test_the_web_ui_serves_the_series_too_before_the_first_run(locust: Callable[..., Any], tmp_path: Path) -> None:
    port = free_port()
    with spawn(SimulationSettings(model="m", **FIXED)) as engine:
        path = scenario(tmp_path, engine.url)
        locust("--config", path, "--web-port", str(port), "--metrics-port", "off")
        url = f"http://127.0.0.1:{port}/metrics"

        until(lambda: "llmload_requests_started_total" in text_at(url), "the web UI served no series")

        assert 'scenario="scraped"} 0.0' in text_at(url)


def test_the_web_uis_series_are_behind_its_login(locust: Callable[..., Any], tmp_path: Path) -> None:
    port = free_port()
    with spawn(SimulationSettings(model="m", **FIXED)) as engine:
        path = scenario(tmp_path, engine.url)
        locust("--config", path, "--web-port", str(port), "--web-login", "--metrics-port", "off")
        until(lambda: bool(text_at(f"http://127.0.0.1:{port}/login")), "the web UI never came up")

        text = text_at(f"http://127.0.0.1:{port}/metrics")

    assert text
    assert "llmload_requests" not in text


def test_ctrl_c_ends_the_lingering_with_the_runs_own_exit_code(locust: Callable[..., Any], tmp_path: Path) -> None:
    with spawn(SimulationSettings(model="m", **FIXED)) as engine:
        path = scenario(tmp_path, engine.url, "users = 1\nrequests = 2")
        process = locust("--config", path, "--headless", "--metrics-port", str(free_port()), "--llmload-linger", "300")
        until(lambda: bool(list(tmp_path.glob("runs/*/summary.json"))), "the run never ended")
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)

    assert process.returncode == 0, err
    assert "Traceback" not in err


def text_at(url: str) -> str:
    try:
        with urlopen(url, timeout=2) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""
