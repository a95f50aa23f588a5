"""Requests by their names as rows of text, for terminal, Markdown and the report."""

from typing import Final

from llmload.metrics.doubts import marked
from llmload.runs.summary import NameSummary, Summary
from llmload.units import milliseconds, number

NAME_COLUMNS: Final = (
    *("requests", "completed", "failed", "requests/min", "tok/s", "TTFT p50, ms", "TTFT p95, ms", "ITL p50, ms"),
    *("e2e p50, ms", "e2e p95, ms"),
)
"""The first is the name; `tok/s` is the mean speed of a request."""


def name_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Return a row for each name, with a text for each of `NAME_COLUMNS`; none where requests have no names."""
    return [_row(each) for each in summary.by_name or ()]


def _row(each: NameSummary) -> tuple[str, ...]:
    def shown(figure: str, statistic: str | None, *, in_ms: bool = True) -> str:
        value = each.value(figure, statistic)
        return marked(milliseconds(value) if in_ms else number(value, 1), each.doubts, figure, statistic)

    return (
        each.name,
        number(each.completed, 0),
        number(each.failed, 0),
        shown("requests_per_min", None, in_ms=False),
        shown("request_output_tokens_per_s", "mean", in_ms=False),
        *(shown("ttft_s", statistic) for statistic in ("p50", "p95")),
        shown("itl_s", "p50"),
        *(shown("e2e_s", statistic) for statistic in ("p50", "p95")),
    )
