"""A sweep over loads: driven from point to point on an engine of figures, and as a real Locust run."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmload.client.engine_control import EngineControl
from llmload.errors import EngineError
from llmload.loadgen.commanded import StepTimeline
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.sweep_driver import SweepDriver
from llmload.metrics.totals import RunTotals
from llmload.runs.sweep import SweepPoint, SweepResult
from llmload.scenario.sweep import Sweep
from llmload.stats.histogram import Histogram
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario
from tests.run_files import scenario_of


class MadeUp:
    """An engine that is only figures: TPOT grows with users, and from eight users on it brings no more."""

    def __init__(self, clock: StepTimeline, *, lag_s: float = 0.0, running: int = 1_000_000) -> None:
        self.clock, self.running = clock, running
        self.commands: list[StepCommand] = []
        self.stages: dict[str, RunTotals] = {}
        self.ended, self.in_flight = 0, 0
        self._lag_s, self._lag = lag_s, Histogram()

    def command_step(self, command: StepCommand) -> None:
        self.commands.append(command)
        self.clock.apply(command)

    def counts(self) -> tuple[int, int]:
        self.ended += 20
        return self.ended, self.in_flight

    def step_totals(self, name: str) -> RunTotals:
        totals, command = self.stages.setdefault(name, RunTotals()), self.commands[-1]
        if command.measured and not command.closed:
            users = int(command.load)
            tpot_s = 0.01 * max(1.0, users / 8)
            totals.completed_in_window += users
            totals.token_sources["usage"] += users
            totals.window_tokens = (self.clock.measured_s(name) or 0.0) * users / tpot_s
            totals.busy_s = (self.clock.measured_s(name) or 0.0) * users
            known = {"tpot_s": tpot_s, "ttft_s": 0.05, "e2e_s": 1.0, "request_prompt_tokens": 30.0}
            for figure, value in known.items():
                totals.distributions[figure].add_many(np.full(users, value))
        return totals

    def users(self) -> int:
        return self.running

    def loop_lag(self) -> Histogram:
        self._lag.add_many(np.full(5, self._lag_s))
        return self._lag

    def sender_cpu_usage(self) -> float:
        return 40.0


class Resets:
    """In place of the engine's own pages: how often its cache was emptied, and its number of GPUs."""

    def __init__(self, *, why: str | None = None, gpus: int | None = None) -> None:
        self.why, self.count, self.reported = why, 0, gpus


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> Callable[[Resets], EngineControl]:
    def of(resets: Resets) -> EngineControl:
        def reset(_: EngineControl) -> str | None:
            resets.count += 1
            return resets.why

        monkeypatch.setattr(EngineControl, "reset_prefix_cache", reset)
        monkeypatch.setattr(EngineControl, "gpus", lambda _: resets.reported)
        return EngineControl(name="vllm", base_urls=["http://127.0.0.1:1"])

    return of


SHORT: dict[str, Any] = {"kind": "sweep", "point_min_s": 0.01, "requests_per_user": 2, "rounds": 1}


@pytest.fixture
def swept(
    monkeypatch: pytest.MonkeyPatch, control: Callable[[Resets], EngineControl]
) -> Callable[..., tuple[SweepDriver, MadeUp, SweepResult]]:
    monkeypatch.setattr("llmload.loadgen.sweep_driver.SAMPLE_S", 0.002)
    monkeypatch.setattr("llmload.loadgen.step_driver.PERIOD_S", 0.002)

    def run(
        resets: Resets | None = None,
        scenario: dict[str, Any] | None = None,
        engine: dict[str, Any] | None = None,
        **keys: Any,
    ) -> tuple[SweepDriver, MadeUp, SweepResult]:
        whole = scenario_of(load={**SHORT, **keys}, **{"prompts": {"repeat": True}, **(scenario or {})})
        assert isinstance(whole.load, Sweep)
        clock = StepTimeline(whole.load, time.monotonic_ns())
        driver = SweepDriver(whole.load, whole, clock, control(resets or Resets()))
        host = MadeUp(clock, **(engine or {}))
        driver.prepare()
        driver.run(host)
        clock.end()
        return driver, host, driver._result(host.stages, RunTotals(), driver.gpus)

    return run


def by_load(result: SweepResult) -> dict[float, SweepPoint]:
    return {point.load: point for point in result.points}


def test_each_point_is_paused_started_measured_and_closed(swept: Callable[..., Any]) -> None:
    driver, host, result = swept(users=[1, 2, 4])
    of_second = [(c.paused, c.measured, c.closed) for c in host.commands if c.index == 1]

    assert of_second == [(True, False, False), (False, False, False), (False, True, False), (False, True, True)]
    assert [point.name for point in result.points] == ["1 user", "2 users", "4 users"]
    assert result.complete
    assert driver.undone is None
    assert driver.max_users == 4
    assert len(driver.measured) == 3
    assert [phase.users for phase in host.clock.phases] == [1, 2, 4]


def test_figures_are_those_of_the_engine_and_the_front_is_the_one_computed(swept: Callable[..., Any]) -> None:
    _, _, result = swept(users=[2, 8, 16, 32, 64], least_growth=0)
    points = by_load(result)

    assert points[2].tokens_per_s_per_user.mean == pytest.approx(100, rel=0.002)
    assert points[2].tokens_per_s_per_user.median == pytest.approx(100, rel=0.002)
    assert points[16].tokens_per_s_per_user.p90 == pytest.approx(50, rel=0.002)
    assert points[16].tokens_per_s_per_user.share == pytest.approx((points[16].output_tokens_per_s or 0) / 16)
    assert result.front.median[-1] in {"2 users", "8 users"}, "as fast for a user; eight bring more"
    assert "2 users" not in result.front.median


def test_a_ladder_that_brings_no_more_ends(swept: Callable[..., Any]) -> None:
    _, _, result = swept(users=[4, 8, 16, 32, 64, 128], least_growth=0.3)

    assert [point.users for point in result.points] == [4, 8, 16, 32]
    assert result.ended == "2 loads in a row brought less than 30% more tok/s"


def test_a_gate_that_is_missed_ends_the_ladder_and_its_point_is_not_the_best(swept: Callable[..., Any]) -> None:
    driver, host, result = swept(users=[4, 16, 32], scenario={"gates": {"objectives": ["tpot_s p50 < 0.015"]}})

    assert [point.users for point in result.points] == [4, 16]
    assert result.points[1].missed_gates == ("tpot_s p50 0.02, required < 0.015",)
    assert driver.found(host.stages).totals is host.stages[result.points[0].stages[-1]]


def test_where_every_load_misses_a_gate_it_is_judged_by_the_lowest(swept: Callable[..., Any]) -> None:
    driver, host, result = swept(users=[4, 16], scenario={"gates": {"objectives": ["tpot_s p50 < 0.001"]}})

    assert [point.users for point in result.points] == [4]
    assert driver.found(host.stages).totals is host.stages["step-1"]


def test_a_sweep_of_invalid_points_is_invalid_and_one_with_some_says_so(swept: Callable[..., Any]) -> None:
    driver, host, _ = swept(users=[2, 4], engine={"running": 3}, point_max_s=0.05)
    (some,) = driver.unmeasured(host.stages)
    driver, host, _ = swept(users=[4], engine={"running": 3}, point_max_s=0.05)
    (all_of_them,) = driver.unmeasured(host.stages)

    assert (some.level, some.text.partition(":")[0]) == ("DEGRADED", "1 of 2 points INVALID (4 users)")
    assert all_of_them.level == "INVALID"


def test_three_rounds_give_an_interval_by_their_spread(swept: Callable[..., Any]) -> None:
    _, host, result = swept(users=[1, 2], rounds=3)
    point = by_load(result)[2]

    assert point.stages == ("step-2", "step-4", "step-6")
    assert result.interval_from == "rounds"
    assert point.completed == sum(host.stages[name].completed_in_window for name in point.stages)
    low, high = point.output_tokens_per_s_interval or (0, 0)
    assert low <= (point.output_tokens_per_s or 0) <= high


def test_the_cache_is_emptied_before_each_point_and_a_failure_is_said_of_it(swept: Callable[..., Any]) -> None:
    resets = Resets()
    _, _, good = swept(resets, users=[1, 2, 4], between="reset_prefix_cache")
    assert resets.count == 3
    assert not any("prefix_cache_kept" in str(point.verdict) for point in good.points)


def test_an_engine_whose_cache_cannot_be_emptied_is_refused(
    swept: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MadeUp, "command_step", lambda *_: pytest.fail("something was sent"))

    with pytest.raises(EngineError, match=r"load.between = 'reset_prefix_cache': none"):
        swept(Resets(why="none"), users=[1], between="reset_prefix_cache")


def test_a_point_says_what_it_lacks(swept: Callable[..., Any]) -> None:
    _, _, short = swept(users=[4], requests_per_user=10_000, point_max_s=0.02)
    assert [(r.check, r.level) for r in short.points[0].verdict.reasons] == [("few_answers", "DEGRADED")]
    assert "answers that the point was to have: point_max_s = 0.02 was over" in short.points[0].verdict.reasons[0].text

    _, _, few = swept(users=[4], engine={"running": 3}, point_max_s=0.05)
    assert few.points[0].verdict.level == "INVALID"
    assert few.points[0].client_bound
    assert few.front.median == (), "a point that is INVALID is on no front"

    _, _, late = swept(users=[4], engine={"lag_s": 0.2})
    assert late.points[0].client_bound


@pytest.mark.parametrize(
    ("scenario", "reported", "counted"),
    [
        ({"deployment": {"gpus": 4}}, 8, (4, "scenario")),
        ({"deployment": {"gpus": 0}}, 8, (None, None)),
        ({}, 8, (8, "engine")),
        ({"deployment": {"tensor_parallel": 2}}, None, (None, None)),
    ],
)
def test_gpus_are_asked_read_or_not_known(
    swept: Callable[..., Any], scenario: dict[str, Any], reported: int | None, counted: tuple[int | None, str | None]
) -> None:
    _, _, result = swept(Resets(gpus=reported), scenario, users=[2])
    gpus = counted[0]

    assert (result.gpus, result.gpus_counted_from) == counted
    if reported and gpus:
        assert result.gpus_said["engine"] == reported
    (point,) = result.points
    per_gpu = (point.output_tokens_per_s_per_gpu, point.input_tokens_per_s_per_gpu)
    known = pytest.approx((point.output_tokens_per_s / (gpus or 1), 30 * point.requests_per_min / 60 / (gpus or 1)))
    assert per_gpu == ((None, None) if gpus is None else known)


def test_each_shape_of_prompts_has_its_own_points_and_front(swept: Callable[..., Any]) -> None:
    shapes = {"prompts": {"shapes": [[64, 8], [256, 8]]}}
    _, host, result = swept(scenario=shapes, users=[4, 8])

    assert [point.name for point in result.points] == [
        *("64/8, 4 users", "64/8, 8 users"),
        *("256/8, 4 users", "256/8, 8 users"),
    ]
    assert [command.shape for command in host.commands if command.measured and not command.closed] == [0, 0, 1, 1]
    assert {name.partition(",")[0] for name in result.front.median} == {"64/8", "256/8"}

    _, _, mixed = swept(scenario=shapes, users=[4], each_shape=False)
    assert [point.name for point in mixed.points] == ["4 users"]


def test_a_sweep_over_rates_pauses_in_the_same_way(swept: Callable[..., Any]) -> None:
    _, host, result = swept(rates_per_s=[2.0, 4.5], requests_per_rate=8)

    assert [point.name for point in result.points] == ["2 req/s", "4.5 req/s"]
    assert any(command.paused for command in host.commands)


def test_a_real_sweep_has_a_stage_for_each_round_and_the_figures_of_its_best_point(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    shapes = "[prompts]\nshapes = [[32, 8], [48, 4]]"
    url = engine(slots=8, ttft_s=0.02, prefill_s_per_token=0.0, itl_s=0.01, itl_load_factor=1.0, output_tokens=8).url
    file = write_scenario(url, "requests_per_user = 4\nusers = [1, 4]\nrounds = 1\npoint_min_s = 0.4", shapes)
    text = file.read_text().replace('kind = "closed_loop"', 'kind = "sweep"')
    file.write_text(text.replace("chat.py", "chat_sweep.py"))

    ended = locust.run("--config", str(file))
    sweep = ended.summary["sweep"]
    points = {point["users"]: point for point in sweep["points"] if point["input_tokens"] == 32}
    short = [point for point in sweep["points"] if point["input_tokens"] == 48]

    assert ended.code in (0, 3), ended.err  # 3 where a busy machine made the load generator late
    assert points.keys() == {1, 4}
    assert [(p["prompt_tokens_mean"], p["output_tokens_mean"]) for p in short] == [(48, 4), (48, 4)]
    assert points[4]["tokens_per_s_per_user"]["median"] == pytest.approx(1 / (0.01 * (1 + 3 / 8)), rel=0.1)
    assert all(points[users]["completed"] >= 4 * users for users in points)
    assert [stage["name"] for stage in ended.summary["stages"]] == ["step-1", "step-2", "step-3", "step-4"]
    assert ended.summary["output_tokens_per_s"] == max(point["output_tokens_per_s"] for point in sweep["points"])
    assert "on the Pareto front" in ended.out
    assert (sweep["gpus"], sweep["gpus_counted_from"]) == (None, None)
    assert "per GPU: n/a, since the number of GPUs is not known" in ended.out
