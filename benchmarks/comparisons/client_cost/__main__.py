"""`python -m benchmarks.comparisons.client_cost`: CPU time a token, and accuracy, of llmload and peers."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from benchmarks.comparisons.client_cost.comparison import BASELINE, Comparison, Requests, compare
from benchmarks.comparisons.client_cost.evalscope import Evalscope
from benchmarks.comparisons.client_cost.locust_clients import PlainLocust
from benchmarks.comparisons.client_cost.other_tools import Aiperf, GenaiBench, Guidellm
from benchmarks.comparisons.client_cost.requirements import OWN, cost_and_truth
from benchmarks.comparisons.client_cost.sglang_bench import SglangBench
from benchmarks.comparisons.client_cost.special import SPECIAL
from benchmarks.comparisons.client_cost.tables import comparison_table
from benchmarks.tools.bench_run import Bench, Cores
from benchmarks.tools.llmload_client import Llmload
from benchmarks.tools.load_client import LoadClient
from benchmarks.tools.pinned import adopt_orphans
from benchmarks.tools.requirements import Requirement, requirements_table
from benchmarks.tools.work import Work

CLIENTS: Final[dict[str, LoadClient]] = {
    client.name: client
    for client in (
        Llmload(),
        Llmload("llmload-socket", stamps="socket"),
        SglangBench(),
        GenaiBench(),
        Aiperf(),
        Guidellm(),
        Evalscope(),
        PlainLocust("openai-locust", "chat_openai.py"),
        PlainLocust("fasthttp", "chat_fasthttp.py"),
    )
}
COST_LIMITS: Final = {"200x100x128": 0.9, "400x100x128": 0.8}
"""By work: the limit of llmload's cost a token, as a ratio to the baseline's."""
WITHOUT_TTFT: Final = {"400x100x128"}
"""Works without a requirement on TTFT: llmload's mean includes opening the connections, the engine's log does not."""


def read_requests(_: click.Context, __: click.Parameter, text: str) -> Requests:
    """Read `SHORT,LONG`."""
    short, comma, long = text.partition(",")
    if not (comma and short.isdigit() and long.isdigit() and 0 < int(short) < int(long)):
        raise click.BadParameter("two numbers, the smaller first, such as 2000,6000")
    return Requests(short=int(short), long=int(long))


def choose_clients(only: str | None) -> list[LoadClient]:
    """Return the named clients, or all that are installed; UsageError for one that cannot run."""
    names = only.split(",") if only else [name for name, client in CLIENTS.items() if client.missing() is None]
    for name in names:
        if name not in CLIENTS:
            raise click.UsageError(f"--only: {name}: known are {', '.join(CLIENTS)}")
        if fault := CLIENTS[name].missing():
            raise click.UsageError(f"--only: {name}: {fault}")
    return [CLIENTS[name] for name in names]


@click.command()
@click.option("--only", metavar="NAMES", help="Clients, with commas between; all that are installed where absent.")
@click.option(
    "--work",
    "works",
    multiple=True,
    metavar="WORK",
    help=f"STREAMSxTOKENS_PER_SxTOKENS, or one of {', '.join(SPECIAL)}; all with a requirement where absent.",
)
@click.option("--repeat", type=click.IntRange(min=1), default=5, show_default=True, help="Repetitions.")
@click.option(
    "--requests",
    default="2000,6000",
    show_default=True,
    callback=read_requests,
    metavar="SHORT,LONG",
    help="Requests of the two runs whose difference is what a token costs.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write every reading here.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder to work in; its files stay.")
def main(
    only: str | None, works: Sequence[str], repeat: int, requests: Requests, json_file: Path | None, keep: Path | None
) -> None:
    """Measure what a token costs each client on one core, and compare what it reports with the engine's log."""
    clients, cores = choose_clients(only), Cores.of_this_machine()
    works = works or (*COST_LIMITS, *SPECIAL)
    plain = {name: parse_work(name) for name in works if name not in SPECIAL}
    adopt_orphans()
    os.sched_setaffinity(0, {cores.engine})  # nothing else runs on the client's core
    with tempfile.TemporaryDirectory(prefix="llmload-client-cost-") as temporary:
        folder = (keep or Path(temporary)).absolute()
        bench = Bench(cores=cores, folder=folder, repeat=repeat, keep=keep is not None, say=say)
        comparisons: list[Comparison] = []
        judgements: list[Requirement] = []
        for name, work in plain.items():
            comparison = compare(clients, work, requests, bench)
            comparisons.append(comparison)
            if OWN in comparison.readings:
                limit = COST_LIMITS.get(name) if BASELINE in comparison.readings else None
                judgements += cost_and_truth(comparison, limit, ttft=name not in WITHOUT_TTFT)
        for name in works:
            if name in SPECIAL:
                judgements += SPECIAL[name](bench)
    report(comparisons, judgements, json_file)


def say(text: str) -> None:
    """Print progress to standard error."""
    click.echo(text, err=True)


def parse_work(text: str) -> Work:
    """Return the work; UsageError if the text describes none."""
    try:
        return Work.parse(text)
    except ValueError as error:
        raise click.UsageError(f"--work: {error}; or one of {', '.join(SPECIAL)}") from None


def report(comparisons: Sequence[Comparison], judgements: Sequence[Requirement], json_file: Path | None) -> None:
    """Print the tables, and write the readings to a JSON file where one is named."""
    console = Console(highlight=False, width=None if Console().is_terminal else 200)
    for comparison in comparisons:
        console.print(comparison_table(comparison))
    if judgements:
        console.print(requirements_table(judgements))
    if json_file:
        json_file.write_text(json.dumps(as_json(comparisons, judgements), indent=2) + "\n", encoding="utf-8")


def as_json(comparisons: Sequence[Comparison], judgements: Sequence[Requirement]) -> dict[str, Any]:
    """Return every reading and judgement as plain values."""
    return {
        "works": {
            comparison.work.label: {
                "work": dataclasses.asdict(comparison.work),
                "readings": [dataclasses.asdict(each) for rows in comparison.readings.values() for each in rows],
                "cost_ratios": {client: comparison.cost_ratio(client) for client in comparison.readings},
            }
            for comparison in comparisons
        },
        "judgements": [dataclasses.asdict(judgement) for judgement in judgements],
    }


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.comparisons.client_cost")
