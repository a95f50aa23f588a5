"""A run's figures as text: which ones its tables have, and the mark of those in doubt."""

from collections.abc import Callable
from typing import Final

from llmload.metrics.doubts import lines_of, marked
from llmload.metrics.objective import LABELS
from llmload.runs.summary import Summary
from llmload.units import number

LATENCIES: Final = {LABELS[key]: key for key in ("ttft_s", "itl_s", "tpot_s", "e2e_s")}
COLUMNS: Final = ("mean", "p50", "p90", "p95", "p99", "max")

SHOWN: Final = ("request_output_tokens_per_s mean", "requests_per_min", "output_tokens_per_s", *LATENCIES.values())
"""The figures of which the tables of a run's end have statistics."""


def figure_text(summary: Summary, key: str, statistic: str | None, text: Callable[[float | None], str]) -> str:
    """Return a figure's text, marked where it is in doubt."""
    return marked(text(summary.value(key, statistic)), summary.verdict.doubts, key, statistic)


def tenths(value: float | None) -> str:
    """Return a number with one decimal."""
    return number(value, 1)


def doubt_lines(summary: Summary) -> list[str]:
    """Return a line for each check that doubts a figure of the tables, with the mark that these have."""
    return lines_of(summary.verdict, SHOWN)
