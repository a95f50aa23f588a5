"""The benchmark's tables."""

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
        f"x {BASELINE}",
        "start-up CPU s",
        "tokens/s",
        "TTFT mean ms",
        "TTFT p99 ms",
    )
    for column in (*columns, "ITL p50 ms", "ITL p99 ms", "coalesced", "failed", "verdict"):
        table.add_column(column, justify="right")
    for client, readings in comparison.readings.items():
        carried = comparison.median(client, "carried_tokens_per_s")
        coalesced = comparison.median(client, "coalesced_share")
        table.add_row(
            client,
            _number(comparison.median(client, "cpu_us_per_token"), 1),
            _number(comparison.median(client, "kernel_us_per_token"), 1),
            _number(comparison.cost_ratio(client), 2),
            _number(comparison.median(client, "startup_cpu_s"), 1),
            "-" if carried is None else f"{carried / 1000:.1f}k",
            *(_pair(comparison, client, field) for field in ("ttft_mean_s", "ttft_p99_s", "itl_p50_s", "itl_p99_s")),
            "-" if coalesced is None else f"{coalesced:.3%}",
            str(sum(reading.failed for reading in readings)),
            "/".join(sorted({reading.verdict or "-" for reading in readings})),
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _pair(comparison: Comparison, client: str, field: str) -> str:
    reported, true = comparison.median(client, field), comparison.median(client, f"true_{field}")
    return f"{'-' if reported is None else f'{reported * 1000:.2f}'} / {'-' if true is None else f'{true * 1000:.2f}'}"
