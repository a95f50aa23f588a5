"""What a search found: the object `capacity` of summary.json, and its text for a terminal and a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.table import Table
from rich.text import Text

from llmload.capacity.evidence import ObjectiveEvidence, measured
from llmload.capacity.judge import StepJudge, StepVerdict
from llmload.capacity.search import CapacitySearch, knee
from llmload.metrics.doubts import MARK, footnotes, marked
from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Doubt
from llmload.runs.build_summary import figures
from llmload.runs.summary_parts import CapacityResult, CurvePoint, Distribution, Interval, ObjectiveResult
from llmload.scenario.capacity import Capacity
from llmload.units import MS_PER_S, S_PER_MIN, number

# What a search found, as the object `capacity` of summary.json.


@dataclass(slots=True)
class StepResult:
    """One step of a search; `verdict` is None until it is decided."""

    name: str
    load: float
    judge: StepJudge
    verdict: StepVerdict | None = None
    invalidated: str | None = None
    """Why the verdict does not count; None if it does."""


def best_step(
    steps: Sequence[StepResult], passes_at: float | None, stages: Mapping[str, RunTotals]
) -> StepResult | None:
    """
    Return the step with the highest load that passes, the last one of several; None if none passes.

    Requests that were in flight when a step was decided are in `stages` by now: a step that they make fail is left out.
    """
    passed = [
        step
        for step in steps
        if step.verdict is not None
        and step.verdict.decision.passed
        and not step.invalidated
        and (passes_at is not None and step.load <= passes_at)
        and not failed_later(step, stages)
    ]
    return max(reversed(passed), key=lambda step: step.load, default=None)


def failed_later(step: StepResult, stages: Mapping[str, RunTotals]) -> Objective | None:
    """Return the objective that a passed step fails once its last answers are counted; None if it still passes."""
    totals = stages.get(step.name)
    if totals is None:
        return None
    return next((o for o in step.judge.evidence.objectives if not o.passed(measured(o, totals))), None)


def capacity_summary(
    load: Capacity,
    objectives: Sequence[Objective],
    steps: Sequence[StepResult],
    search: CapacitySearch,
    *,
    stages: Mapping[str, RunTotals],
    windows_s: Mapping[str, float | None],
) -> CapacityResult:
    """Return the `capacity` of a summary."""
    curve = tuple(_point(load, step, stages.get(step.name, RunTotals()), windows_s.get(step.name)) for step in steps)
    found = best_step(steps, search.passes_at, stages)
    point = None if found is None else curve[steps.index(found)]
    return CapacityResult(
        search=load.search,
        objectives=tuple(str(objective) for objective in objectives),
        confidence=load.confidence,
        precision=load.precision,
        passes=None if found is None else found.load,
        fails=search.fails_at,
        ended=_ended(search),
        significant=found is not None and found.verdict is not None and found.verdict.decision.significant,
        step=None if found is None else found.name,
        requests_per_min=None if point is None else point.requests_per_min,
        requests_per_min_interval=None if point is None else point.requests_per_min_interval,
        output_tokens_per_s=None if point is None else point.output_tokens_per_s,
        output_tokens_per_s_interval=None if point is None else point.output_tokens_per_s_interval,
        knee=knee(
            (each.load, each.requests_per_min, each.e2e_s.mean)
            for step, each in zip(steps, curve, strict=True)
            if step.verdict is not None and each.requests_per_min and each.e2e_s
        ),
        curve=curve,
    )


def _ended(search: CapacitySearch) -> str:
    """Why the search ended; the capacity is known to within the precision only if this is `precision`."""
    if not search.converged or search.next() is not None:
        return "stopped"
    if search.passes_at is None:
        return "at_least"
    return "at_most" if search.fails_at is None else "precision"


def _point(load: Capacity, step: StepResult, totals: RunTotals, window_s: float | None) -> CurvePoint:
    verdict, own, evidence = None if step.invalidated else step.verdict, figures(totals, window_s), step.judge.evidence
    late = failed_later(step, {step.name: totals}) if verdict is not None and verdict.decision.passed else None
    reason = step.invalidated or ("the run ended before the verdict" if verdict is None else verdict.reason)
    if late is not None:
        reason = f"fails with its last answers: {late.describe(measured(late, totals))}"
    return CurvePoint(
        name=step.name,
        load=step.load,
        users=int(step.load) if load.has_users else None,
        rate_per_s=None if load.has_users else step.load,
        passed=None if verdict is None else verdict.decision.passed and late is None,
        significant=verdict is not None and verdict.decision.significant and late is None,
        reason=reason,
        objectives=() if verdict is None else tuple(map(_objective_result, verdict.objectives)),
        window_s=window_s,
        completed=totals.completed_in_window,
        in_flight_mean=totals.busy_s / window_s if window_s else None,
        requests_per_min=own.requests_per_min,
        output_tokens_per_s=own.output_tokens_per_s,
        goodput_share=own.goodput_share,
        error_share=own.error_share,
        ttft_s=own.ttft_s,
        tpot_s=own.tpot_s,
        e2e_s=own.e2e_s,
        requests_per_min_interval=_scaled(evidence.rate_interval("completed", load.confidence), S_PER_MIN),
        output_tokens_per_s_interval=_scaled(evidence.rate_interval("tokens", load.confidence), 1),
    )


def _objective_result(evidence: ObjectiveEvidence) -> ObjectiveResult:
    return ObjectiveResult(
        objective=str(evidence.objective),
        figure=evidence.figure,
        interval=evidence.interval,
        passed=evidence.decision.passed,
        significant=evidence.decision.significant,
    )


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return None if interval is None else (max(0.0, interval[0]) * factor, max(0.0, interval[1]) * factor)


PASSED: Final = {True: "passes", False: "fails"}
STYLES: Final = {True: "green", False: "red", None: "dim"}


def capacity_report(capacity: CapacityResult, doubts: Mapping[str, Sequence[Doubt]]) -> list[Table | Text]:
    """Return what was found in a few lines, then the curve as a table; `doubts` of each step by its name."""
    none = capacity.passes is None
    head = Text("capacity  ")
    head.append(capacity_text(capacity), style="bold red" if none else "bold green")
    objectives = Text(f"  objectives: {', '.join(capacity.objectives)}", style="dim")
    return [head, objectives, Text(f"  {capacity_notes(capacity)}", style="dim"), *_curve(capacity, doubts)]


def capacity_text(capacity: CapacityResult) -> str:
    """Return the load that was found, with its rates."""
    if capacity.passes is None:
        return "not even the smallest load passes" if capacity.ended == "at_least" else "none found"
    rates = (
        _with_interval(capacity.requests_per_min, capacity.requests_per_min_interval),
        _with_interval(capacity.output_tokens_per_s, capacity.output_tokens_per_s_interval),
    )
    return f"{capacity.passes:g} {_unit(capacity)}: {rates[0]} requests/min, {rates[1]} tok/s"


def capacity_notes(capacity: CapacityResult) -> str:
    """Return how the search ended, the lowest load that fails, and the knee."""
    unit, notes = _unit(capacity), []
    if capacity.ended == "at_most":
        notes.append("at_most was reached: the engine may carry more")
    elif capacity.ended == "stopped":
        notes.append("the search was stopped before its end")
    if capacity.fails is not None:
        notes.append(f"{capacity.fails:g} {unit} fail")
    if capacity.passes is not None and not capacity.significant:
        notes.append("the interval leaves it undecided: longer steps would decide (step_max_s)")
    if capacity.knee is not None:
        notes.append(f"knee at {capacity.knee:g} {unit}")
    return "; ".join(notes)


def _with_interval(value: float | None, interval: Interval | None) -> str:
    return number(value, 1) + ("" if interval is None else f" ({interval[0]:,.1f} to {interval[1]:,.1f})")


def _curve(capacity: CapacityResult, doubts: Mapping[str, Sequence[Doubt]]) -> Iterator[Table | Text]:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(_unit(capacity), justify="right")
    for column in ("window, s", "requests/min", "tok/s", "TTFT p50", "p95", "TPOT p50", "p95", "e2e p50", "p95, ms"):
        table.add_column(column, justify="right")
    table.add_column("")
    for point in sorted(capacity.curve, key=lambda each: each.load):
        own = doubts.get(point.name, ())
        latencies = [marked(_ms(point, key, q), own, key, q) for key in _CURVE for q in _SHOWN]
        rates = [number(of, 1) for of in (point.window_s, point.requests_per_min, point.output_tokens_per_s)]
        verdict = Text(_verdict(point), style=STYLES[point.passed])
        table.add_row(f"{point.load:g}", *rates, *latencies, verdict)
    yield table
    of_steps = [doubt for point in capacity.curve for doubt in doubts.get(point.name, ()) if doubt.statistic in _SHOWN]
    yield from (Text(f"  {MARK} {line}", style="dim") for line in footnotes(of_steps, _CURVE))


def _verdict(point: CurvePoint) -> str:
    """`passes`, `passes?` if that is not significant, `fails: ` with the reason, or the reason alone."""
    if point.passed is None:
        return point.reason
    verdict = PASSED[point.passed] + ("" if point.significant else "?")
    return verdict if point.passed else f"{verdict}: {point.reason}"


def _unit(capacity: CapacityResult) -> str:
    return "users" if capacity.search == "users" else "requests/s"


_CURVE: Final = ("ttft_s", "tpot_s", "e2e_s")
_SHOWN: Final = ("p50", "p95")


def _ms(point: CurvePoint, key: str, quantile: str) -> str:
    distribution: Distribution | None = getattr(point, key)
    return number(None if distribution is None else distribution.value(quantile) * MS_PER_S, 0)
