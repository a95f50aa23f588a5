"""A requirement: a figure, its limit, and PASS or FAIL."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A required figure, its limit, and whether it is met."""

    work: str
    name: str
    figure: str
    limit: str
    passed: bool


def at_most(work: str, name: str, figure: float | None, limit: float, form: str = "{:.3f}") -> Requirement:
    """Require a figure of at most `limit`; an unknown figure fails."""
    passed = figure is not None and figure <= limit
    shown = "not measured" if figure is None else form.format(figure)
    return Requirement(work=work, name=name, figure=shown, limit=f"<= {form.format(limit)}", passed=passed)


def exactly(work: str, name: str, figure: object, wanted: object) -> Requirement:
    """Require a certain value."""
    return Requirement(work=work, name=name, figure=str(figure), limit=str(wanted), passed=figure == wanted)


def requirements_table(judgements: Sequence[Requirement]) -> Table:
    """Return a row for each requirement with its figure and limit."""
    table = Table(title="Requirements", title_justify="left")
    for column in ("work", "requirement", "figure", "limit", ""):
        table.add_column(column)
    for each in judgements:
        mark = "[green]PASS" if each.passed else "[red]FAIL"
        table.add_row(each.work, each.name, each.figure, each.limit, mark)
    return table
