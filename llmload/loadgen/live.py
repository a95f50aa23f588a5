"""The run as it is now: a point each second, and its state."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final, Literal, Protocol

import gevent
from pydantic import BaseModel, ConfigDict

from llmload.loadgen.phases import PhaseTimeline, Span
from llmload.metrics.checks import OF_REASONING
from llmload.metrics.doubts import doubts_of, lines_of
from llmload.metrics.requests import LIVE_QUANTILES
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Doubt, Verdict
from llmload.runs.build_summary import most_frequent_failures
from llmload.runs.headline import Headline
from llmload.runs.summary_parts import FailedRequests
from llmload.scenario import Scenario
from llmload.stats.histogram import Histogram
from llmload.units import S_PER_MIN

SAMPLE_S: Final = 1.0
RECENT_S: Final = 10.0
"""What a point looks back on: longer than the three seconds between two reports of a worker."""
POINTS_KEPT: Final = 3_600
P99_NEEDS: Final = 100
"""With fewer values a p99 is their greatest, which jumps from second to second; the report's charts agree."""
SCHEMA_VERSION: Final = 1


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantiles(_Model):
    """Quantiles of one distribution."""

    p50: float | None
    p95: float | None
    p99: float | None
    """None below `P99_NEEDS` values."""

    @classmethod
    def of(cls, histogram: Histogram) -> "Quantiles | None":
        """Return the quantiles; None if there are no values."""
        if not histogram.count:
            return None
        found = {name: histogram.quantile(share) for name, share in LIVE_QUANTILES.items()}
        return cls(**found | ({} if histogram.count >= P99_NEEDS else {"p99": None}))


class _Latencies(_Model):
    ttft_s: Quantiles | None = None
    itl_s: Quantiles | None = None
    tpot_s: Quantiles | None = None
    e2e_s: Quantiles | None = None


class LivePoint(_Latencies):
    """The last ten seconds, as seen at a moment; None is not known."""

    t_s: float
    """Since the run's start."""
    users: int
    in_flight: int
    requests_per_min: float | None = None
    failed_per_min: float | None = None
    output_tokens_per_s: float | None = None
    target_per_s: float | None = None
    """The target rate of an open loop."""
    sent_per_s: float | None = None
    dropped_per_s: float | None = None
    schedule_lag_s: Quantiles | None = None


class LiveStage(_Latencies):
    """A stage or step that has begun, from the end of its warm-up to now or to its end."""

    name: str
    begin_s: float
    """Since the run's start."""
    users: int | None
    rate_per_s: float | None
    measured_s: float | None
    """How much of it has been measured; None until its warm-up is over."""
    requests_per_min: float | None
    output_tokens_per_s: float | None
    failed: int
    doubts: tuple[Doubt, ...]
    """Its figures that may be off."""


class LiveName(_Latencies):
    """Requests of one name: counts of the whole run, rates and quantiles of its window so far."""

    name: str
    completed: int
    failed: int
    requests_per_min: float | None
    output_tokens_per_s: float | None
    doubts: tuple[Doubt, ...]
    """Its figures that may be off."""


class LiveLimit(_Model):
    """A limit of a figure, which its chart shows as a line."""

    figure: str
    """Its key: `ttft_s`, `requests_per_min`."""
    limit: float
    text: str
    """Whose limit it is: `[slo]` or the objective of a gate, without its figure and limit."""


class LiveState(_Latencies):
    """The run so far; counts are of the whole run, rates and quantiles of its window."""

    ttfa_s: Quantiles | None = None
    """Time to first answer; this and the next two are None where nothing is thought."""
    thinking_s: Quantiles | None = None
    answer_tpot_s: Quantiles | None = None

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    scenario: str
    engine: str
    model: str
    simulated: bool
    stage: str
    """A stage's name, or `warm-up`, `measuring`, `draining`, `ended`."""
    open_loop: bool
    elapsed_s: float
    users: int
    in_flight: int
    started: int
    completed: int
    failed: int
    censored: int
    dropped: int
    target_per_s: float | None
    errors: dict[str, int]
    """Failed requests by error type, the most frequent first."""
    failures: tuple[FailedRequests, ...]
    """The most frequent failures, at most three, with the engine's words."""
    window_s: float | None
    """How much of the window has passed; None until it opens."""
    requests_per_min: float | None
    output_tokens_per_s: float | None
    request_tokens_per_s: float | None
    """Mean output tokens/s of a request."""
    limits: tuple[LiveLimit, ...]
    editable: str | None
    """The key of the load that an edit changes, `users` or `rate_per_s`; None where its scenario sets its phases."""
    schedule_lag_s: Quantiles | None
    stages: tuple[LiveStage, ...]
    by_name: tuple[LiveName, ...] = ()
    """Requests by their names; empty where requests have no names."""
    edited: str | None = None
    """How the load was edited, and which of its phases the figures are of; None where it was not."""
    conclusion: str | None = None
    """What the run found, in a sentence; None until it has ended."""
    verdict: Verdict | None
    """None until a request has ended: nothing can have been measured, which is not a fault."""
    footnotes: tuple[str, ...]
    """What the mark behind a figure in doubt means, a line for each check."""


class LivePoints(_Model):
    """The points of a run, as the page fetches them."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    points: list[LivePoint]


class RunSource(Protocol):
    """Where the figures of a run come from, over all processes that have reported."""

    def totals(self) -> RunTotals:
        """Return the totals of the run so far."""

    def stages(self) -> dict[str, RunTotals]:
        """Return the totals of each stage or step so far."""

    def step_totals(self, name: str) -> RunTotals:
        """Return the totals of one stage or step so far."""

    def names(self) -> Mapping[str, RunTotals]:
        """Return the totals of each name so far, where requests have names."""

    def busy_users(self) -> int:
        """Return how many users run and do not rest."""


class LiveRun(Protocol):
    """A run in progress, as the live view reads it."""

    run_id: str
    scenario: Scenario
    span: Span

    @property
    def simulated(self) -> bool:
        """Whether the run measures a simulation."""

    @property
    def stage(self) -> str:
        """A stage's name, or `warm-up`, `measuring`, `draining`, `ended`."""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run's start."""

    @property
    def conclusion(self) -> str | None:
        """What the run found, in a sentence; None until it has ended."""

    @property
    def timeline(self) -> PhaseTimeline | None:
        """Stages or steps; None where the load has none."""

    def note_users(self, users: int) -> None:
        """Write down how many users run."""

    def headline_so_far(self, totals: RunTotals, stages: Callable[[], Mapping[str, RunTotals]]) -> Headline:
        """Return what is judged of the run as far as it has come."""

    def verdict_so_far(self, headline: Headline) -> Verdict:
        """Judge it."""


class LiveView:
    """Keeps the points of a run for charts and tables; `watch` fills it until killed."""

    def __init__(
        self,
        run: LiveRun,
        source: RunSource,
        target_per_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._run, self._source, self._target_per_s = run, source, target_per_s
        self._past: deque[tuple[float, RunTotals]] = deque()
        self._points: deque[LivePoint] = deque(maxlen=POINTS_KEPT)

    def watch(self) -> None:
        """Add a point each second."""
        while True:
            gevent.sleep(SAMPLE_S)
            self.add_point()

    def add_point(self) -> None:
        """Add the point of this moment."""
        self._run.note_users(self._source.busy_users())
        now_s = self._run.elapsed_s
        now = RunTotals()
        now.merge(self._source.totals())
        self._past.append((now_s, now))
        while len(self._past) > 2 and self._past[1][0] <= now_s - RECENT_S:
            self._past.popleft()
        then_s, then = self._past[0]
        self._points.append(self._point(now_s, now, now_s - then_s, then))

    def _point(self, now_s: float, now: RunTotals, span_s: float, then: RunTotals) -> LivePoint:
        def per_s(name: str, times: float = 1.0) -> float | None:
            return (getattr(now, name) - getattr(then, name)) / span_s * times if span_s else None

        def recent(name: str) -> Quantiles | None:
            return Quantiles.of(now.distributions[name].since(then.distributions[name]))

        return LivePoint(
            t_s=now_s,
            users=self._source.busy_users(),
            in_flight=now.in_flight,
            requests_per_min=per_s("completed", S_PER_MIN),
            failed_per_min=per_s("failed", S_PER_MIN),
            output_tokens_per_s=per_s("arrived_tokens"),
            target_per_s=self._target_now(),
            sent_per_s=per_s("started"),
            dropped_per_s=per_s("dropped"),
            ttft_s=recent("ttft_s"),
            itl_s=recent("itl_s"),
            tpot_s=recent("tpot_s"),
            e2e_s=recent("e2e_s"),
            schedule_lag_s=recent("schedule_lag_s"),
        )

    def _target_now(self) -> float | None:
        return None if self._run.stage in {"draining", "ended"} else self._target_per_s()

    def points(self, after_s: float = -1.0) -> list[LivePoint]:
        """Return the points after a moment, in seconds since the run's start."""
        return [point for point in self._points if point.t_s > after_s]

    def latest_point(self, within_s: float) -> LivePoint | None:
        """Return the latest point; None if it is older than `within_s`."""
        latest = self._points[-1] if self._points else None
        return latest if latest is not None and latest.t_s > self._run.elapsed_s - within_s else None

    def state(self) -> LiveState:
        """Return the run so far."""
        run = self._run
        headline = run.headline_so_far(self._source.totals(), self._source.stages)
        totals, window_s, edited = headline.totals, headline.window_s, headline.edited
        scenario, stage = run.scenario, run.stage
        judged = stage == "ended" or totals.completed or totals.failed
        verdict = run.verdict_so_far(headline) if judged else None
        return LiveState(
            run_id=run.run_id,
            scenario=scenario.scenario.name,
            engine=scenario.engine.display_name,
            model=scenario.model.name,
            simulated=run.simulated,
            stage=stage,
            open_loop=scenario.load.is_open_loop,
            elapsed_s=run.elapsed_s,
            users=self._source.busy_users(),
            in_flight=totals.in_flight,
            started=totals.started,
            completed=totals.completed,
            failed=totals.failed,
            censored=totals.censored,
            dropped=totals.dropped,
            target_per_s=self._target_now(),
            errors=dict(totals.errors.most_common()),
            failures=most_frequent_failures(totals),
            window_s=window_s,
            **rates(totals, window_s),
            **_latencies(totals),
            **_of_reasoning(totals),
            request_tokens_per_s=_mean(totals.distributions["request_output_tokens_per_s"]),
            limits=tuple(_limits(scenario)),
            editable=scenario.load.target_key,
            schedule_lag_s=Quantiles.of(totals.distributions["schedule_lag_s"]),
            stages=() if run.timeline is None else tuple(self._stages(run.timeline)),
            by_name=tuple(self._names()),
            conclusion=run.conclusion,
            verdict=verdict,
            footnotes=() if verdict is None else tuple(lines_of(verdict, _SHOWN)),
            edited=None if edited is None else edited.text,
        )

    def _stages(self, timeline: PhaseTimeline) -> Iterator[LiveStage]:
        stages = self._source.stages()
        for phase in timeline.phases:
            begin_s = timeline.begin_s(phase.name)
            if begin_s is None:
                continue
            totals, measured_s = stages.get(phase.name, RunTotals()), timeline.measured_s(phase.name)
            yield LiveStage(
                name=phase.name,
                begin_s=begin_s,
                users=phase.users,
                rate_per_s=phase.rate_per_s,
                measured_s=measured_s,
                failed=totals.failed,
                doubts=doubts_of(totals),
                **rates(totals, measured_s),
                **_latencies(totals),
            )

    def _names(self) -> Iterator[LiveName]:
        for name, totals in self._source.names().items():
            yield LiveName(
                name=name,
                completed=totals.completed,
                failed=totals.failed,
                doubts=doubts_of(totals),
                **rates(totals, self._run.span.length_s(totals)),
                **_latencies(totals),
            )


def _mean(histogram: Histogram) -> float | None:
    return histogram.mean if histogram.count else None


def _limits(scenario: Scenario) -> Iterator[LiveLimit]:
    for name, limit in asdict(scenario.slo_limits()).items():
        if limit is not None:
            yield LiveLimit(figure=name, limit=limit, text="[slo]")
    for gate in scenario.gates.parsed():
        yield LiveLimit(figure=gate.metric, limit=gate.limit, text=" ".join(["gate", gate.statistic or ""]).strip())


def rates(totals: RunTotals, window_s: float | None) -> dict[str, Any]:
    """Return requests/min and output tokens/s of a window so far."""
    return {
        "requests_per_min": totals.completed_in_window / window_s * S_PER_MIN if window_s else None,
        "output_tokens_per_s": totals.window_tokens / window_s if window_s else None,
    }


def _latencies(totals: RunTotals) -> dict[str, Any]:
    return {name: Quantiles.of(totals.distributions[name]) for name in _Latencies.model_fields}


def _of_reasoning(totals: RunTotals) -> dict[str, Any]:
    return {name: Quantiles.of(totals.distributions[name]) for name in OF_REASONING if totals.reasoned_answers}


_SHOWN: Final = tuple(f"{name} {quantile}" for name in _Latencies.model_fields for quantile in LIVE_QUANTILES)
