"""The search for the highest load that passes, as the master drives it through a run."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, Final

import gevent

from llmload.capacity.evidence import Decision
from llmload.capacity.judge import StepJudge, StepLimits, StepVerdict
from llmload.capacity.result import StepResult, best_step, capacity_summary
from llmload.capacity.search import CapacitySearch, NextStep, StepOutcome
from llmload.loadgen.commanded import StepTimeline
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.step_driver import FIRST_ANSWERS, PERIOD_S, Found, StepDriver, StepHost, copied
from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import NOTHING_MEASURED, Level, Reason
from llmload.runs.build_summary import RunOutcome
from llmload.runs.summary_parts import CapacityResult
from llmload.scenario.capacity import Capacity
from llmload.units import counted

CONFIRMATIONS: Final = 2
"""In most searches both bounds are confirmed at the end."""
INVALID_LAG_S: Final = 0.05
"""
A step that fails while a process ran later than this (99th percentile) shows the load generator's limits.

It is the least limit beyond which the verdict calls a run DEGRADED.
"""
INVALID_RETRIES: Final = 2
"""How often a load is tried again after an invalidated step; then its verdict counts, but is not significant."""


class CapacityDriver(StepDriver):
    """
    Tries one load after the other; `run` returns when the search is over.

    Each step waits until the requests of an overload are answered, warms up until the requests in flight have been
    replaced once, and is then sampled until it is decided.
    """

    noun: ClassVar[str] = "search"

    def __init__(self, load: Capacity, objectives: tuple[Objective, ...], clock: StepTimeline, drain_s: float) -> None:
        super().__init__(clock, first=load.locust_users, limit_s=load.duration_s, drain_s=drain_s)
        self.load, self.objectives = load, objectives
        self.steps: list[StepResult] = []
        self.plan: CapacitySearch = CapacitySearch.of(load)
        self.unreached: dict[str, int] = {}
        """The steps whose window opened before all their users ran, with the users that did."""

    @property
    def target_users(self) -> int:
        """The current step's number of users; 1, idle, in an open loop."""
        return int(self.steps[-1].load) if self.load.has_users and self.steps else 1

    def run(self, driven: StepHost) -> None:
        """Search until the highest load that passes is found, or the time is over."""
        while not self._out_of_time and (following := self.plan.next()) is not None:
            self._take(driven, following)
        self.phase = "over"
        self.finished = True

    def _take(self, driven: StepHost, asked: NextStep) -> None:
        index, load = len(self.steps), asked.load
        if self.load.has_users:
            self.max_users = max(self.max_users, int(load))
        self._settle_after_failure(driven, index, load)
        driven.command_step(StepCommand(index=index, load=load))
        step = StepResult(
            name=self.clock.name_of(index), load=load, judge=StepJudge(self.objectives, StepLimits.of(self.load, load))
        )
        self.steps.append(step)
        self._warm_up(driven, load)
        if self.load.has_users and (running := driven.users()) < load:
            self.unreached[step.name] = running
        driven.command_step(StepCommand(index=index, load=load, measured=True))
        step.verdict = self._watch(driven, step, confirm=asked.confirm)
        if step.verdict is not None and not step.invalidated:
            decision = step.verdict.decision
            confirmed = asked.confirm or decision.significant
            self.plan.record(StepOutcome(load=load, passed=decision.passed, confirmed=confirmed))

    def _settle_after_failure(self, driven: StepHost, index: int, load: float) -> None:
        """After an open-loop step that failed, send nothing until its queue is answered."""
        last = self.steps[-1].verdict if self.steps else None
        if not (self.load.has_users or last is None or last.decision.passed):
            self._settle(driven, index, load)

    def _warm_up(self, driven: StepHost, load: float) -> None:
        self._enter("warm-up")
        ended, in_flight = driven.counts()
        turnover = ended + (max(int(load), in_flight) if self.load.has_users else in_flight + FIRST_ANSWERS)
        at_most_s = max(self.load.warmup_s, self.load.step_max_s / 2) + self.load.ramp_to(load).length_s
        while self.elapsed_s < at_most_s and not self._out_of_time:
            gevent.sleep(PERIOD_S)
            here = not self.load.has_users or driven.users() >= load
            if here and self.elapsed_s >= self.load.warmup_s and driven.counts()[0] >= turnover:
                return

    def _watch(self, driven: StepHost, step: StepResult, *, confirm: bool) -> StepVerdict | None:
        self._enter("measuring")
        lag_before = copied(driven.loop_lag())
        step.judge.evidence.open(driven.counts()[1])
        while not self._out_of_time:
            gevent.sleep(PERIOD_S)
            step.judge.evidence.add(driven.step_totals(step.name), self.elapsed_s, driven.counts()[1])
            verdict = step.judge.evaluate(confirm=confirm)
            if verdict is not None:
                return self._but_for_the_generator(step, verdict, driven.loop_lag().since(lag_before).quantile(0.99))
        return None

    def _but_for_the_generator(self, step: StepResult, verdict: StepVerdict, lag_s: float | None) -> StepVerdict:
        """Return the verdict, not significant if the load generator itself was late when the step failed."""
        if verdict.decision.passed or lag_s is None or lag_s <= INVALID_LAG_S:
            return verdict
        late = f"llmload itself ran {lag_s:.2g} s late"
        if sum(each.invalidated is not None for each in self.steps if each.load == step.load) < INVALID_RETRIES:
            step.invalidated = f"invalidated: {late}"
        return replace(verdict, decision=Decision.SEEMS_TO_FAIL, reason=f"{verdict.reason}, but {late}")

    # Results

    @property
    def text(self) -> str:
        """The state of the search, in words."""
        unit = "users" if self.load.has_users else "requests/s"
        current = f"{self.steps[-1].load:g} {unit}, {self.phase} " if self.steps else ""
        passes, fails = self.plan.passes_at, self.plan.fails_at
        found = "none passes yet" if passes is None else f"{passes:g} {unit} pass"
        return f"{current}({found if fails is None else f'{found}, {fails:g} fail'})"

    @property
    def undone(self) -> str | None:
        """How far the search has come, in words; None once it is over."""
        decided = sum(step.verdict is not None for step in self.steps)
        return None if self.finished else f"{counted(decided, 'step')} of the search"

    @property
    def left_s(self) -> float | None:
        """About how long the search will still take, by the steps so far; None until a load has failed."""
        passes, fails = self.plan.passes_at, self.plan.fails_at
        if passes is None or fails is None or not self.plan.outcomes:
            return None
        halvings = math.log2(max(1.0, math.log(fails / passes) / math.log(1 + self.load.precision)))
        if self.load.has_users:
            halvings = min(halvings, math.log2(max(1.0, fails - passes)))
        a_step_s = (time.monotonic() - self._started_s) / len(self.steps)
        return (math.ceil(halvings) + CONFIRMATIONS) * a_step_s

    def found(self, stages: Mapping[str, RunTotals]) -> Found:
        """Return the step that the search found."""
        step = best_step(self.steps, self.plan.passes_at, stages)
        if step is None:
            return Found(None)
        window = self.clock.window(self.steps.index(step))
        return Found(stages.get(step.name, RunTotals()), window.length_s, window.start_ns)

    def unmeasured(self, stages: Mapping[str, RunTotals]) -> Iterator[Reason]:  # noqa: ARG002 - a sweep's
        """Yield why the search decided nothing, and which of its steps were measured before all users ran."""
        decided = {step.name: step.load for step in self.steps if step.verdict is not None}
        if not decided:
            text = "nothing was measured in any step: the search ended before it could decide one: give it more time"
            yield Reason(check=NOTHING_MEASURED, level=Level.INVALID, text=text)
        for name, users in self.unreached.items():
            if name in decided:
                text = f"{name} was measured before all users ran: {users} of {decided[name]:g} did"
                yield Reason(check="users_reached", level=Level.INVALID, text=f"{text}: give --processes 2 or more")

    def complete(self, outcome: RunOutcome, stages: Mapping[str, RunTotals]) -> RunOutcome:
        """Return the outcome with the curve of its steps."""
        return replace(outcome, capacity=self.summary(stages))

    def summary(self, stages: Mapping[str, RunTotals]) -> CapacityResult:
        """Return what the search found, and the curve of its steps."""
        windows = {step.name: self.clock.window_s(step.name) for step in self.steps}
        return capacity_summary(self.load, self.objectives, self.steps, self.plan, stages=stages, windows_s=windows)
