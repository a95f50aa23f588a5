"""The live view of a run: what an open loop and stages show, and what ends with the load."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from llmload.loadgen.judged import whole_run
from llmload.loadgen.live import P99_NEEDS, LiveView
from llmload.loadgen.phases import Span, StageTimeline
from llmload.metrics.checks import judge
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Verdict
from llmload.runs.headline import Headline
from llmload.scenario.load_protocol import Load
from llmload.scenario.loads import ClosedLoop, OpenLoop, Replay
from llmload.scenario.staged import Stage, Staged
from tests.run_files import scenario_of

OPEN = OpenLoop(kind="open_loop", rate_per_s=5, duration_s=60)
STAGES = Staged(
    kind="staged", warmup_s=1, stages=[Stage(users=2, duration_s=10), Stage(name="peak", users=4, duration_s=10)]
)


class TenSeconds(Span):
    """A window of 10 s, whatever the clock says."""

    def length_s(self, totals: RunTotals) -> float:
        return 10.0


class Run:
    """A run whose stage and time a test sets."""

    simulated = True
    run_id = "run"
    conclusion = None

    def __init__(self, load: Load, timeline: StageTimeline | None = None) -> None:
        self.scenario, self.timeline = scenario_of(load=load), timeline
        self.span: Span = TenSeconds(load)
        self.stage, self.elapsed_s = "measuring", 0.0

    def note_users(self, users: int) -> None:
        self.noted = users

    def headline_so_far(self, totals: RunTotals, stages: Callable[[], Mapping[str, RunTotals]]) -> Headline:
        return whole_run(self.span, totals, self.scenario)

    def verdict_so_far(self, headline: Headline) -> Verdict:
        return judge({}, totals=headline.totals)


class Source:
    """What the processes of a run have counted."""

    def __init__(self, totals: RunTotals | None = None, stages: dict[str, RunTotals] | None = None) -> None:
        self._totals, self._stages = totals or RunTotals(), stages or {}

    def totals(self) -> RunTotals:
        return self._totals

    def stages(self) -> dict[str, RunTotals]:
        return self._stages

    def step_totals(self, name: str) -> RunTotals:
        return self._stages[name]

    def names(self) -> dict[str, RunTotals]:
        return self._stages

    def busy_users(self) -> int:
        return 1


def test_an_open_loop_shows_target_rate_sent_dropped_and_lag() -> None:
    run, totals, rate = Run(OPEN), RunTotals(), [5.0]
    view = LiveView(run, Source(totals), lambda: rate[0])
    view.add_point()
    run.elapsed_s, rate[0] = 10.0, 20.0
    totals.started, totals.completed, totals.dropped = 40, 37, 10
    totals.distributions["schedule_lag_s"].add(0.002)
    view.add_point()
    (_, point), state = view.points(), view.state()

    assert (point.target_per_s, point.sent_per_s, point.dropped_per_s, point.in_flight) == (20, 4, 1, 3)
    assert point.schedule_lag_s is not None
    assert point.schedule_lag_s.p95 == pytest.approx(0.002, rel=0.005)
    assert (state.target_per_s, state.dropped, state.open_loop, state.editable) == (20, 10, True, "rate_per_s")


def test_a_quantile_of_few_answers_is_marked_and_a_line_says_why() -> None:
    totals = RunTotals(started=50, completed=50)
    totals.distributions["ttft_s"].add_many(np.full(50, 0.1))
    totals.distributions["request_output_tokens_per_s"].add_many(np.array([20.0, 40.0]))
    state = LiveView(Run(ClosedLoop(kind="closed_loop", users=1, requests=50)), Source(totals)).state()

    assert state.footnotes == ("~ TTFT: few values: p95 needs 400, p99 needs 2,000",)
    assert state.request_tokens_per_s == 30
    assert state.ttft_s is not None
    assert state.ttft_s.p95 == pytest.approx(0.1, rel=0.005)
    assert state.ttft_s.p99 is None, "it would be the greatest"


def test_a_p99_is_shown_from_a_hundred_values_on() -> None:
    totals = RunTotals(started=P99_NEEDS, completed=P99_NEEDS)
    totals.distributions["ttft_s"].add_many(np.full(P99_NEEDS, 0.1))

    shown = LiveView(Run(OPEN), Source(totals)).state().ttft_s

    assert shown is not None
    assert shown.p99 == pytest.approx(0.1, rel=0.005)


def test_the_limits_of_slo_and_gates_are_lines_of_their_charts() -> None:
    run = Run(OPEN)
    gates = {"objectives": ["ttft_s p95 < 0.4", "requests_per_min >= 30"]}
    run.scenario = scenario_of(load=OPEN, slo={"ttft_s": 0.5}, gates=gates)

    limits = LiveView(run, Source()).state().limits

    assert [(each.figure, each.limit, each.text) for each in limits] == [
        ("ttft_s", 0.5, "[slo]"),
        ("ttft_s", 0.4, "gate p95"),
        ("requests_per_min", 30, "gate"),
    ]


def test_there_is_no_target_rate_once_the_run_drains() -> None:
    run = Run(OPEN)
    view = LiveView(run, Source(), lambda: 5.0)
    targets = []

    for run.stage in ("warm-up", "measuring", "draining", "ended"):
        targets.append(view.state().target_per_s)

    assert targets == [5, 5, None, None]


def test_each_stage_that_has_begun_has_its_own_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns[0])
    clock, first = StageTimeline(STAGES, 0), RunTotals(completed_in_window=30, window_tokens=90, failed=1)
    view = LiveView(Run(STAGES, clock), Source(stages={"stage-1": first}))
    clock.begin_first()
    now_ns[0] = 4 * 10**9
    alone = view.state().stages
    now_ns[0] = 10 * 10**9
    clock.begin(1)
    now_ns[0] += 10**9 // 2
    state = view.state()

    assert [(stage.name, stage.measured_s) for stage in alone] == [("stage-1", 3)]
    one, two = state.stages
    assert (one.begin_s, one.measured_s, one.requests_per_min, one.output_tokens_per_s) == (0, 9, 200, 10)
    assert (two.name, two.users, two.begin_s, two.measured_s) == ("peak", 4, 10, None)
    assert (one.failed, two.requests_per_min, state.editable) == (1, None, None)


def test_which_loads_are_open_loops() -> None:
    rates = Staged(kind="staged", stages=[Stage(rate_per_s=2, duration_s=5)])
    closed = ClosedLoop(kind="closed_loop", users=1, requests=1)

    assert [load.is_open_loop for load in (OPEN, Replay(kind="replay", trace="t"), rates, STAGES, closed)] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_the_first_stage_begins_when_its_users_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now_ns[0])
    clock = StageTimeline(STAGES, 0)
    now_ns[0] = 2 * 10**9
    clock.begin_first()
    now_ns[0] = 10 * 10**9
    clock.begin(1)
    clock.begin_first()

    assert [clock.begin_s(phase.name) for phase in clock.phases] == [2, 10]
    assert clock.measured_s(clock.name_of(0)) == 7, "from its warm-up's end to the second one's beginning"
