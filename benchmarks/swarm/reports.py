"""How large a worker's report grows: it depends on how widely latencies spread, not on how many there are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgpack  # type: ignore[import-untyped] # it ships no types
import numpy as np
from rich.table import Table

from llmload.measure.totals import RunTotals

SPREADS: Final = (0.1, 0.3, 0.5, 1.0, 2.0)
COUNTS: Final = (1_000, 100_000, 1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of totals whose every distribution holds `count` values, lognormal with this spread."""

    spread: float
    count: int
    packed_bytes: int


def sizes(seed: int = 1) -> Iterator[Size]:
    """Yield the size of totals for each spread and count, as Locust packs them."""
    dice = np.random.default_rng(seed)
    for spread in SPREADS:
        for count in COUNTS:
            totals = RunTotals()
            for histogram in totals.distributions.values():
                histogram.add_many(dice.lognormal(0.0, spread, count))
            yield Size(spread=spread, count=count, packed_bytes=len(msgpack.dumps(totals.to_message())))


def sizes_table(found: Iterator[Size]) -> Table:
    """Return a row per spread, a column per count."""
    by_spread: dict[float, list[int]] = {}
    for size in found:
        by_spread.setdefault(size.spread, []).append(size.packed_bytes)
    table = Table(title="llmload's part of a report, bytes", title_justify="left", caption_justify="left")
    table.caption = "every distribution lognormal; spread: standard deviation of the logarithm; each stage adds as much"
    table.add_column("spread", justify="right")
    for count in COUNTS:
        table.add_column(f"{count:,} values each", justify="right")
    for spread, row in by_spread.items():
        table.add_row(f"{spread:g}", *map(str, row))
    return table
