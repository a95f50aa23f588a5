"""A worker that opens its session late sends late, but it measures in the same window as the others."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.loadgen.phases import FOREVER_NS, StageTimeline
from llmload.record import Window
from llmload.scenario.staged import Stage, Staged
from llmload.units import NS_PER_S
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

ROOT = Path(__file__).parents[2]
SLOW_TO_OPEN = """
import os
import signal
from locust import events
from gevent.monkey import get_original
from llmload.loadgen import coordinating, node
from llmload.loadgen.users import CapacityShape, ChatUser, StagedShape, install

opened = node.open_session


def open_slowly(scenario, workload, shard, *further, **named):
    if shard.index == 1:
        SLOWLY
    return opened(scenario, workload, shard, *further, **named)


node.open_session = open_slowly
install(events)


class Chat(ChatUser):
    pass
"""
SHAPE = """

class Shape({}):
    abstract = False
"""
LATE = 'get_original("time", "sleep")(1)  # as the encoding of many prompts does, without letting any greenlet run'
DIES = "os.kill(os.getpid(), signal.SIGKILL)"
STEADY = {"prefill_s_per_token": 0.0, "itl_s": 0.005, "itl_load_factor": 0.0, "output_tokens": 4, "slots": 500}
LOADS: dict[str, tuple[str, str | None, dict[str, float]]] = {
    "open loop": (
        """
kind = "open_loop"
rate_per_s = 60
arrivals = "constant"
duration_s = 5
warmup_s = 1
""",
        None,
        {"run": 60},
    ),
    "spike": (
        """
kind = "spike"
base_rate_per_s = 40
burst_rate_per_s = 100
burst_s = 1
period_s = 3
arrivals = "constant"
duration_s = 8
warmup_s = 1
""",
        None,
        {"base": 40, "burst": 100},
    ),
    "stages with rates": (
        """
kind = "staged"
arrivals = "constant"
warmup_s = 0.5
stages = [{rate_per_s = 60, duration_s = 2.5}, {rate_per_s = 120, duration_s = 2.5}]
""",
        "StagedShape",
        {"stage-1": 60, "stage-2": 120},
    ),
    "capacity": (
        """
kind = "capacity"
search = "rate_per_s"
objectives = ["e2e_s p95 < 5"]
start = 60
at_most = 60
arrivals = "constant"
warmup_s = 0.5
step_min_s = 2
step_max_s = 4
""",
        "CapacityShape",
        {"run": 60, "step-1": 60},
    ),
}
"""Each kind's table, its shape, and the rates that it sends at, by the rows of the summary."""


@pytest.fixture
def slow(engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path) -> Callable[..., str]:
    """Write a scenario whose second worker opens its session slowly, or dies meanwhile."""

    def write(load: str, *, shape: str | None = None, slowly: str = LATE) -> str:
        locustfile = tmp_path / "slow.py"
        locustfile.write_text(SLOW_TO_OPEN.replace("SLOWLY", slowly) + (SHAPE.format(shape) if shape else ""))
        file = write_scenario(engine(**STEADY, ttft_s=0.085).url, load, "[prompts]\nrepeat = true")
        text = file.read_text().replace(f"{ROOT}/locustfiles/chat.py", str(locustfile))
        file.write_text(text.replace('kind = "closed_loop"\n', "", 1))
        return str(file)

    return write


def recounted(folder: Path) -> dict[str, Any]:
    """The summary that a report makes of a run that left none."""
    (folder / "summary.json").unlink()
    [summary] = json.loads(CliRunner().invoke(main, ["report", str(folder), "--json"]).stdout)
    return dict(summary)


def counts(summary: dict[str, Any]) -> list[int]:
    """How many answers began in the window of the run, and in that of each stage."""
    return [row["e2e_s"]["count"] for row in (summary, *summary["stages"])]


def rate_per_s(row: dict[str, Any]) -> float:
    return float(row["e2e_s"]["count"] / row["window_s"])


@pytest.mark.timing
@pytest.mark.parametrize("kind", LOADS)
def test_a_worker_that_is_a_second_late_leaves_rates_and_counts_as_they_are(
    locust: Locust, slow: Callable[..., str], kind: str
) -> None:
    load, shape, rates_per_s = LOADS[kind]

    ended = locust.run("--config", slow(load, shape=shape), "--processes", "2")

    summary, requests = ended.summary, ended.summary["requests"]
    assert requests["started"] == requests["completed"] == len(ended.lines)
    rows = {"run": summary} | {row["name"]: row for row in summary["stages"]}
    for name, expected in rates_per_s.items():
        assert rate_per_s(rows[name]) == pytest.approx(expected, rel=0.03)
    assert counts(recounted(ended.folder)) == pytest.approx(counts(summary), abs=2)


@pytest.mark.timing
def test_a_worker_that_is_a_second_late_leaves_the_rate_of_a_closed_loop_as_it_is(
    locust: Locust, slow: Callable[..., str]
) -> None:
    scenario = slow('kind = "closed_loop"\nusers = 4\nduration_s = 8\nwarmup_s = 1')

    summary = locust.run("--config", scenario, "--processes", "2").summary

    assert rate_per_s(summary) == pytest.approx(4 / summary["e2e_s"]["mean"], rel=0.03)
    assert "concurrency_shortfall" not in {reason["check"] for reason in summary["verdict"]["reasons"]}


def test_a_counted_run_reaches_from_the_first_workers_start_to_the_late_ones_end(
    locust: Locust, slow: Callable[..., str]
) -> None:
    scenario = slow('kind = "closed_loop"\nusers = 4\nrequests = 40')

    ended = locust.run("--config", scenario, "--processes", "2")

    summary = ended.summary
    first_ns, last_ns = min(each["started_ns"] for each in ended.lines), max(each["done_ns"] for each in ended.lines)
    assert summary["window_s"] == pytest.approx((last_ns - first_ns) / NS_PER_S, abs=0.1)
    assert summary["e2e_s"]["count"] == 40
    assert recounted(ended.folder)["window_s"] == pytest.approx(summary["window_s"], abs=0.1)


def test_a_worker_that_dies_while_it_opens_its_session_does_not_keep_the_window_shut(
    locust: Locust, slow: Callable[..., str]
) -> None:
    scenario = slow('kind = "closed_loop"\nusers = 4\nduration_s = 5', slowly=DIES)

    ended = locust.run("--config", scenario, "--processes", "2")

    summary = ended.summary
    assert {reason["check"] for reason in summary["verdict"]["reasons"]} >= {"missing_workers"}
    assert summary["window_s"] == pytest.approx(5, abs=0.15), "from the loss, which a master notices after some seconds"
    assert rate_per_s(summary) == pytest.approx(2 / 0.1, rel=0.1)


@pytest.mark.parametrize("kind", ["closed loop", "open loop"])
def test_a_worker_that_is_late_does_not_shorten_the_window(locust: Locust, slow: Callable[..., str], kind: str) -> None:
    load = {
        "closed loop": 'kind = "closed_loop"\nusers = 4\n',
        "open loop": 'kind = "open_loop"\nrate_per_s = 40\n',
    }[kind]
    scenario = slow(f"{load}duration_s = 3\nwarmup_s = 1", slowly=LATE.replace("(1)", "(3.5)"))

    summary = locust.run("--config", scenario, "--processes", "2").summary

    assert summary["window_s"] == pytest.approx(2.0, abs=0.15)


def test_a_load_whose_workers_do_not_all_start_in_time_measures_nothing(
    locust: Locust, slow: Callable[..., str], tmp_path: Path
) -> None:
    scenario = slow('kind = "closed_loop"\nusers = 4\nduration_s = 2', slowly=LATE.replace("(1)", "(3.5)"))
    with (tmp_path / "slow.py").open("a") as locustfile:
        locustfile.write("coordinating.LATE_S = 0.5\n")

    ended = locust.run("--config", scenario, "--processes", "2")

    assert ended.code == 3
    assert ended.summary["window_s"] is ended.summary["requests_per_min"] is None
    assert "nothing_measured" in {reason["check"] for reason in ended.summary["verdict"]["reasons"]}


def test_stages_with_rates_follow_the_first_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: round(now_s[0] * NS_PER_S))
    stages = [Stage(rate_per_s=2, duration_s=5), Stage(rate_per_s=4, duration_s=5)]
    timeline = StageTimeline(Staged(kind="staged", warmup_s=1, stages=stages), 0)
    now_s[0] = 20
    before: list[object] = [timeline.rate_at(20 * NS_PER_S), timeline.window(0), timeline.elapsed_s(20), timeline.index]
    timeline.begin_first()
    rates = [timeline.rate_at(round(moment_s * NS_PER_S)) for moment_s in (20, 25, 30)]
    seen = []
    for now_s[0] in (21, 25, 27):
        timeline.begin_first()
        timeline.begin(1)
        seen.append((timeline.index, timeline.elapsed_s(99), timeline.measured_s("stage-1")))
    planned = [(span.begin_ns, span.window) for span in timeline.spans()]
    now_s[0] = 33
    timeline.end()

    assert before == [(2, FOREVER_NS), Window(start_ns=None), 0, 0]
    assert rates == [(2, 25 * NS_PER_S), (4, 30 * NS_PER_S), (0, FOREVER_NS)]
    assert seen == [(0, 1, None), (1, 5, 4), (1, 7, 4)]
    assert planned == [
        (begin_s * NS_PER_S, Window(start_ns=(begin_s + 1) * NS_PER_S, end_ns=(begin_s + 5) * NS_PER_S))
        for begin_s in (20, 25)
    ]
    assert timeline.window_s("stage-2") == 4
