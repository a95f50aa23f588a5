"""The size of a worker's report: it grows with the spread of latencies, not with their number, up to a limit."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from rich.table import Table

from llmload.loadgen.messages import REPORT_BYTES, Reports, last_report, wire_bytes
from llmload.metrics.by_name import NamedTotals
from llmload.metrics.totals import RunTotals

SPREADS: Final = (0.1, 0.3, 0.5, 1.0, 2.0)
COUNTS: Final = (1_000, 100_000, 1_000_000)
LOCUST_BYTES: Final = 5_000
"""Space that is left for Locust's part of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A process's totals in a run of one stage."""

    totals: RunTotals
    run_id: str = "report-benchmark"
    stages: dict[str, RunTotals] = field(default_factory=dict)
    names: NamedTotals = field(default_factory=NamedTotals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of reports with `count` lognormal values in every distribution."""

    spread: float
    count: int
    whole_bytes: int
    """The last report, in which no histogram is coarser."""
    running_bytes: int
    """A report during the run, of those every three seconds."""


def sizes(seed: int = 1) -> Iterator[Size]:
    """Yield the sizes for each spread and count."""
    dice = np.random.default_rng(seed)
    for spread in SPREADS:
        for count in COUNTS:
            phase = Phase(totals=RunTotals())
            for histogram in phase.totals.distributions.values():
                histogram.add_many(dice.lognormal(0.0, spread, count))
            running_bytes = wire_bytes(Reports(phase).next(REPORT_BYTES - LOCUST_BYTES))
            yield Size(
                spread=spread, count=count, whole_bytes=wire_bytes(last_report(phase)), running_bytes=running_bytes
            )


def sizes_table(found: Iterator[Size]) -> Table:
    """Return a row per spread, a column per count."""
    by_spread: dict[float, list[str]] = {}
    for size in found:
        by_spread.setdefault(size.spread, []).append(f"{size.running_bytes:,} / {size.whole_bytes:,}")
    table = Table(title="llmload's part of a report, bytes", title_justify="left", caption_justify="left")
    table.caption = (
        "during the run / the last one\nevery distribution lognormal; spread: standard deviation of the logarithm"
    )
    table.add_column("spread", justify="right")
    for count in COUNTS:
        table.add_column(f"{count:,} values each", justify="right")
    for spread, row in by_spread.items():
        table.add_row(f"{spread:g}", *row)
    return table
