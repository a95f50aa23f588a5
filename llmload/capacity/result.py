"""What a search for a capacity found, as `summary.json` has it and as a terminal shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.table import Table
from rich.text import Text

from llmload.capacity.judge import Judgement, Standing, StepJudge, figure_of
from llmload.capacity.search import CapacitySearch, knee
from llmload.formatting import UNKNOWN, number
from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals
from llmload.runs.build_summary import figures
from llmload.runs.summary import CapacityResult, CurvePoint, Distribution, ObjectiveResult
from llmload.scenario.loads import Capacity
from llmload.units import MS_PER_S

HELD: Final = {True: "holds", False: "breaks"}
STYLES: Final = {True: "green", False: "red", None: "dim"}


@dataclass(slots=True)
class StepResult:
    """One step of a search; `judgement` is None while it goes on, or where the run ended before it was judged."""

    name: str
    load: float
    judge: StepJudge
    judgement: Judgement | None = None
    invalidated: str | None = None
    """Why the judgement does not count, where it does not."""


def best_step(
    steps: Sequence[StepResult], holds_at: float | None, stages: Mapping[str, RunTotals]
) -> StepResult | None:
    """
    Return the step with the highest load that holds, the last of several; None where none does.

    What was still on its way when a step was judged is in `stages` by now: a step that it broke does not hold.
    """
    held = [
        step
        for step in steps
        if step.judgement is not None
        and step.judgement.held
        and not step.invalidated
        and (holds_at is not None and step.load <= holds_at)
        and not broken_later(step, stages)
    ]
    return max(reversed(held), key=lambda step: step.load, default=None)


def broken_later(step: StepResult, stages: Mapping[str, RunTotals]) -> Objective | None:
    """Return the promise that a step which was judged to hold breaks by its last answers; None where it breaks none."""
    totals = stages.get(step.name)
    if totals is None:
        return None
    return next((o for o in step.judge.objectives if not o.kept(figure_of(o, totals))), None)


def describe(
    load: Capacity,
    promises: Sequence[Objective],
    steps: Sequence[StepResult],
    plan: CapacitySearch,
    *,
    stages: Mapping[str, RunTotals],
    windows_s: Mapping[str, float | None],
) -> CapacityResult:
    """Return the `capacity` of a summary."""
    curve = tuple(_point(load, step, stages.get(step.name, RunTotals()), windows_s.get(step.name)) for step in steps)
    found = best_step(steps, plan.holds_at, stages)
    point = None if found is None else curve[steps.index(found)]
    breaks = plan.breaks_at
    return CapacityResult(
        search=load.search,
        objectives=tuple(str(objective) for objective in promises),
        confidence=load.confidence,
        precision=load.precision,
        holds=None if found is None else found.load,
        breaks=breaks,
        ended=_ended(plan, breaks),
        sure=found is not None and found.judgement is not None and found.judgement.sure,
        step=None if found is None else found.name,
        requests_per_min=None if point is None else point.requests_per_min,
        requests_per_min_interval=None if point is None else point.requests_per_min_interval,
        output_tokens_per_s=None if point is None else point.output_tokens_per_s,
        output_tokens_per_s_interval=None if point is None else point.output_tokens_per_s_interval,
        knee=knee(
            (each.load, each.requests_per_min, each.e2e_s.mean)
            for each in curve
            if each.requests_per_min and each.e2e_s
        ),
        curve=curve,
    )


def _ended(plan: CapacitySearch, breaks: float | None) -> str:
    """Why the search ended: what it found is known to within the precision only where this says so."""
    if not plan.converged or plan.next() is not None:
        return "stopped"
    if plan.holds_at is None:
        return "at_least"
    return "at_most" if breaks is None else "precision"


def _point(load: Capacity, step: StepResult, totals: RunTotals, window_s: float | None) -> CurvePoint:
    judgement, measured = step.judgement, figures(totals, window_s)
    if step.invalidated:
        judgement = None
    late = broken_later(step, stages={step.name: totals}) if judgement is not None and judgement.held else None
    reason = step.invalidated or ("the run ended before it was judged" if judgement is None else judgement.reason)
    if late is not None:
        reason = f"its last answers broke it: {late.told(figure_of(late, totals))}"
    return CurvePoint(
        name=step.name,
        load=step.load,
        users=int(step.load) if load.has_users else None,
        rate_per_s=None if load.has_users else step.load,
        held=None if judgement is None else judgement.held and late is None,
        sure=judgement is not None and judgement.sure and late is None,
        reason=reason,
        objectives=() if judgement is None else tuple(_result(standing) for standing in judgement.standings),
        window_s=window_s,
        completed=totals.completed_in_window,
        in_flight_mean=totals.busy_s / window_s if window_s else None,
        requests_per_min=measured.requests_per_min,
        output_tokens_per_s=measured.output_tokens_per_s,
        goodput_share=measured.goodput_share,
        error_share=measured.error_share,
        ttft_s=measured.ttft_s,
        tpot_s=measured.tpot_s,
        e2e_s=measured.e2e_s,
        requests_per_min_interval=_per(step.judge.rate_interval("completed", load.confidence), 60),
        output_tokens_per_s_interval=_per(step.judge.rate_interval("tokens", load.confidence), 1),
    )


def _result(standing: Standing) -> ObjectiveResult:
    return ObjectiveResult(
        objective=str(standing.objective),
        figure=standing.figure,
        interval=standing.interval,
        kept=standing.kept,
        sure=standing.sure,
    )


def _per(interval: tuple[float, float] | None, factor: float) -> tuple[float, float] | None:
    return None if interval is None else (max(0.0, interval[0]) * factor, max(0.0, interval[1]) * factor)


def capacity_report(capacity: CapacityResult) -> list[Table | Text]:
    """Return what was found in a few lines, and the curve as a table."""
    none = capacity.holds is None
    head = Text("capacity  ")
    head.append(capacity_text(capacity), style="bold red" if none else "bold green")
    promised = Text(f"  promised: {', '.join(capacity.objectives)}", style="dim")
    return [head, promised, Text(f"  {capacity_notes(capacity)}", style="dim"), _curve(capacity)]


def capacity_text(capacity: CapacityResult) -> str:
    """Return what was found in a line."""
    if capacity.holds is None:
        return "not even the smallest load holds" if capacity.ended == "at_least" else "none found"
    rates = (
        _with_interval(capacity.requests_per_min, capacity.requests_per_min_interval),
        _with_interval(capacity.output_tokens_per_s, capacity.output_tokens_per_s_interval),
    )
    return f"{capacity.holds:g} {_unit(capacity)}: {rates[0]} requests/min, {rates[1]} tok/s"


def capacity_notes(capacity: CapacityResult) -> str:
    """Return in a line how the search ended, and what it says besides."""
    unit, notes = _unit(capacity), []
    if capacity.ended == "at_most":
        notes.append("at_most was reached: the engine may hold more")
    elif capacity.ended == "stopped":
        notes.append("the search was stopped before it was over")
    if capacity.breaks is not None:
        notes.append(f"{capacity.breaks:g} {unit} break the promise")
    if capacity.holds is not None and not capacity.sure:
        notes.append("the interval leaves it undecided: longer steps would tell (step_max_s)")
    if capacity.knee is not None:
        notes.append(f"knee at {capacity.knee:g} {unit}")
    return "; ".join(notes)


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:,.1f}" + ("" if interval is None else f" ({interval[0]:,.1f} to {interval[1]:,.1f})")


def _curve(capacity: CapacityResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(_unit(capacity), justify="right")
    for column in ("window, s", "requests/min", "tok/s", "TTFT p50", "p95", "TPOT p50", "p95", "e2e p50", "p95, ms"):
        table.add_column(column, justify="right")
    table.add_column("")
    for point in sorted(capacity.curve, key=lambda each: each.load):
        latencies = [_ms(of, q) for of in (point.ttft_s, point.tpot_s, point.e2e_s) for q in ("p50", "p95")]
        held = f"{HELD[point.held]}{'' if point.sure else '?'}" if point.held is not None else ""
        why = "" if point.held else f"{held and ': '}{point.reason}"
        figures_of = [number(of, 1) for of in (point.window_s, point.requests_per_min, point.output_tokens_per_s)]
        table.add_row(f"{point.load:g}", *figures_of, *latencies, Text(held + why, style=STYLES[point.held]))
    return table


def _unit(capacity: CapacityResult) -> str:
    return "users" if capacity.search == "users" else "requests/s"


def _ms(distribution: Distribution | None, quantile: str) -> str:
    return number(None if distribution is None else distribution.value(quantile) * MS_PER_S, 0)
