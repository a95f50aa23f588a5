"""`python -m benchmarks.trials.runs`: whole runs in one process, in several, and on several hosts."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from benchmarks.tools.hosts import Network
from benchmarks.tools.requirements import Requirement, requirements_table
from benchmarks.trials.runs.arrivals import KINDS, RATES_PER_S, measure, readings_table
from benchmarks.trials.runs.count import SETTINGS, accounts_table
from benchmarks.trials.runs.count import count as count_runs
from benchmarks.trials.runs.reports import sizes, sizes_table
from benchmarks.trials.runs.requirements import judge_arrivals
from benchmarks.trials.runs.worker_loss import LOSSES, judge_losses, lose_worker, losses_table


@click.group()
def main() -> None:
    """Test whole runs against their requirements."""


def say(text: str) -> None:
    """Print progress to standard error."""
    click.echo(text, err=True)


def console() -> Console:
    """Return a console for tables, wide where output is not a terminal."""
    return Console(highlight=False, width=None if Console().is_terminal else 200)


def usable_settings(settings: tuple[str, ...]) -> list[str]:
    """Return the settings that this machine supports; print why others are left out."""
    wanted = list(settings or SETTINGS)
    if "hosts" in wanted and (fault := Network.missing()):
        say(f"hosts: left out: {fault}")
        wanted.remove("hosts")
    return wanted


@contextmanager
def working_in(keep: Path | None) -> Iterator[Path]:
    """Yield a folder for the files of runs: `keep`, or a temporary one."""
    with tempfile.TemporaryDirectory(prefix="llmload-runs-") as temporary:
        yield (keep or Path(temporary)).absolute()


def print_requirements(judgements: Sequence[Requirement]) -> None:
    """Print the requirements; exit code 1 where one is not met."""
    console().print(requirements_table(judgements))
    if not all(each.passed for each in judgements):
        raise SystemExit(1)


keep_option = click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), help="Write files of runs here, and leave them."
)


@main.command()
@click.option("--runs", type=click.IntRange(min=1), default=20, show_default=True, help="Runs in each setting.")
@click.option("--seed", default=1, show_default=True, help="Seed of loads, faults and ends.")
@click.option("--setting", "settings", multiple=True, type=click.Choice(SETTINGS), help="Settings; all where absent.")
@keep_option
def count(runs: int, seed: int, settings: tuple[str, ...], keep: Path | None) -> None:
    """Compare a summary's counts with the files and the engine's log, in runs with random ends and faults."""
    with working_in(keep) as folder:
        done = list(count_runs(usable_settings(settings), runs, seed, folder, say))
    console().print(accounts_table(done))
    for run in done:
        for difference in run.differences:
            click.echo(f"{run.setting} {run.trial.number:02} {run.trial.end}: {difference}")
    if any(run.differences for run in done):
        raise SystemExit(1)


@main.command()
@click.option("--rate", "rates", multiple=True, type=click.IntRange(min=1), help="Requests/s; repeatable.")
@click.option("--scale", default=1.0, show_default=True, help="Multiplies every run's length.")
@click.option("--seed", default=1, show_default=True, help="Seed of the arrivals.")
@keep_option
def arrivals(rates: tuple[int, ...], scale: float, seed: int, keep: Path | None) -> None:
    """Compare the arrivals of an open loop on two processes with the engine's log."""
    readings = []
    with working_in(keep) as folder:
        for rate_per_s in rates or RATES_PER_S:
            for kind in KINDS:
                say(f"{kind} arrivals, {rate_per_s} /s")
                readings.append(measure(kind, rate_per_s, scale, seed, folder / f"{kind}-{rate_per_s}"))
    console().print(readings_table(readings))
    print_requirements([judgement for each in readings for judgement in judge_arrivals(each)])


@main.command()
@keep_option
def lost(keep: Path | None) -> None:
    """Lose a worker in each way: how soon is it noticed, and which records are left."""
    settings = usable_settings(SETTINGS)
    with working_in(keep) as folder:
        losses = [
            lose_worker(way, folder / f"loss-{number}") for number, way in enumerate(LOSSES) if LOSSES[way] in settings
        ]
    console().print(losses_table(losses))
    print_requirements(judge_losses(losses))


@main.command()
def reports() -> None:
    """Show how large a worker's report grows with the spread of latencies and their number."""
    console().print(sizes_table(sizes()))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.runs")
