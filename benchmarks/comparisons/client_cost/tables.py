"""The benchmark's tables, and its readings as plain values."""

import dataclasses
from typing import Any

from rich.table import Table

from benchmarks.comparisons.client_cost.comparison import BASELINE, Comparison


def comparison_table(comparison: Comparison) -> Table:
    """Return a row per client, medians over the repetitions; pairs are reported / true."""
    work = comparison.work
    title = f"{work.label}: {work.offered_tokens_per_s / 1000:.1f}k tokens/s offered"
    table = Table(title=title, title_justify="left", caption="medians; reported / true", caption_justify="left")
    table.add_column("client")
    columns = (
        "CPU us/token",
        "in kernel",
        "engine's",
        "machine's",
        f"x {BASELINE}",
        "start-up CPU s",
        "tokens/s",
        "TTFT mean ms",
        "TTFT p99 ms",
    )
    for column in (*columns, "ITL p50 ms", "ITL p99 ms", "ITL max ms", "coalesced", "failed", "verdict"):
        table.add_column(column, justify="right")
    for client, readings in comparison.readings.items():
        carried = comparison.median(client, "carried_tokens_per_s")
        coalesced = comparison.median(client, "coalesced_share")
        table.add_row(
            client,
            number(comparison.median(client, "cpu_us_per_token"), "{:.1f}"),
            number(comparison.median(client, "kernel_us_per_token"), "{:.1f}"),
            number(comparison.median(client, "engine_us_per_token"), "{:.1f}"),
            number(comparison.median(client, "machine_us_per_token"), "{:.1f}"),
            number(comparison.ratio(client, BASELINE), "{:.2f}"),
            number(comparison.median(client, "startup_cpu_s"), "{:.1f}"),
            number(None if carried is None else carried / 1000, "{:.1f}k"),
            *(
                pair(comparison, client, field)
                for field in ("ttft_mean_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s", "itl_max_s")
            ),
            number(coalesced, "{:.3%}"),
            str(sum(reading.failed for reading in readings)),
            "/".join(sorted({reading.verdict or "-" for reading in readings})),
        )
    return table


def number(value: float | None, form: str) -> str:
    """Return a figure in that format; `-` for one that is not known."""
    return "-" if value is None else form.format(value)


def pair(comparison: Comparison, client: str, field: str, true_field: str | None = None) -> str:
    """Return `reported / true` in milliseconds."""
    figures = (comparison.median(client, name) for name in (field, true_field or f"true_{field}"))
    return " / ".join(number(None if each is None else each * 1000, "{:.2f}") for each in figures)


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return every reading as plain values."""
    return {
        "work": dataclasses.asdict(comparison.work),
        "readings": [dataclasses.asdict(each) for rows in comparison.readings.values() for each in rows],
    }
