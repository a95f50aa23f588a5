"""`llmload demo`: speed, throughput and sizing on the simulated engine, with Locust, in about a minute."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from llmload.exit_codes import ExitCode
from llmload.loadgen.command import locust_arguments
from llmload.scenario.shipped import find_scenario

MODEL: Final = "simulated"


@click.command()
@click.option("--out", default="runs", show_default=True, metavar="DIR", help="Where the run folders are created.")
def demo(out: str) -> None:
    """
    Measure speed and throughput of the embedded simulated engine, and show the sizing table. Nothing is downloaded.

    \b
    Example:
      llmload demo
    """
    from llmload.simulator import SimulationSettings, spawn

    settings = SimulationSettings(model=MODEL, slots=8, ttft_s=0.03, itl_s=0.005, output_tokens_mean=48.0)
    _step("1/4", "starting the simulated engine: it runs no model, and its times follow documented formulas")
    with spawn(settings) as engine:
        click.echo(f"ready at {engine.url}")
        _step("2/4", "speed: 100 prompts, one at a time (about 30 s)")
        speed = _run("lima-speed", {"base_url": engine.url, "model": MODEL, "engine": MODEL, "out": out})
        _step("3/4", "throughput: 8 requests in flight for 16 s")
        throughput = _run("demo", {"base_url": engine.url, "out": out})
    _step("4/4", "the three tables")
    _show_tables([speed, throughput])
    click.echo(f"\nRun folders: {speed} and {throughput}")
    click.echo("Next, your own engine:")
    click.echo("  llmload run lima-speed --engine vllm --base-url http://127.0.0.1:8000 --model NAME --prompts builtin")


def _step(number: str, text: str) -> None:
    click.secho(f"\n[{number}] {text}", bold=True)


def _run(scenario: str, changes: dict[str, str | int | None]) -> Path:
    before = _folders(Path(str(changes["out"])))
    arguments = locust_arguments(find_scenario(scenario), {**changes, "prompts": "builtin"})
    code = subprocess.run([sys.executable, "-m", "locust", *arguments], check=False).returncode  # noqa: S603 - our own command
    if code != ExitCode.GOOD:
        raise click.ClickException(f"the run of {scenario} ended with exit code {code}; see its output above")
    (made,) = _folders(Path(str(changes["out"]))) - before
    return made


def _folders(out: Path) -> set[Path]:
    return set(out.iterdir()) if out.is_dir() else set()


def _show_tables(runs: list[Path]) -> None:
    for arguments in (["vram", "table", "--rule", "reference"], ["report", *map(str, runs), "--reference-tables"]):
        click.echo(f"\n$ llmload {' '.join(arguments)}\n")
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "llmload.cli.main", *arguments], check=True)  # noqa: S603 - our own command
