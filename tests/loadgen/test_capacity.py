"""A search for a capacity as a real Locust run: found where the engine's slots say, drained, shown and written down."""

import time
from typing import Any

import gevent
import numpy as np
import pytest

from llmload.errors import ConfigError
from llmload.loadgen.capacity_driver import CapacityDriver
from llmload.loadgen.commanded import StepTimeline
from llmload.loadgen.messages import Step
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.session import ConcurrencyLimit
from llmload.metrics.totals import RunTotals
from llmload.scenario import load_scenario
from llmload.scenario.capacity import Capacity
from llmload.scenario.reading import find_scenario
from llmload.stats.histogram import Histogram
from tests.loadgen.conftest import Ended, Locust, StartEngine, WriteScenario

SERVICE_S = 0.3
ENGINE = {"slots": 4, "ttft_s": 0.1, "prefill_s_per_token": 0.0, "itl_s": 0.05, "itl_load_factor": 0.0}


def searching(write: WriteScenario, url: str, load: str) -> str:
    file = write(url, load, "[prompts]\nrepeat = true")
    text = file.read_text().replace('kind = "closed_loop"', 'kind = "capacity"')
    file.write_text(text.replace("chat.py", "chat_capacity.py"))
    return str(file)


def unless_invalid(code: int, ended: Ended) -> int:
    """The exit code, or 3 where a busy machine made the load generator too late to measure anything."""
    return 3 if ended.summary["verdict"]["level"] == "INVALID" else code


def test_the_search_finds_the_users_that_the_slots_answer_in_time(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    """Each of U users waits U / 4 service times once the slots are full: 1.6 of them are allowed, so six may come."""
    url = engine(**ENGINE, output_tokens=5).url
    load = f"""
objectives = ["e2e_s mean < {1.62 * SERVICE_S}"]
start = 4
at_most = 16
precision = 0.4
warmup_s = 0.3
step_min_s = 1.5
step_max_s = 4
step_min_requests = 20
"""
    ended = locust.run("--config", searching(write_scenario, url, load), "--processes", "2")

    capacity, requests = ended.summary["capacity"], ended.summary["requests"]
    assert ended.code == unless_invalid(0, ended), ended.err
    assert 4 <= capacity["passes"] <= 6
    assert capacity["passes"] < capacity["fails"] <= 8
    assert capacity["ended"] == "precision"
    step = next(point for point in capacity["curve"] if point["name"] == capacity["step"])
    assert step["passed"]
    assert ended.summary["requests_per_min"] == capacity["requests_per_min"] == step["requests_per_min"]
    assert ended.summary["window_s"] == step["window_s"]
    assert step["requests_per_min"] == pytest.approx(4 / SERVICE_S * 60, rel=0.2)
    assert [stage["name"] for stage in ended.summary["stages"]] == [point["name"] for point in capacity["curve"]]
    assert requests["started"] == requests["completed"] == len(ended.lines)
    assert {line["stage"] for line in ended.lines} <= {point["name"] for point in capacity["curve"]}
    steps = ended.manifest["timeline"]["stages"]
    assert [each["name"] for each in steps] == [point["name"] for point in capacity["curve"]]
    assert all(each["start_unix_s"] < each["window_start_unix_s"] < each["end_unix_s"] for each in steps)
    assert f"capacity  {capacity['passes']:g} users" in ended.out


def test_a_search_by_rate_in_which_nothing_passes_ends_with_exit_code_1(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    url = engine(**ENGINE | {"ttft_s": 0.8, "slots": 64}, output_tokens=2).url
    load = """
search = "rate_per_s"
objectives = ["ttft_s p50 < 0.5"]
start = 20
at_least = 20
warmup_s = 0.2
step_min_s = 1
step_max_s = 3
"""
    ended = locust.run("--config", searching(write_scenario, url, load))

    capacity = ended.summary["capacity"]
    assert ended.code == unless_invalid(1, ended), ended.err
    assert (capacity["passes"], capacity["fails"], capacity["ended"]) == (None, 20, "at_least")
    assert ended.summary["requests_per_min"] is None
    assert ended.summary["ttft_s"] is None
    assert "not even the smallest load passes" in ended.out


def test_a_search_without_objectives_is_refused_before_anything_is_sent(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    ended = locust.run("--config", searching(write_scenario, engine().url, ""))

    assert ended.code == 2
    assert "load.objectives is missing: say what a load must meet" in ended.err


@pytest.mark.parametrize(
    ("name", "shape", "needs"),
    [
        ("demo-capacity", None, "chat_capacity.py"),
        ("demo", "capacity", "chat.py"),
        ("demo-staged", None, "chat_staged.py"),
    ],
)
def test_a_locustfile_that_drives_another_load_is_refused(name: str, shape: str | None, needs: str) -> None:
    scenario = load_scenario(find_scenario(name))

    with pytest.raises(ConfigError, match=f"needs another locustfile, such as locustfiles/{needs} "):
        scenario.load.check_shape(shape)
    scenario.load.check_shape(scenario.load.kind if scenario.load.kind != "closed_loop" else None)


def test_a_lower_limit_cuts_nobody_and_a_higher_one_counts_at_once() -> None:
    limit, sending, most = ConcurrencyLimit(2), [0], [0]

    def user() -> None:
        while True:
            with limit.acquire():
                sending[0] += 1
                most[0] = max(most[0], sending[0])
                gevent.sleep(0.002)
                sending[0] -= 1

    users = [gevent.spawn(user) for _ in range(8)]
    for count in (2, 6, 1, 3, 8, 2):
        limit.resize(count)
        gevent.sleep(0.02)
        most[0] = 0
        gevent.sleep(0.05)
        assert most[0] == count
    gevent.killall(users)


def test_a_steps_window_reaches_from_the_command_to_measure_to_the_next_step() -> None:
    clock = StepTimeline(Capacity(kind="capacity", start=2), time.monotonic_ns())
    assert clock.window(0).start_ns is None

    for command in (
        StepCommand(index=0, load=2, measured=True),
        StepCommand(index=0, load=2, measured=True),
        StepCommand(index=1, load=4),
        StepCommand(index=1, load=4, measured=True),
    ):
        time.sleep(0.002)
        clock.apply(command)
    first, second = clock.window(0), clock.window(1)
    clock.end()

    assert [phase.users for phase in clock.phases] == [2, 4]
    assert clock.name_of(1) == "step-2"
    assert first.start_ns is not None
    assert first.end_ns is not None
    assert second.start_ns is not None
    assert first.start_ns < first.end_ns < second.start_ns
    assert second.end_ns is None
    assert clock.window_s("step-2") is not None
    assert clock.name_at(first.start_ns) == "step-1"


def test_an_open_loop_rests_while_it_is_paused() -> None:
    clock = StepTimeline(Capacity(kind="capacity", search="rate_per_s", start=2.5), time.monotonic_ns())

    assert clock.rate_per_s == 2.5
    clock.apply(StepCommand(index=1, load=1.25, paused=True))
    assert clock.rate_per_s == 0
    clock.apply(StepCommand(index=1, load=1.25))
    assert (clock.rate_per_s, clock.name_of(1)) == (1.25, "step-2")


def test_a_command_is_the_same_after_its_message() -> None:
    command = StepCommand(index=3, load=7.5, paused=False, measured=True, closed=True, shape=2)

    assert Step.model_validate(Step.of("run", command).to_wire()).command == command


class MadeUp:
    """An engine that is only figures: TTFT is 10 ms for every user, twenty answers come at each look."""

    def __init__(self, clock: StepTimeline, lag_s: float = 0.0) -> None:
        self.clock, self.lag_s = clock, lag_s
        self.ended = 0
        self.stages: dict[str, RunTotals] = {}
        self.lag = Histogram()

    def command_step(self, command: StepCommand) -> None:
        self.clock.apply(command)

    def counts(self) -> tuple[int, int]:
        self.ended += 20
        return self.ended, 0

    def step_totals(self, name: str) -> RunTotals:
        totals = self.stages.setdefault(name, RunTotals())
        users = self.clock.phases[self.clock.index].users or 0
        totals.completed_in_window += 20
        for name in ("ttft_s", "e2e_s"):
            totals.distributions[name].add_many(np.full(20, 0.01 * users))
        return totals

    def users(self) -> int:
        return 1_000_000

    def sender_cpu_usage(self) -> float:
        return 0.0

    def loop_lag(self) -> Histogram:
        self.lag.add_many(np.full(5, self.lag_s))
        return self.lag


def searched(monkeypatch: pytest.MonkeyPatch, lag_s: float = 0.0, **keys: Any) -> tuple[CapacityDriver, MadeUp]:
    monkeypatch.setattr("llmload.loadgen.capacity_driver.PERIOD_S", 0.002)
    load = Capacity(
        kind="capacity", objectives=["ttft_s p95 < 0.105"], warmup_s=0, step_min_s=0.02, step_max_s=0.2, **keys
    )
    clock = StepTimeline(load, time.monotonic_ns())
    search, engine = CapacityDriver(load, load.all_objectives(limits=False), clock, drain_s=1.0), MadeUp(clock, lag_s)
    search.run(engine)
    clock.end()
    return search, engine


def test_the_search_drives_step_after_step(monkeypatch: pytest.MonkeyPatch) -> None:
    search, engine = searched(monkeypatch)
    found = search.summary(engine.stages)

    assert (found.passes, found.fails, found.ended, found.significant) == (10, 11, "precision", True)
    assert [point.users for point in found.curve][:6] == [1, 2, 4, 8, 16, 11]
    assert found.requests_per_min_interval is not None
    assert search.max_users == 16


def test_a_load_is_not_blamed_for_a_late_load_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    search, engine = searched(monkeypatch, lag_s=0.2, at_most=16)
    tried = [step for step in search.steps if step.load == 16]
    curve = {point.name: point for point in search.summary(engine.stages).curve}

    assert [step.invalidated is not None for step in tried] == [True, True, False]
    assert curve[tried[0].name].passed is None
    assert curve[tried[0].name].reason == "invalidated: llmload itself ran 0.2 s late"
    assert curve[tried[2].name].passed is False
    assert curve[tried[2].name].significant is False
    assert curve[tried[2].name].reason.endswith(", but llmload itself ran 0.2 s late")
    assert search.plan.passes_at == 10


def test_a_step_fails_if_its_last_answers_fail_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    search, engine = searched(monkeypatch)
    for step in search.steps:
        if step.load == 10:
            engine.stages[step.name].distributions["ttft_s"].add_many(np.full(400, 9.0))
    found = search.summary(engine.stages)

    assert found.passes == 9
    late = next(point for point in found.curve if point.load == 10)
    assert late.passed is False
    assert late.reason.startswith("fails with its last answers: ttft_s p95 ")


def test_a_search_that_is_out_of_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    search, engine = searched(monkeypatch, duration_s=0.03)

    assert search.finished
    assert search.summary(engine.stages).ended == "stopped"


def test_a_step_that_is_measured_before_its_users_run_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MadeUp, "users", lambda _: 3)
    search, _ = searched(monkeypatch, at_most=8)

    short = {step.name for step in search.steps if step.load > 3}
    assert short
    assert search.unreached == dict.fromkeys(short, 3)
