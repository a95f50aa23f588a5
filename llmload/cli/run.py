"""`llmload run`: a thin door over the Locust command that it prints."""

import os
import shlex
import sys

import click

from llmload.cli.repeat import repeat_runs
from llmload.scenario.locust_command import locust_arguments
from llmload.scenario.shipped import find_scenario


@click.command()
@click.argument("scenario")
@click.option("--base-url", metavar="URL", help="Address of the engine, instead of the scenario's.")
@click.option("--engine", metavar="NAME", help="The engine's name for the tables: vllm, tgi, transformers, ...")
@click.option("--model", metavar="NAME", help="Model to ask for, instead of the scenario's.")
@click.option("--prompts", metavar="SOURCE", help="builtin, lima, or a file or folder, instead of the scenario's.")
@click.option("--users", type=click.IntRange(1), help="Requests in flight at a time, instead of the scenario's.")
@click.option("--requests", type=click.IntRange(1), help="Requests to send, instead of the scenario's number.")
@click.option("--run-time", metavar="TIME", help="How long to run (90, 90s, 5m), instead of the scenario's time.")
@click.option("--seed", type=int, help="Seed, instead of the scenario's.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the scenario: load.warmup_s=5.")
@click.option("--processes", type=int, help="Worker processes on this machine; -1 for one a core.")
@click.option("--out", metavar="DIR", help="Where the run folder is made, instead of the scenario's place.")
@click.option("--metrics-port", metavar="PORT", help="Port of /metrics for Prometheus, or off; 9646 unless told.")
@click.option(
    *("--linger", "--llmload-linger", "llmload_linger"),
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="After the run, serve /metrics until scraped once more, but no longer than this.",
)
@click.option(
    "--repeat",
    type=click.IntRange(1),
    metavar="N",
    help="Run N times, one after the other, with the same prompts, and show how far the figures spread.",
)
@click.option(
    "--progress",
    metavar="HOW",
    help="auto (redrawn on a terminal, else quiet), off, or seconds between lines on standard error.",
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of tables.")
@click.option("--junit", metavar="FILE", help="Write verdict and gates as JUnit XML, for a CI system.")
@click.option("--markdown", metavar="FILE", help="Write a summary in Markdown, for a CI system.")
@click.option("--web", is_flag=True, help="Open Locust's web UI on 127.0.0.1:8089 instead of running at once.")
def run(
    scenario: str,
    *,
    repeat: int | None,
    as_json: bool,
    web: bool,
    settings: tuple[str, ...],
    **changes: str | float | None,
) -> None:
    """
    Run SCENARIO, a file or the name of one that comes with llmload, and pass on Locust's exit code.

    0: good; 1: a gate was missed or requests failed; 2: wrong use; 3: the measurement is INVALID. With --repeat, the
    worst of all runs; Ctrl-C ends the run that goes on and shows what there is.

    \b
    Examples:
      llmload run demo --base-url http://127.0.0.1:8100
      llmload run lima-speed --engine vllm --base-url http://127.0.0.1:8000 --model my-model --prompts lima
      llmload run scenarios/lima-throughput.toml --users 32 --run-time 5m --processes 2
      llmload run demo --base-url http://127.0.0.1:8100 --set load.warmup_s=0 --set request.max_tokens=16
      llmload run demo --base-url http://127.0.0.1:8100 --metrics-port 9647 --linger 1
      llmload run demo --base-url http://127.0.0.1:8100 --set 'gates.objectives=["ttft_s p95 < 0.5"]'
      llmload run lima-throughput --base-url http://127.0.0.1:8000 --model NAME --repeat 3
    """
    if repeat is not None:
        if web:
            raise click.UsageError("--repeat runs without a web UI: leave --web out")
        sys.exit(repeat_runs(find_scenario(scenario), changes, settings, repeat, as_json=as_json))
    arguments = locust_arguments(find_scenario(scenario), changes, settings, as_json=as_json, web=web)
    click.echo(f"$ {shlex.join(['locust', *arguments])}", err=True)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "locust", *arguments])  # noqa: S606 - no shell is wanted
