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

from benchmarks.comparisons.client_cost.comparison import Requests
from benchmarks.comparisons.client_cost.evalscope import Evalscope
from benchmarks.comparisons.client_cost.inference_perf import InferencePerf
from benchmarks.comparisons.client_cost.locust_clients import PlainLocust
from benchmarks.comparisons.client_cost.other_tools import Aiperf, GenaiBench, Guidellm
from benchmarks.comparisons.client_cost.requirements import FLOOR, OWN, OWN_SOCKET
from benchmarks.comparisons.client_cost.sglang_bench import SglangBench
from benchmarks.comparisons.client_cost.vllm_bench import VllmBench
from benchmarks.comparisons.client_cost.works import COSTED, SPECIAL, Found, RunWork, plain
from benchmarks.tools.bench_run import Bench, Cores
from benchmarks.tools.c_loop.client import CLoop
from benchmarks.tools.cpu_time import idle_cores
from benchmarks.tools.llmload_client import Llmload
from benchmarks.tools.load_client import LoadClient
from benchmarks.tools.pinned import adopt_orphans
from benchmarks.tools.requirements import requirements_table
from benchmarks.tools.work import Work

CLIENTS: Final[dict[str, LoadClient]] = {
    client.name: client
    for client in (
        Llmload(OWN),
        Llmload(OWN_SOCKET, stamps="socket"),
        CLoop(FLOOR),
        CLoop("c-loop-6ms", look_ms=6),
        SglangBench(),
        GenaiBench(),
        Aiperf(),
        Guidellm(),
        Evalscope(),
        InferencePerf(),
        VllmBench(),
        PlainLocust("openai-locust", "chat_openai.py"),
        PlainLocust("fasthttp", "chat_fasthttp.py"),
    )
}


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
    runs = [work_named(name) for name in works or (*COSTED, *SPECIAL)]
    adopt_orphans()
    os.sched_setaffinity(0, {cores.engine})  # nothing else runs on the client's core
    with tempfile.TemporaryDirectory(prefix="llmload-client-cost-") as temporary:
        folder = (keep or Path(temporary)).absolute()
        idle = idle_cores()
        say(f"the machine uses {idle:.1%} of a core by itself")
        bench = Bench(cores=cores, folder=folder, repeat=repeat, keep=keep is not None, say=say, idle_cores=idle)
        found = []
        for run in runs:
            found.append(run(clients, requests, bench))
            for table in found[-1].tables:
                console().print(table)
    judgements = [judgement for each in found for judgement in each.judgements]
    if judgements:
        console().print(requirements_table(judgements))
    if json_file:
        json_file.write_text(json.dumps(as_json(found), indent=2) + "\n", encoding="utf-8")


def say(text: str) -> None:
    """Print progress to standard error."""
    click.echo(text, err=True)


def work_named(name: str) -> RunWork:
    """Return how to run a work; UsageError if the text describes none."""
    if name in SPECIAL:
        return SPECIAL[name]
    try:
        return plain(Work.parse(name), cost=name in COSTED)
    except ValueError as error:
        raise click.UsageError(f"--work: {error}; or one of {', '.join(SPECIAL)}") from None


def console() -> Console:
    """Return a console for tables, wide where output is not a terminal."""
    return Console(highlight=False, width=None if Console().is_terminal else 220)


def as_json(found: Sequence[Found]) -> dict[str, Any]:
    """Return every reading and judgement as plain values."""
    return {
        "works": {name: readings for each in found for name, readings in each.readings.items()},
        "judgements": [dataclasses.asdict(judgement) for each in found for judgement in each.judgements],
    }


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.comparisons.client_cost")
