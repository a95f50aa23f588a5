"""What the rounds of a sweep's points show: figures, intervals and verdicts, and the object `sweep` of a summary."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self, get_args

from llmload.metrics.checks import failed_requests, health, judge
from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals, merged
from llmload.metrics.validity import Level, Reason, Verdict, nothing_measured
from llmload.prompts.lengths import Shape
from llmload.runs.build_summary import figures
from llmload.runs.headline import counts_of_the_part
from llmload.runs.summary import Figures, load_text
from llmload.runs.summary_parts import Interval
from llmload.runs.sweep import GpuSource, SpeedName, SweepFront, SweepPoint, SweepResult, UserSpeed
from llmload.scenario import Scenario
from llmload.scenario.sweep import Sweep
from llmload.stats.intervals import CONFIDENCE, Batch, Spread, batches_of, ratio_interval
from llmload.sweep.front import pareto_front
from llmload.units import S_PER_MIN

ROUNDS_FOR_INTERVAL: Final = 3
"""With fewer rounds their spread says little, and intervals are by parts of the window."""
MOST_FASTER: Final = 10.0
"""How many times faster than usual an engine writes an answer; one beyond it was held back, and came at once."""
OF_THE_CLIENT: Final = (
    *("event_loop_lag_p99_s", "schedule_lag_p99_s", "worker_cpu_share", "concurrency_shortfall"),
    *("client_closed_window_share", "dropped_share", "users_reached"),
)
"""Checks whose reasons say that the load generator may have limited a point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The cumulative counts of a round at one moment, in seconds since its window opened."""

    at_s: float
    completed: int = 0
    tokens: float = 0.0
    speeds: Batch = (0.0, 0.0)
    """The sum of 1/TPOT, and of how many requests."""

    @classmethod
    def of(cls, totals: RunTotals, at_s: float) -> Self:
        """Return the sample of a round's totals."""
        tpot = totals.distributions["tpot_s"]
        return cls(
            at_s=at_s,
            completed=totals.completed_in_window,
            tokens=totals.window_tokens,
            speeds=(tpot.inverse_total or 0.0, float(tpot.count)),
        )


@dataclass(slots=True, kw_only=True)
class Round:
    """One measurement of a point: its stage, and what was noticed beside its requests."""

    stage: str
    load: float
    shape: int | None = None
    """Which of `prompts.shapes`, by index."""
    number: int
    """Which pass over the ladder it is of, from 1."""
    samples: list[Sample] = field(default_factory=list)
    lag_p99_s: float | None = None
    """How late the load generator's event loops ran, 99th percentile."""
    cpu_share: float | None = None
    """CPU use of the busiest process that sends, of one core."""
    users_short: int | None = None
    """How many users ran as the window opened, where these were not all."""
    not_reset: str | None = None
    """Why the prefix cache was not emptied before it."""
    out_of_time: bool = False
    """Whether `point_max_s` ended it."""
    complete: bool = False
    """Whether it was measured to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCount:
    """How many GPUs the deployment has, by each who says so: who comes first is believed."""

    said: Mapping[GpuSource, int] = field(default_factory=dict)

    @property
    def gpus(self) -> int | None:
        """The number that is believed; None where nobody says one."""
        return next(iter(self.said.values()), None)

    @property
    def counted_from(self) -> GpuSource | None:
        """Who says it."""
        return next(iter(self.said), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that is known of a sweep at its end, or so far."""

    scenario: Scenario
    load: Sweep
    rounds: Sequence[Round]
    stages: Mapping[str, RunTotals]
    windows_s: Mapping[str, float | None]
    whole: RunTotals
    """Of the whole run."""
    gpus: GpuCount = GpuCount()

    def of(self, shape: int | None, load: float) -> list[Round]:
        """Return the rounds of a load with prompts of a shape."""
        return [each for each in self.rounds if each.load == load and each.shape == shape]

    def totals(self, rounds: Sequence[Round]) -> RunTotals:
        """Return the totals of some rounds together."""
        return merged(self.stages.get(each.stage, RunTotals()) for each in rounds)

    def window_s(self, rounds: Sequence[Round]) -> float | None:
        """Return how long some rounds were measured together; None where they were not."""
        return sum(self.windows_s.get(each.stage) or 0.0 for each in rounds) or None


def sweep_result(measured: Measured, *, ended: str | None, complete: bool) -> SweepResult:
    """Return the `sweep` of a summary."""
    keys = sorted({(each.shape or 0, each.load): each for each in measured.rounds}.items())
    points = tuple(point_of(measured, of.shape, of.load) for _, of in keys)
    rounds = measured.load.rounds
    return SweepResult(
        points=points,
        front=SweepFront(**{name: _front(points, name, measured.load.least_growth) for name in get_args(SpeedName)}),
        gpus=measured.gpus.gpus,
        gpus_counted_from=measured.gpus.counted_from,
        gpus_said=dict(measured.gpus.said),
        between=measured.load.between,
        rounds=rounds,
        interval_from="rounds" if rounds >= ROUNDS_FOR_INTERVAL else "window",
        ended=ended,
        complete=complete,
    )


def _front(points: Sequence[SweepPoint], name: SpeedName, least_growth: float) -> tuple[str, ...]:
    """Return the names of the points on the front of each shape: one of longer answers beats none of shorter ones."""
    shapes = dict.fromkeys(point.shape for point in points)
    return tuple(
        each
        for shape in shapes
        for each in _front_of([point for point in points if point.shape == shape], name, least_growth)
    )


def _front_of(points: Sequence[SweepPoint], name: SpeedName, least_growth: float) -> tuple[str, ...]:
    known = [
        (point.name, (speed, point.output_tokens_per_s))
        for point in points
        if (speed := point.tokens_per_s_per_user.value(name)) is not None
        and point.output_tokens_per_s is not None
        and point.verdict.level is not Level.INVALID
    ]
    return tuple(known[index][0] for index in pareto_front([of for _, of in known], least_growth=least_growth))


def best_point(sweep: SweepResult) -> SweepPoint | None:
    """
    Return the point with the most output tokens/s that is not INVALID and misses no gate; None without one.

    One on the front is taken before others: of loads that bring as much, the lowest.
    """
    good = [each for each in sweep.points if each.verdict.level is not Level.INVALID and not each.missed_gates]
    known = [each for each in good if each.output_tokens_per_s is not None]
    on_front = [each for each in known if sweep.on_front(each)]
    return max(on_front or known, key=lambda each: each.output_tokens_per_s or 0.0, default=None)


def point_of(measured: Measured, shape: int | None, load: float) -> SweepPoint:
    """Return a point over all of its rounds."""
    rounds, sweep = measured.of(shape, load), measured.load
    asked = None if shape is None else measured.scenario.swept_shapes[shape]
    totals, window_s = measured.totals(rounds), measured.window_s(rounds)
    own = figures(totals, window_s)
    users, rate = (int(load), None) if sweep.has_users else (None, load)
    in_flight = totals.busy_s / window_s if window_s else None
    gpus = measured.gpus.gpus
    verdict = _verdict(measured, rounds, totals, window_s)
    spread = _Spread(measured, rounds)
    tokens_interval = spread.of("output_tokens_per_s")
    return SweepPoint(
        name=load_text(users, rate) if asked is None else f"{shape_text(asked)}, {load_text(users, rate)}",
        input_tokens=None if asked is None else asked.input_tokens,
        output_tokens=None if asked is None else asked.output_tokens,
        stages=tuple(each.stage for each in rounds),
        users=users,
        rate_per_s=rate,
        window_s=window_s,
        completed=totals.completed_in_window,
        wanted=sweep.answers_wanted(load) * len(rounds),
        in_flight_mean=in_flight,
        requests_per_min=own.requests_per_min,
        requests_per_min_interval=spread.of("requests_per_min"),
        output_tokens_per_s=own.output_tokens_per_s,
        output_tokens_per_s_interval=tokens_interval,
        output_tokens_per_s_per_gpu=_over(own.output_tokens_per_s, gpus),
        input_tokens_per_s_per_gpu=_over(_input_tokens_per_s(own), gpus),
        requests_per_min_per_gpu=_over(own.requests_per_min, gpus),
        tokens_per_s_per_user=_speed(own, totals, users or in_flight, tokens_interval, spread),
        ttft_p50_s=own.value("ttft_s", "p50"),
        ttft_p95_s=own.value("ttft_s", "p95"),
        tpot_p50_s=own.value("tpot_s", "p50"),
        e2e_p50_s=own.value("e2e_s", "p50"),
        error_share=own.error_share,
        prompt_tokens_mean=own.value("request_prompt_tokens", "mean"),
        output_tokens_mean=own.value("request_output_tokens", "mean"),
        client_bound=any(reason.check in OF_THE_CLIENT for reason in verdict.reasons),
        missed_gates=tuple(missed_gates(measured.scenario.gates.parsed(), own)),
        verdict=verdict,
    )


def shape_text(shape: Shape) -> str:
    """Return a pair of lengths as the field writes it: `1024/128`."""
    return f"{shape.input_tokens}/{shape.output_tokens}"


def missed_gates(gates: Collection[Objective], own: Figures) -> Iterator[str]:
    """Yield the gates that figures miss, with what was measured."""
    for gate in gates:
        figure = gate.figure(own)
        if not gate.passed(figure):
            yield gate.describe(figure)


def _input_tokens_per_s(own: Figures) -> float | None:
    """Return the prompt tokens of answers that ended in the window / the window."""
    mean = own.value("request_prompt_tokens", "mean")
    return None if mean is None or own.requests_per_min is None else mean * own.requests_per_min / S_PER_MIN


def _over(value: float | None, divisor: float | None) -> float | None:
    return value / divisor if value is not None and divisor else None


def _speed(
    own: Figures, totals: RunTotals, concurrency: float | None, tokens: Interval | None, spread: "_Spread"
) -> UserSpeed:
    p90_s = own.value("tpot_s", "p90")
    mean = mean_speed(totals)
    return UserSpeed(
        median=median_speed(own),
        mean=mean,
        mean_interval=None if mean is None else spread.of_speeds(),
        p90=1 / p90_s if p90_s else None,
        share=_over(own.output_tokens_per_s, concurrency),
        share_interval=None
        if tokens is None or not concurrency
        else (tokens[0] / concurrency, tokens[1] / concurrency),
    )


def median_speed(own: Figures) -> float | None:
    """Return 1 / the median of TPOT, in tokens/s; None where no TPOT is known."""
    median_s = own.value("tpot_s", "p50")
    return 1 / median_s if median_s else None


def mean_speed(totals: RunTotals) -> float | None:
    """
    Return the mean of 1/TPOT over requests, in tokens/s; None where no TPOT is known.

    None also where an answer's tokens came together, after a stall: its inverse alone would be most of the mean.
    """
    tpot = totals.distributions["tpot_s"]
    usual_s = tpot.quantile(0.5)
    if usual_s is None or tpot.min_value < usual_s / MOST_FASTER:
        return None
    return _over(tpot.inverse_total, tpot.count)


class _Spread:
    """Confidence intervals of a point: by its rounds where these are three or more, else by parts of their windows."""

    def __init__(self, measured: Measured, rounds: Sequence[Round]) -> None:
        self._rounds, self._users = rounds, measured.load.has_users
        self._totals = [measured.totals([each]) for each in rounds]
        self._figures = [figures(of, measured.window_s([each])) for of, each in zip(self._totals, rounds, strict=True)]

    def of(self, name: Literal["requests_per_min", "output_tokens_per_s"]) -> Interval | None:
        """Return the interval of a rate."""
        if len(self._rounds) >= ROUNDS_FOR_INTERVAL:
            return _between([each.value(name) for each in self._figures])
        minute = name == "requests_per_min"
        return self._by_parts(
            lambda sample: (sample.completed if minute else sample.tokens, sample.at_s / (S_PER_MIN if minute else 1.0))
        )

    def of_speeds(self) -> Interval | None:
        """Return the interval of the mean of 1/TPOT."""
        if len(self._rounds) >= ROUNDS_FOR_INTERVAL:
            return _between([mean_speed(each) for each in self._totals])
        return self._by_parts(lambda sample: sample.speeds)

    def _by_parts(self, sums: Callable[[Sample], Batch]) -> Interval | None:
        batches = [
            batch for each in self._rounds for batch in batches_of([sums(sample) for sample in self._turns(each)])
        ]
        found = ratio_interval(batches, CONFIDENCE)
        return None if found is None else (max(0.0, found[0]), found[1])

    def _turns(self, of: Round) -> list[Sample]:
        """Return the samples after each whole number of answers a user: users that began together answer together."""
        if not self._users:
            return of.samples
        kept = of.samples[:1]
        for sample in of.samples[1:]:
            if sample.completed // of.load > kept[-1].completed // of.load:
                kept.append(sample)
        return kept


def _between(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    if len(known) < ROUNDS_FOR_INTERVAL:
        return None
    spread = Spread.of(known)
    return None if spread.low is None or spread.high is None else (spread.low, spread.high)


# How far a point can be trusted.


def _verdict(measured: Measured, rounds: Sequence[Round], totals: RunTotals, window_s: float | None) -> Verdict:
    scenario, sweep = measured.scenario, measured.load
    view = counts_of_the_part(totals, measured.whole)
    users, load = sweep.has_users, rounds[0].load
    own = {
        **health(view),
        "event_loop_lag_p99_s": max((each.lag_p99_s for each in rounds if each.lag_p99_s is not None), default=None),
        "worker_cpu_share": max((each.cpu_share for each in rounds if each.cpu_share is not None), default=None),
        "concurrency_shortfall": 1 - totals.busy_s / (load * window_s) if users and window_s else None,
        "window_edges": _over(load, totals.completed_in_window) if users else None,
    }
    own["reused_prompt_share"] = None  # of the whole run, whose verdict has it
    if sweep.between == "nothing" or scenario.prompts.salt == "request":
        own["cached_token_share"] = None  # measured on purpose, or the chat template's own text
    return judge(
        own,
        [*failed_requests(view), *_noticed(measured, rounds, totals, window_s)],
        totals=view,
        relied_on=scenario.relied_on,
        gates=scenario.gates.parsed(),
    )


def _noticed(
    measured: Measured, rounds: Sequence[Round], totals: RunTotals, window_s: float | None
) -> Iterator[Reason]:
    sweep, load, completed = measured.load, rounds[0].load, totals.completed_in_window
    wanted = sweep.answers_wanted(load) * len(rounds)
    late = any(each.out_of_time for each in rounds)
    nothing = nothing_measured(
        totals,
        window_s,
        unopened="the sweep ended before its window opened",
        remedy="--set load.point_max_s with more seconds" if late else "the sweep more time",
        where="the point",
    )
    if nothing is not None:
        yield nothing
    elif completed < wanted:
        why = f"point_max_s = {sweep.point_max_s:g} was over" if late else "the sweep was ended"
        text = f"{completed} of the {wanted} answers that the point was to have: {why}"
        yield Reason(check=FEW_ANSWERS, level=Level.DEGRADED, figure=completed / wanted, limit=1.0, text=text)
    for each in rounds:
        if each.users_short is not None:
            text = f"{each.stage} was measured before all users ran: {each.users_short} of {load:g} did"
            yield Reason(check="users_reached", level=Level.INVALID, text=f"{text}: give --processes 2 or more")
        if each.not_reset is not None:
            text = f"the prefix cache was not emptied before {each.stage}: {each.not_reset}"
            yield Reason(check="prefix_cache_kept", level=Level.DEGRADED, text=text)


FEW_ANSWERS: Final = "few_answers"
"""The check whose reason says that a point has fewer answers than it was to have."""
