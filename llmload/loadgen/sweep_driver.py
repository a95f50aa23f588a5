"""A sweep as the node that coordinates it drives it: point after point, each from an idle engine."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Final

import gevent

from llmload.client.engine_control import EngineControl
from llmload.loadgen.commanded import StepTimeline
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.step_driver import FIRST_ANSWERS, Found, StepDriver, StepHost, copied
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import NOTHING_MEASURED, Level, Reason
from llmload.runs.build_summary import RunOutcome, figures
from llmload.runs.summary import load_text
from llmload.runs.sweep import SweepResult
from llmload.scenario import Scenario
from llmload.scenario.sweep import Sweep
from llmload.sweep.ladder import Ladder, NextPoint, next_of
from llmload.sweep.points import (
    GpuCount,
    Measured,
    Round,
    Sample,
    best_point,
    median_speed,
    missed_gates,
    shape_text,
    sweep_result,
)
from llmload.units import counted, milliseconds, number

SAMPLE_S: Final = 0.1
"""How often a round is sampled: its window ends at most so much later than a whole number of answers a user."""
PER_CENT: Final = 100.0
INVALID_POINTS: Final = "invalid_points"
"""The check whose reason says that points of a sweep are INVALID."""


class SweepDriver(StepDriver):
    """
    Takes the points of a ladder one after the other, all rounds of it.

    Before each, what is in flight is answered and the prefix cache emptied, where the scenario wants that. Then the
    point warms up, and is measured until each user has the answers that it is to have.
    """

    noun: ClassVar[str] = "sweep"

    def __init__(self, load: Sweep, scenario: Scenario, clock: StepTimeline, engine: EngineControl) -> None:
        super().__init__(clock, first=load.locust_users, limit_s=load.duration_s, drain_s=scenario.run.drain_timeout_s)
        self.load, self.scenario = load, scenario
        shapes = range(len(scenario.swept_shapes)) if scenario.swept_shapes else (None,)
        self.ladders = [Ladder.of(load, shape) for shape in shapes]
        self.rounds: list[Round] = []
        self.gpus = GpuCount()
        self._engine, self._gates = engine, scenario.gates.parsed()
        self._lines: list[str] = []

    def prepare(self) -> None:
        """Count the GPUs and empty the prefix cache; EngineError where the engine cannot do that and has to."""
        asked = self.scenario.deployment.gpus
        if asked:
            self.gpus = GpuCount(said={"scenario": asked})
        if asked != 0 and (reported := self._engine.gpus()) is not None:
            self.gpus = GpuCount(said={**self.gpus.said, "engine": reported})
        if self.load.between == "reset_prefix_cache":
            self._engine.check_reset()

    def run(self, host: StepHost) -> None:
        """Measure every point, or those that the time allows."""
        while not self._out_of_time and (following := next_of(self.ladders)) is not None:
            self._take(host, *following)
        self._enter("over")
        self.finished = True

    def _take(self, host: StepHost, ladder: Ladder, asked: NextPoint) -> None:
        index, load, shape = len(self.rounds), asked.load, asked.shape
        if self.load.has_users:
            self.max_users = max(self.max_users, int(load))
        this = Round(stage=self.clock.name_of(index), load=load, shape=shape, number=asked.round)
        if index or shape is not None:  # what has begun has prompts of any shape
            self._settle(host, index, load)
            if self.load.between == "reset_prefix_cache":
                this.not_reset = self._engine.reset_prefix_cache()
        self.rounds.append(this)
        host.command_step(StepCommand(index=index, load=load, shape=shape))
        self._warm_up(host, load)
        if self.load.has_users and (running := host.users()) < load:
            this.users_short = running
        host.command_step(StepCommand(index=index, load=load, shape=shape, measured=True))
        self._watch(host, this)
        host.command_step(StepCommand(index=index, load=load, shape=shape, measured=True, closed=True))
        totals, window_s = host.step_totals(this.stage), this.samples[-1].at_s
        own = figures(totals, window_s or None)
        ladder.record(asked, own.output_tokens_per_s, tuple(missed_gates(self._gates, own)))
        self._lines.append(self._line(this, totals, window_s))
        self._cool_down(host, load)

    def _warm_up(self, host: StepHost, load: float) -> None:
        self._enter("warm-up")
        ended, in_flight = host.counts()
        before = self.load.answers_before(load) if self.load.has_users else in_flight + FIRST_ANSWERS
        at_most_s = self.load.warmup_s + self.load.point_max_s + self.load.ramp_to(load).length_s
        while self.elapsed_s < at_most_s and not self._out_of_time:
            here = not self.load.has_users or host.users() >= load
            if here and self.elapsed_s >= self.load.warmup_s and host.counts()[0] >= ended + before:
                return
            gevent.sleep(SAMPLE_S)

    def _watch(self, host: StepHost, this: Round) -> None:
        self._enter("measuring")
        lag_before, wanted, turns = copied(host.loop_lag()), self.load.answers_wanted(this.load), 0
        this.samples.append(Sample(at_s=0.0))
        while not self._out_of_time:
            gevent.sleep(SAMPLE_S)
            this.samples.append(Sample.of(host.step_totals(this.stage), self.elapsed_s))
            this.cpu_share = max(this.cpu_share or 0.0, host.sender_cpu_usage() / PER_CENT)
            ended, before = this.samples[-1].completed, turns
            # users that began together are answered together: a window of whole turns has whole answers
            turns = ended // int(this.load) if self.load.has_users else ended
            if turns > before and ended >= wanted and self.elapsed_s >= self.load.point_min_s:
                this.complete = True
                break
            if self.elapsed_s >= self.load.point_max_s:
                this.complete = this.out_of_time = True
                break
        this.lag_p99_s = host.loop_lag().since(lag_before).quantile(0.99)

    def _cool_down(self, host: StepHost, load: float) -> None:
        """Keep the load until what began in the window is answered, which would be faster with fewer beside it."""
        self._enter("cool-down")
        ended, in_flight = host.counts()
        turnover = ended + (int(load) if self.load.has_users else in_flight)
        while host.counts()[0] < turnover and self.elapsed_s < self._drain_s and not self._out_of_time:
            gevent.sleep(SAMPLE_S)

    # Results

    @property
    def target_users(self) -> int:
        """The current point's number of users; 1, idle, in an open loop."""
        return int(self.rounds[-1].load) if self.load.has_users and self.rounds else 1

    @property
    def text(self) -> str:
        """The state of the sweep, in words."""
        if not self.rounds:
            return f"{self.phase}, {counted(self._left, 'point')} to go"
        this = self.rounds[-1]
        again = f", round {this.number} of {self.load.rounds}" if self.load.rounds > 1 else ""
        state = self.phase
        if this.samples and not this.complete:
            state += f" {this.samples[-1].completed} of at least {self.load.answers_wanted(this.load)} answers"
        return f"{self._name(this)}{again}, {state}, {counted(self._left, 'point')} to go"

    def _name(self, this: Round) -> str:
        load = load_text(int(this.load), None) if self.load.has_users else load_text(None, this.load)
        return load if this.shape is None else f"{shape_text(self.scenario.swept_shapes[this.shape])}, {load}"

    @property
    def _left(self) -> int:
        return sum(ladder.left for ladder in self.ladders)

    @property
    def _ended(self) -> str | None:
        """Why ladders ended before their last load, each with its shape."""
        shapes = self.scenario.swept_shapes
        texts = [
            each.ended if each.shape is None else f"{shape_text(shapes[each.shape])}: {each.ended}"
            for each in self.ladders
            if each.ended is not None
        ]
        return "; ".join(texts) or None

    def _line(self, this: Round, totals: RunTotals, window_s: float) -> str:
        own = figures(totals, window_s or None)
        again = f" (round {this.number})" if self.load.rounds > 1 else ""
        return (
            f"{self._name(this)}{again}: {number(own.output_tokens_per_s, 1)} tok/s, "
            f"{number(median_speed(own), 1)} tok/s a user, TTFT p95 {milliseconds(own.value('ttft_s', 'p95'))} ms"
        )

    @property
    def measured(self) -> Sequence[str]:
        """A line for each round that was measured."""
        return self._lines

    @property
    def undone(self) -> str | None:
        """How far the sweep has come, in words; None once it is over."""
        done = sum(each.complete for each in self.rounds)
        return None if self.finished else f"{counted(done, 'point')} of the sweep"

    @property
    def left_s(self) -> float | None:
        """About how long the sweep will still take, by the points so far; None before the first."""
        done = len(self._lines)
        return (time.monotonic() - self._started_s) / done * self._left if done else None

    def found(self, stages: Mapping[str, RunTotals]) -> Found:
        """Return the last round of the best point."""
        result = self._result(stages, RunTotals(), self.gpus)
        valid = (each for each in result.points if each.completed and each.verdict.level is not Level.INVALID)
        best = best_point(result) or next(valid, None)  # gates are judged where each load misses one, too
        if best is None:
            return Found(None)
        index = next(at for at, each in enumerate(self.rounds) if each.stage == best.stages[-1])
        window = self.clock.window(index)
        return Found(stages.get(best.stages[-1], RunTotals()), window.length_s, window.start_ns)

    def unmeasured(self, stages: Mapping[str, RunTotals]) -> Iterator[Reason]:
        """Yield why no point was measured, and which points are INVALID once all are."""
        if not any(each.complete for each in self.rounds):
            text = "nothing was measured at any point: the sweep ended before the first: give it more time"
            yield Reason(check=NOTHING_MEASURED, level=Level.INVALID, text=text)
        elif self.finished:
            points = self._result(stages, RunTotals(), self.gpus).points
            bad = [each for each in points if each.verdict.level is Level.INVALID]
            if bad:
                level = Level.INVALID if len(bad) == len(points) else Level.DEGRADED
                names = ", ".join(each.name for each in bad)
                text = (
                    f"{len(bad)} of {counted(len(points), 'point')} INVALID ({names}): {bad[0].verdict.reasons[0].text}"
                )
                yield Reason(check=INVALID_POINTS, level=level, text=text)

    def complete(self, outcome: RunOutcome, stages: Mapping[str, RunTotals]) -> RunOutcome:
        """Return the outcome with every point."""
        gpus, seen = self.gpus, outcome.gpu_metrics
        if self.scenario.deployment.gpus != 0 and seen is not None and seen.gpus:
            gpus = GpuCount(said={**gpus.said, "dcgm": seen.gpus})
        return replace(outcome, sweep=self._result(stages, outcome.totals, gpus))

    def _result(self, stages: Mapping[str, RunTotals], whole: RunTotals, gpus: GpuCount) -> SweepResult:
        measured = Measured(
            scenario=self.scenario,
            load=self.load,
            rounds=self.rounds,
            stages=stages,
            windows_s={each.stage: self.clock.window_s(each.stage) for each in self.rounds},
            whole=whole,
            gpus=gpus,
        )
        complete = self.finished and all(each.complete for each in self.rounds)
        return sweep_result(measured, ended=self._ended, complete=complete)
