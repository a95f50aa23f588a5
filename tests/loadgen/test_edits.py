"""A load that is edited during the run: each edit begins a phase, and the figures are of the last whole one."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import Popen
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest

from llmload.simulator import SpawnedEngine
from tests.loadgen.conftest import Ended, Locust, StartEngine, WriteScenario

SETTINGS = {"ttft_s": 0.04, "prefill_s_per_token": 0.0, "itl_s": 0.02, "itl_load_factor": 0.0, "output_tokens": 9}
REPEAT = "[prompts]\nrepeat = true"
OPENER = build_opener(ProxyHandler({}))


def until(true: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)
    return found


@dataclass
class WebRun:
    """A run of a Locust process with its web UI, driven over HTTP."""

    root: str
    process: "Popen[str]"
    locust: Locust
    engine: SpawnedEngine

    def get(self, path: str) -> str:
        with OPENER.open(self.root + path) as answer:
            text: str = answer.read().decode()
            return text

    def post(self, path: str, **form: object) -> Any:
        with OPENER.open(self.root + path, data=urlencode(form).encode()) as answer:
            return json.load(answer)

    def send(self, users: int = 1, spawn_rate: float = 100, **further: object) -> Any:
        """Send the start form, or the form for an edit."""
        return self.post("swarm", user_count=users, spawn_rate=spawn_rate, **further)

    @property
    def state(self) -> Any:
        return json.loads(self.get("llm/state"))

    def measured(self, stage: str, for_s: float = 1.0) -> None:
        """Wait until the run measures this stage for some time."""

        def enough() -> bool:
            state = self.state
            measured_s = state["stages"][-1]["measured_s"] if state.get("stages") else state.get("window_s")
            return state["stage"] == stage and (measured_s or 0) >= for_s

        until(enough)

    def finish(self) -> Ended:
        self.post("stop")
        os.killpg(self.process.pid, signal.SIGINT)
        return self.locust.finish(self.process)


@pytest.fixture
def serve(engine: StartEngine, locust: Locust, write_scenario: WriteScenario) -> Callable[..., WebRun]:
    """Start Locust with its web UI, by this load."""

    def start(load: str, *arguments: str, **settings: Any) -> WebRun:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        simulated = engine(**(SETTINGS | settings))
        scenario = write_scenario(simulated.url, load, REPEAT)
        if "kind" in load:
            scenario.write_text(scenario.read_text().replace('kind = "closed_loop"\n', ""))
        process = locust.start("--config", str(scenario), "--web-port", str(port), *arguments)
        run = WebRun(f"http://127.0.0.1:{port}/", process, locust, simulated)

        def ready() -> bool:
            assert process.poll() is None, process.communicate()
            try:
                workers = [each["state"] for each in json.loads(run.get("stats/requests")).get("workers", [])]
            except OSError:
                return False
            return workers == (["ready"] * 2 if "--processes" in arguments else [])

        until(ready)
        return run

    return start


def balanced(ended: Ended) -> None:
    counts = ended.summary["requests"]
    assert counts["started"] == counts["completed"] + counts["failed"] + counts["censored"] == len(ended.lines)


def most_in_flight(ended: Ended, name: str) -> int:
    """Return how many requests were in flight at most at a time in a phase's window."""
    phase = next(each for each in ended.manifest["timeline"]["stages"] if each["name"] == name)
    opens_s, ends_s = phase["window_start_unix_s"], phase["end_unix_s"]
    spans: list[tuple[float, float]] = [(line["time_s"], line["time_s"] + line["e2e_s"]) for line in ended.lines]
    starts: list[float] = [opens_s, *(start for start, _ in spans if opens_s < start < ends_s)]
    return max(sum(1 for start, end in spans if start <= moment < end) for moment in starts)


ONE, TWO = (), ("--processes", "2")


@pytest.mark.parametrize("processes", [ONE, TWO], ids=["one", "two"])
def test_each_edit_is_noted_and_begins_a_phase(serve: Callable[..., WebRun], processes: tuple[str, ...]) -> None:
    run = serve("users = 2\nduration_s = 60\nwarmup_s = 0.3", *processes)
    assert run.send(2)["success"]
    run.measured("measuring")
    assert run.send(6)["success"]
    run.measured("phase-2, 6 users")
    assert run.send(4)["success"]
    run.measured("phase-3, 4 users", 1.5)
    ended = run.finish()
    summary, manifest = ended.summary, ended.manifest

    assert [(each["what"], each["before"], each["after"]) for each in manifest["edits"]] == [
        ("users", 2, 6),
        ("users", 6, 4),
    ]
    assert [(each["name"], each["users"]) for each in summary["stages"]] == [
        ("phase-1", 2),
        ("phase-2", 6),
        ("phase-3", 4),
    ]
    assert summary["edited"]["phase"] == "phase-3"
    assert summary["load"]["users"] == 4
    assert [most_in_flight(ended, name) for name in ("phase-1", "phase-2", "phase-3")] == [2, 6, 4]
    assert all(stage["ttft_s"]["count"] > 0 for stage in summary["stages"])
    last = summary["stages"][-1]
    assert {key: summary[key] for key in last.keys() & summary.keys()} == {
        key: last[key] for key in last.keys() & summary.keys()
    }
    assert summary["requests"]["censored"] == 0, "users that an edit stops get their answers"
    balanced(ended)
