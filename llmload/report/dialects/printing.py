"""Figures of a dialect on a terminal, laid out as the tool does, so that two tables can be held side by side."""

from collections.abc import Iterator
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmload.report.dialects.catalogue import Dialect
from llmload.report.dialects.figures import Figure, Section
from llmload.report.dialects.sample import Sample
from llmload.report.tables import UNKNOWN

WIDTH: Final = 50
LABEL_WIDTH: Final = 40


def dialect_report(run_id: str, sample: Sample, dialect: Dialect) -> RenderableType:
    """Return the run by a tool's definitions: its tables, then the definitions, their source and this run's notes."""
    title = Text(f"\n{run_id}", style="bold")
    title.append(f"  by the definitions of {dialect.tool} ({dialect.release})", style="default")
    sections = dialect.sections(sample)
    if dialect.layout == "lines":
        tables: list[RenderableType] = [Text("\n".join(serving_lines(sections)))]
    else:
        tables = [_matrix(each) if dialect.layout == "matrix" else _columns(each) for each in sections]
    explained = [f"  {line}" for line in (*dialect.definitions, f"read in {dialect.source}")]
    notes = [Text(f"  note: {note}", style="yellow") for note in sample.notes]
    return Group(title, *tables, Text("\n".join(explained), style="dim"), *notes)


def dialect_json(run_id: str, sample: Sample, dialect: Dialect) -> dict[str, Any]:
    """Return the figures under the keys of the tool's own export; unknown is None."""
    figures = [figure for section in dialect.sections(sample) for figure in section.figures]
    return {
        "run_id": run_id,
        "tool": dialect.tool,
        "release": dialect.release,
        "source": dialect.source,
        "figures": {figure.key: figure.value for figure in figures if figure.key},
        "notes": list(sample.notes),
    }


def serving_lines(sections: list[Section]) -> Iterator[str]:
    """Yield the lines that `vllm bench serve` and `sglang.benchmark.serving` print."""
    for place, section in enumerate(sections):
        yield f"{f' {section.title} ' if not place else section.title:{'-' if place else '='}^{WIDTH}}"
        for figure in section.figures:
            yield f"{figure.row:<{LABEL_WIDTH}} {_text(figure, grouped=False):<10}"
    yield "=" * WIDTH


def _matrix(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", box=SIMPLE_HEAD)
    columns = list(dict.fromkeys(figure.column for figure in section.figures))
    table.add_column("Metric", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column or "value", justify="right")
    rows: dict[str, dict[str, str]] = {}
    for figure in section.figures:
        rows.setdefault(figure.row, {})[figure.column] = _text(figure)
    for row, cells in rows.items():
        table.add_row(row, *(cells.get(column, "N/A") for column in columns))
    return table


def _columns(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for figure in section.figures:
        table.add_column(figure.row, justify="right")
    table.add_row(*(_text(figure) for figure in section.figures))
    return table


def _text(figure: Figure, *, grouped: bool = True) -> str:
    if figure.value is None:
        return UNKNOWN
    return f"{figure.value:,.{figure.digits}f}" if grouped else f"{figure.value:.{figure.digits}f}"
