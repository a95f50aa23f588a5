"""What a trial requires: a figure, its limit, and whether it was met; the only style of PASS and FAIL here."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A demand, the figure that answers it, and whether it is met."""

    work: str
    demand: str
    figure: str
    limit: str
    passed: bool


def at_most(work: str, demand: str, figure: float | None, limit: float, form: str = "{:.3f}") -> Requirement:
    """Judge a figure that may not pass a limit; one that is not known fails."""
    passed = figure is not None and figure <= limit
    shown = "not measured" if figure is None else form.format(figure)
    return Requirement(work=work, demand=demand, figure=shown, limit=f"<= {form.format(limit)}", passed=passed)


def exactly(work: str, demand: str, figure: object, wanted: object) -> Requirement:
    """Judge a figure that has to be a certain one."""
    return Requirement(work=work, demand=demand, figure=str(figure), limit=str(wanted), passed=figure == wanted)


def requirements_table(judgements: Sequence[Requirement]) -> Table:
    """Return a row per demand with its figure and limit."""
    table = Table(title="Demands", title_justify="left")
    for column in ("work", "demand", "figure", "limit", ""):
        table.add_column(column)
    for each in judgements:
        mark = "[green]PASS" if each.passed else "[red]FAIL"
        table.add_row(each.work, each.demand, each.figure, each.limit, mark)
    return table
