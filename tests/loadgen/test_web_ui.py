"""The same scenario in Locust's web UI, driven over HTTP: several runs of one process, each with its folder."""

import json
import os
import re
import signal
import time
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from llmload.scenario.reading import free_port
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario, truth, until_log_holds

FIXED = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 8}


def get(url: str, timeout_s: float = 30.0) -> str:
    end = time.monotonic() + timeout_s
    while True:
        try:
            with urlopen(url) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_each_start_from_the_form_is_a_run_with_a_folder(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    scenario = write_scenario(engine(**FIXED).url, "users = 3\nduration_s = 60", "[prompts]\nrepeat = true")
    port = free_port()
    process = locust.start("--config", str(scenario), "--web-port", str(port))
    page = get(f"http://127.0.0.1:{port}/")
    assert '"num_users": 3' in page, "the form begins with the scenario's load"

    for users in (2, 4):
        form = urlencode({"user_count": users, "spawn_rate": 10, "host": "", "run_time": ""}).encode()
        with urlopen(f"http://127.0.0.1:{port}/swarm", data=form) as answer:
            assert json.load(answer)["success"]
        time.sleep(1.5)
        with urlopen(f"http://127.0.0.1:{port}/stop", data=b"") as answer:
            assert json.load(answer)["success"]
    os.killpg(process.pid, signal.SIGINT)
    ended = locust.finish(process)

    summaries = [json.loads((run / "summary.json").read_text()) for run in sorted(locust.out.iterdir())]
    assert ended.code == 3, "the last run was stopped before its 60 s were over"
    assert sorted(summary["load"]["users"] for summary in summaries) == [2, 4]
    for summary in summaries:
        requests = summary["requests"]
        assert requests["started"] == requests["completed"] > 0
        first = summary["verdict"]["reasons"][0]
        assert (first["check"], first["level"]) == ("ended_early", "INVALID")
        assert re.fullmatch(r"the stop button ended the run after 1\.\d* of 60 s", first["text"])


def test_by_default_only_this_machine_is_served(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    port = free_port()
    scenario = write_scenario(engine(**FIXED).url, "users = 1\nrequests = 1")
    process = locust.start("--config", str(scenario), "--web-port", str(port))
    get(f"http://127.0.0.1:{port}/")
    listening = Path("/proc/net/tcp").read_text()
    os.killpg(process.pid, signal.SIGINT)
    locust.finish(process)

    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["one-process", "two-workers"])
def test_a_signal_during_a_run_ends_it_early_and_then_the_web_ui(
    engine: StartEngine,
    locust: Locust,
    write_scenario: WriteScenario,
    tmp_path: Path,
    number: signal.Signals,
    processes: tuple[str, ...],
) -> None:
    log = tmp_path / "truth.jsonl"
    url = engine(**FIXED, log=log).url
    scenario = write_scenario(url, "users = 2\nrequests = 1000", "[prompts]\nrepeat = true")
    port = free_port()
    process = locust.start("--config", str(scenario), "--web-port", str(port), "--autostart", *processes)
    until_log_holds(log, 6)
    page = get(f"http://127.0.0.1:{port}/")
    process.send_signal(number)
    ended = locust.finish(process, 20.0)

    assert '"max_tokens": {' in page, "the start form lacks llmload's fields"
    first, requests = ended.summary["verdict"]["reasons"][0], ended.summary["requests"]
    assert ended.code == 130, ended.err
    assert "Traceback" not in ended.err
    assert re.fullmatch(rf"{number.name} ended the run after \d+ of 1000 requests", first["text"])
    assert requests["started"] == requests["completed"] == len(ended.lines) == len(truth(log))
