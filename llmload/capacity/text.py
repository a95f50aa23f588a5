"""What a search found, as text: a line, the notes beside it, and the curve as a table for a terminal."""

from typing import Final

from rich.table import Table
from rich.text import Text

from llmload.formatting import number
from llmload.runs.summary_parts import CapacityResult, CurvePoint, Distribution, Interval
from llmload.units import MS_PER_S

PASSED: Final = {True: "passes", False: "fails"}
STYLES: Final = {True: "green", False: "red", None: "dim"}


def capacity_report(capacity: CapacityResult) -> list[Table | Text]:
    """Return what was found in a few lines, then the curve as a table."""
    none = capacity.passes is None
    head = Text("capacity  ")
    head.append(capacity_text(capacity), style="bold red" if none else "bold green")
    objectives = Text(f"  objectives: {', '.join(capacity.objectives)}", style="dim")
    return [head, objectives, Text(f"  {capacity_notes(capacity)}", style="dim"), _curve(capacity)]


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


def _curve(capacity: CapacityResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(_unit(capacity), justify="right")
    for column in ("window, s", "requests/min", "tok/s", "TTFT p50", "p95", "TPOT p50", "p95", "e2e p50", "p95, ms"):
        table.add_column(column, justify="right")
    table.add_column("")
    for point in sorted(capacity.curve, key=lambda each: each.load):
        latencies = [_ms(of, q) for of in (point.ttft_s, point.tpot_s, point.e2e_s) for q in ("p50", "p95")]
        rates = [number(of, 1) for of in (point.window_s, point.requests_per_min, point.output_tokens_per_s)]
        verdict = Text(_verdict(point), style=STYLES[point.passed])
        table.add_row(f"{point.load:g}", *rates, *latencies, verdict)
    return table


def _verdict(point: CurvePoint) -> str:
    """`passes`, `passes?` if that is not significant, `fails: ` with the reason, or the reason alone."""
    if point.passed is None:
        return point.reason
    verdict = PASSED[point.passed] + ("" if point.significant else "?")
    return verdict if point.passed else f"{verdict}: {point.reason}"


def _unit(capacity: CapacityResult) -> str:
    return "users" if capacity.search == "users" else "requests/s"


def _ms(distribution: Distribution | None, quantile: str) -> str:
    return number(None if distribution is None else distribution.value(quantile) * MS_PER_S, 0)
