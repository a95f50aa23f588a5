"""A load that is edited during the run: each edit begins a phase, and the figures are of the last whole one."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.loadgen.edits import MAX_EDITS
from llmload.simulator import SpawnedEngine
from llmload.units import NS_PER_S
from tests.loadgen.conftest import Ended, Locust, StartEngine, WriteScenario
from tests.loadgen.forked import Forked

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
    process: Forked
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
    shared = (last.keys() & summary.keys()) - {"limited_by"}  # a client that was late at any time limits the run
    assert {key: summary[key] for key in shared} == {key: last[key] for key in shared}
    assert summary["requests"]["censored"] == 0, "users that an edit stops get their answers"
    balanced(ended)


@pytest.mark.parametrize("processes", [ONE, TWO], ids=["one", "two"])
@pytest.mark.timing
def test_an_edited_rate_is_sent_from_the_edit_on(serve: Callable[..., WebRun], processes: tuple[str, ...]) -> None:
    run = serve('kind = "open_loop"\nrate_per_s = 10\narrivals = "constant"\nduration_s = 60', *processes)
    assert run.send(rate="10")["success"]
    run.measured("measuring")
    assert run.send(rate="40")["success"]
    run.measured("phase-2, 40 requests/s", 2.0)
    assert run.state["target_per_s"] == 40
    ended = run.finish()
    summary, (first, second) = ended.summary, ended.manifest["timeline"]["stages"]

    assert [(each["what"], each["before"], each["after"]) for each in ended.manifest["edits"]] == [
        ("rate_per_s", 10, 40)
    ]
    for phase, rate in ((first, 10), (second, 40)):
        opens_s, ends_s = phase["window_start_unix_s"], phase["end_unix_s"]
        due_s = [line["time_s"] - (line["started_ns"] - line["scheduled_ns"]) / NS_PER_S for line in ended.lines]
        due = sum(opens_s <= each < ends_s for each in due_s)
        assert due == pytest.approx(rate * (ends_s - opens_s), abs=3)
    assert (summary["edited"]["phase"], summary["load"]["rate_per_s"]) == ("phase-2", 40)
    assert summary["edited"]["text"] == "the load was edited once: figures are of phase-2, 40 requests/s"
    balanced(ended)


def test_users_that_an_edit_stops_get_their_answers_and_the_window_waits_for_them(
    serve: Callable[..., WebRun],
) -> None:
    run = serve("users = 4\nduration_s = 60", ttft_s=1.5)
    assert run.send(4)["success"]
    run.measured("measuring", 2.0)
    assert run.send(1)["success"]
    until(lambda: json.loads(run.get("stats/requests"))["user_count"] == 1, 1.0)
    assert "warm-up" in run.state["stage"]
    run.measured("phase-2, 1 user", 2.0)
    ended = run.finish()
    _, second = ended.manifest["timeline"]["stages"]
    in_flight = [
        line for line in ended.lines if line["time_s"] < second["start_unix_s"] < line["time_s"] + line["e2e_s"]
    ]

    assert ended.summary["requests"]["censored"] == 0
    assert len(in_flight) == 4
    assert (
        sorted(line["time_s"] + line["e2e_s"] <= second["window_start_unix_s"] for line in in_flight)[-3:] == [True] * 3
    )
    assert most_in_flight(ended, "phase-2") == 1
    assert "GreenletExit" not in ended.err
    balanced(ended)


def test_an_edit_that_changes_nothing_begins_no_phase(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 2\nduration_s = 60")
    assert run.send(2)["success"]
    run.measured("measuring", 0.5)
    assert run.send(2)["success"], "the same"
    assert run.send(2, spawn_rate=5)["success"], "nobody is left to be started at this rate"
    time.sleep(0.5)
    ended = run.finish()

    assert [(each["what"], each["before"], each["after"]) for each in ended.manifest["edits"]] == [
        ("spawn_rate_per_s", 100, 5)
    ]
    assert ended.summary["stages"] == []
    assert "edited" not in ended.summary
    assert ended.summary["window_s"] > 1


def test_what_cannot_be_edited_is_refused_whole(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 2\nduration_s = 60")
    assert run.send(2)["success"]
    run.measured("measuring", 0.5)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"host": "http://127.0.0.1:9"}, "engine.base_url: cannot become"),
        ({"max_tokens": "5"}, "request.max_tokens: cannot become 5 during the run"),
        ({"users": 0}, "load.users: input should be greater than or equal to 1"),
        ({"users": 200, "spawn_rate": 1}, "nothing would be measured: 197 s of ramp and 0 s of warm-up come first"),
    ]
    for further, says in wrong:
        refused = run.send(**{"users": 3, **further})
        assert not refused["success"]
        assert says in refused["message"]
    state = run.state
    ended = run.finish()

    assert (state["stage"], state["users"]) == ("measuring", 2)
    assert ended.manifest["edits"] == []
    assert ended.summary["load"]["users"] == 2


def test_an_edit_keeps_the_time_limit_or_sets_another(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 1\nduration_s = 4")
    assert run.send(1)["success"], "without a limit in the form, the scenario's counts"
    run.measured("measuring", 0.5)
    assert run.send(2)["success"]
    until(lambda: run.state["stage"] == "ended", 6.0)
    assert 3.8 < run.state["elapsed_s"] < 6
    assert [stage["name"] for stage in run.state["stages"]] == ["phase-1", "phase-2"]

    assert run.send(1, run_time="40s")["success"]
    run.measured("measuring", 0.5)
    assert run.send(1, run_time="1s")["success"]
    until(lambda: run.state["stage"] == "ended", 4.0)
    ended = run.finish()
    (edit,) = ended.manifest["edits"]
    assert (edit["what"], edit["before"]) == ("duration_s", 40)
    assert 1.5 <= edit["after"] < 3


def test_edits_during_the_ramp_and_within_a_second(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 40\nspawn_rate_per_s = 2\nduration_s = 60\nwarmup_s = 0.2")
    assert run.send(40, spawn_rate=2)["success"]
    until(lambda: run.state.get("users", 0) >= 2)
    for users in (5, 3, 4):
        assert run.send(users)["success"]
    run.measured("phase-4, 4 users")
    assert run.send(6)["success"]
    ended = run.finish()  # before the phase's window opens

    names = [(stage["name"], stage["users"], stage["window_s"] is None) for stage in ended.summary["stages"]]
    assert names == [
        ("phase-1", 40, True),
        ("phase-2", 5, True),
        ("phase-3", 3, True),
        ("phase-4", 4, False),
        ("phase-5", 6, True),
    ]
    assert ended.summary["edited"]["phase"] == "phase-4"
    assert ended.summary["load"]["users"] == most_in_flight(ended, "phase-4") == 4
    balanced(ended)


def test_without_a_whole_phase_there_are_no_figures(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 2\nduration_s = 60\nwarmup_s = 3")
    assert run.send(2)["success"]
    until(lambda: run.state.get("completed"))
    assert run.send(3)["success"]
    until(lambda: run.state["stage"] == "phase-2, 3 users, warm-up")
    time.sleep(0.5)
    ended = run.finish()

    assert ended.summary["verdict"]["level"] == "INVALID"
    assert "load_edited" in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}
    assert ended.summary["requests_per_min"] is ended.summary["ttft_s"] is ended.summary["window_s"] is None
    assert ended.summary["requests"]["completed"] > 0
    assert ended.summary["edited"]["phase"] is None
    assert ended.code == 3


def test_a_counted_load_is_edited_too_and_sends_its_requests(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 2\nrequests = 60", *TWO)
    assert run.send(2)["success"]
    until(lambda: run.state.get("completed", 0) >= 6)
    refused = run.send(1)
    assert not refused["success"]
    assert "fewer than the 2 workers" in refused["message"]
    assert run.send(6)["success"]
    until(lambda: run.state["stage"] == "ended")
    ended = run.finish()

    assert ended.summary["requests"]["completed"] == 60
    assert [stage["users"] for stage in ended.summary["stages"]] == [2, 6]
    assert ended.summary["edited"]["phase"] == "phase-2"
    balanced(ended)


def test_a_run_that_crashed_after_an_edit_has_the_same_phases(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 2\nduration_s = 60")
    assert run.send(2)["success"]
    run.measured("measuring")
    assert run.send(4)["success"]
    run.measured("phase-2, 4 users")
    os.killpg(run.process.pid, signal.SIGKILL)
    run.process.communicate()
    (folder,) = run.locust.out.iterdir()
    result = CliRunner().invoke(main, ["report", str(folder), "--json"])
    (summary,) = json.loads(result.output)

    assert [(stage["name"], stage["users"]) for stage in summary["stages"]] == [("phase-1", 2), ("phase-2", 4)]
    assert (summary["edited"]["phase"], summary["load"]["users"]) == ("phase-2", 4)
    assert summary["window_s"] == summary["stages"][1]["window_s"]
    assert all(stage["ttft_s"]["count"] > 0 for stage in summary["stages"])


def test_a_comparison_refuses_a_mixture(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 2\nduration_s = 60")
    for edited in (True, False):
        assert run.send(2 if edited else 4)["success"]
        run.measured("measuring")
        if edited:
            assert run.send(4)["success"]
            run.measured("phase-2, 4 users")
            run.post("stop")
    run.finish()
    mixture, plain = sorted(map(str, run.locust.out.iterdir()))
    refused = CliRunner().invoke(main, ["compare", mixture, plain])
    allowed = CliRunner().invoke(main, ["compare", mixture, plain, "--allow", "load", "--allow", "invalid"])

    assert refused.exit_code == 2
    assert "is a mixture: the load was edited once: figures are of phase-2, 4 users (--allow load)" in refused.output
    assert "load: users" not in refused.output, "both are of 4 users"
    assert "is a mixture" in allowed.output
    assert allowed.exit_code != 2


def test_a_run_has_a_bounded_number_of_phases(serve: Callable[..., WebRun]) -> None:
    run = serve("users = 1\nduration_s = 60")
    assert run.send(1)["success"]
    run.measured("measuring", 0.3)
    for index in range(MAX_EDITS):
        assert run.send(2 - index % 2)["success"]
    refused = run.send(3)
    run.measured("phase-21, 1 user")
    ended = run.finish()

    assert not refused["success"]
    assert refused["message"] == "the load was edited 20 times in this run: stop it and start another"
    assert len(ended.summary["stages"]) == len(ended.manifest["edits"]) + 1 == 21
    assert ended.summary["edited"]["phase"] == "phase-21"
    balanced(ended)
