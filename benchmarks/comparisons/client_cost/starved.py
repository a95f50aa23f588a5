"""A client that gets a seventh of a core: does what it reports of the engine stay true?"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.table import Table

from benchmarks.comparisons.client_cost.comparison import Comparison, Figures
from benchmarks.comparisons.client_cost.requirements import OWN, itl_errors
from benchmarks.comparisons.client_cost.tables import number, pair
from benchmarks.tools.bench_run import Bench, run_client
from benchmarks.tools.load_client import LoadClient
from benchmarks.tools.requirements import Requirement, at_most
from benchmarks.tools.work import Work

WORK: Final = Work(streams=200, tokens_per_s=100, tokens=128)
BUSY: Final = 6
"""How many processes share the client's core with it, and never wait."""
ITL_ERROR: Final = 0.005
TTFT_ERROR_S: Final = 0.0002
LATENCIES: Final = {"all", "itl_s", "ttft_wire_s"}
"""What the verdict must not doubt: the packet ring stamps whether or not the client runs."""
NAME: Final = "starved"


@contextmanager
def busy_processes(count: int, cpu: int) -> Iterator[list[int]]:
    """Run processes on a core that never wait, of the same priority as the client; yield their process ids."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, {cpu})) for _ in range(count)]
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def starved(clients: Sequence[LoadClient], requests: int, bench: Bench) -> Comparison:
    """Run each client `bench.repeat` times beside the busy processes."""
    comparison = Comparison(WORK)
    for repetition in range(bench.repeat):
        for client in clients if repetition % 2 == 0 else clients[::-1]:
            subfolder = f"{NAME}/{client.name}-{repetition}"
            with busy_processes(BUSY, bench.cores.client):
                run = run_client(client, WORK, requests, bench=bench, subfolder=subfolder, patience=1 + BUSY)
            latest = Figures.of(run)
            comparison.add(latest)
            bench.say(
                f"{NAME}  {repetition + 1}/{bench.repeat}  {client.name}: "
                f"{latest.carried_tokens_per_s / 1000:.1f}k tokens/s"
            )
    return comparison


def judge_starved(comparison: Comparison) -> list[Requirement]:
    """Judge llmload's latencies against the engine's log, and what its verdict says of load and latencies."""
    if OWN not in comparison.readings:
        return []
    readings = comparison.readings[OWN]
    wire_error_s = comparison.error(OWN, "ttft_wire_mean_s", relative=False, true_field="true_ttft_mean_s")
    reasons = sorted({reason for each in readings for reason in each.reasons})
    doubted = sorted({figure for each in readings for figure in each.doubted} & LATENCIES)
    return [
        at_most(NAME, "failed requests", sum(each.failed for each in readings), 0, "{:.0f}"),
        *itl_errors(comparison, OWN, ITL_ERROR, NAME),
        at_most(NAME, "TTFT on the wire, mean off by, s", wire_error_s, TTFT_ERROR_S, "{:.5f}"),
        Requirement(
            work=NAME,
            name="every verdict says that the load was not carried",
            figure=", ".join(reasons) or "no reason",
            limit="a reason",
            passed=all(each.reasons for each in readings),
        ),
        Requirement(
            work=NAME,
            name="latencies that a verdict doubts",
            figure=", ".join(doubted) or "none",
            limit="none",
            passed=not doubted,
        ),
    ]


def starved_table(comparison: Comparison) -> Table:
    """Return a row per client, medians over the repetitions; pairs are reported / true."""
    work = comparison.work
    title = f"{NAME}: {work.label} with {BUSY} busy processes on the client's core"
    table = Table(title=title, title_justify="left", caption="medians; reported / true", caption_justify="left")
    table.add_column("client")
    for column in (
        *("tokens/s, of offered", "TTFT mean ms", "wire TTFT mean ms", "ITL p50 ms", "ITL p99 ms", "ITL max ms"),
        *("coalesced", "failed", "verdict", "reasons", "in doubt"),
    ):
        table.add_column(column, justify="right")
    for client, readings in comparison.readings.items():
        carried = comparison.median(client, "carried_tokens_per_s") or 0.0
        table.add_row(
            client,
            f"{carried / work.offered_tokens_per_s:.1%}",
            pair(comparison, client, "ttft_mean_s"),
            pair(comparison, client, "ttft_wire_mean_s", true_field="true_ttft_mean_s"),
            *(pair(comparison, client, f"itl_{name}_s") for name in ("p50", "p99", "max")),
            number(comparison.median(client, "coalesced_share"), "{:.2%}"),
            str(sum(each.failed for each in readings)),
            "/".join(sorted({each.verdict or "-" for each in readings})),
            ", ".join(sorted({reason for each in readings for reason in each.reasons})) or "-",
            ", ".join(sorted({figure for each in readings for figure in each.doubted})) or "-",
        )
    return table
