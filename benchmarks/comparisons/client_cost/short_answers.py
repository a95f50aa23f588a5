"""Short answers, where the request costs more than its tokens: how many requests/s a core carries."""

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from benchmarks.comparisons.client_cost.comparison import Comparison, Requests, compare
from benchmarks.comparisons.client_cost.tables import number, pair
from benchmarks.tools.bench_run import Bench
from benchmarks.tools.load_client import LoadClient
from benchmarks.tools.work import Work

WORKS: Final = tuple(
    Work(streams=256, tokens_per_s=200, tokens=tokens, ttft_s=0.010, ttft_spread_s=0.002, ramp_s=0.5)
    for tokens in (1, 8)
)
"""More requests/s than one core of any client that parses answers carries, so its core is full."""
LONGER: Final = 2
"""Runs have more requests by this factor: one takes a hundredth of the time that an answer of 128 tokens takes."""


def short_answers(clients: Sequence[LoadClient], requests: Requests, bench: Bench) -> list[Comparison]:
    """Compare the clients on answers of each length."""
    more = Requests(short=LONGER * requests.short, long=LONGER * requests.long)
    return [compare(clients, work, more, bench, name=f"short {work.tokens}") for work in WORKS]


def short_table(comparison: Comparison) -> Table:
    """Return a row per client, medians over the repetitions."""
    work = comparison.work
    noun = "token" if work.tokens == 1 else "tokens"
    title = f"short: answers of {work.tokens} {noun}, {work.streams} streams, closed loop"
    caption = "medians; requests/s a core = 1 / CPU a request, by difference of two runs; TTFT reported / true"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("client")
    columns = ("requests/s a core", "CPU us/request", "engine's", "machine's", "requests/s carried", "TTFT mean ms")
    for column in (*columns, "failed"):
        table.add_column(column, justify="right")
    for client, readings in comparison.readings.items():
        cost, engine, machine = (
            (comparison.median(client, f"{whose}_us_per_token") or 0.0) * work.tokens
            for whose in ("cpu", "engine", "machine")
        )
        carried = comparison.median(client, "carried_tokens_per_s")
        table.add_row(
            client,
            number(1e6 / cost if cost > 0 else None, "{:,.0f}"),
            *(number(each, "{:.0f}") for each in (cost, engine, machine)),
            number(None if carried is None else carried / work.tokens, "{:,.0f}"),
            pair(comparison, client, "ttft_mean_s"),
            str(sum(each.failed for each in readings)),
        )
    return table
