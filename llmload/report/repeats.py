"""The spread of each figure over repeated runs, for terminal, JSON and Markdown."""

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmload.metrics.objective import METRICS, Metric
from llmload.runs.summary import Summary
from llmload.stats.intervals import Spread
from llmload.units import UNKNOWN, markdown_table, milliseconds, percent

REPEAT: Final = "repeat.json"
SPREAD_COLUMNS: Final = ("figure", "median", "min", "max", "mean of runs (95 %)")


def spread_of(summaries: Sequence[Summary]) -> dict[str, Spread]:
    """Return the spread of each figure that every run measured, by the metric's name."""
    spreads = {}
    for metric in METRICS:
        values = [summary.value(metric.figure, metric.statistic) for summary in summaries]
        known = [value for value in values if value is not None]
        if known and len(known) == len(summaries):
            spreads[metric.name] = Spread.of(known)
    return spreads


def repeated(asked: int, names: Sequence[str], summaries: Sequence[Summary]) -> dict[str, Any]:
    """Return the content of `repeat.json`: the number of runs requested, the names of those done, and their spread."""
    return {
        "asked": asked,
        "runs": list(names),
        "spread": {name: spread.to_dict() for name, spread in spread_of(summaries).items()},
    }


def repeat_report(asked: int, summaries: Sequence[Summary]) -> RenderableType:
    """Return the table of spreads."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(SPREAD_COLUMNS):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in _spread_rows(summaries):
        table.add_row(*row)
    return Group(Text(f"\n{_spread_title(asked, summaries)}", style="bold"), table)


def repeat_markdown(asked: int, summaries: Sequence[Summary]) -> str:
    """Return the table of spreads as Markdown."""
    table = markdown_table(SPREAD_COLUMNS, _spread_rows(summaries), right=range(1, len(SPREAD_COLUMNS)))
    return f"## {_spread_title(asked, summaries)}\n\n{table}\n"


def _spread_title(asked: int, summaries: Sequence[Summary]) -> str:
    done = len(summaries)
    return f"{done} runs of the same prompts" if done == asked else f"{done} of {asked} runs, then stopped"


def _spread_rows(summaries: Sequence[Summary]) -> list[list[str]]:
    spreads = spread_of(summaries)
    return [_spread_row(metric, spreads[metric.name]) for metric in METRICS if metric.name in spreads]


def _spread_row(metric: Metric, spread: Spread) -> list[str]:
    in_ms = metric.statistic is not None and not metric.higher_is_better

    def shown(value: float) -> str:
        return percent(value, 2) if metric.is_share else milliseconds(value) if in_ms else f"{value:,.4g}"

    mean = UNKNOWN if spread.low is None or spread.high is None else f"{shown(spread.low)} to {shown(spread.high)}"
    return [
        metric.label + (", ms" if in_ms else ""),
        *(shown(value) for value in (spread.median, spread.least, spread.most)),
        mean,
    ]
