"""`python -m benchmarks.trials.runs`: whole runs in one process, in several, on several hosts."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from benchmarks.tools.hosts import Network
from benchmarks.tools.requirements import Requirement, requirements_table
from benchmarks.trials.runs.arrivals import KINDS, RATES_PER_S, measure, readings_table
from benchmarks.trials.runs.count import PLACES, accounts_table
from benchmarks.trials.runs.count import count as count_runs
from benchmarks.trials.runs.lost import WAYS, judge_losses, lose, losses_table
from benchmarks.trials.runs.reports import sizes, sizes_table
from benchmarks.trials.runs.requirements import judge_arrivals


@click.group()
def main() -> None:
    """Hold whole runs to what they promise."""


def say(text: str) -> None:
    """Show how far the benchmark has come."""
    click.echo(text, err=True)


def console() -> Console:
    """Return where tables go, wide where nobody's terminal limits them."""
    return Console(highlight=False, width=None if Console().is_terminal else 200)


def usable(places: tuple[str, ...]) -> list[str]:
    """Return the settings that this machine can have, saying why not of the others."""
    wanted = list(places or PLACES)
    if "hosts" in wanted and (fault := Network.missing()):
        say(f"hosts: left out: {fault}")
        wanted.remove("hosts")
    return wanted


@contextmanager
def working_in(keep: Path | None) -> Iterator[Path]:
    """Give a folder for the files of runs: the one that is to be kept, or one that goes away."""
    with tempfile.TemporaryDirectory(prefix="llmload-runs-") as temporary:
        yield (keep or Path(temporary)).absolute()


def end_on(judgements: Sequence[Requirement]) -> None:
    """Print the demands, and end with code 1 where one is not met."""
    console().print(requirements_table(judgements))
    if not all(each.passed for each in judgements):
        raise SystemExit(1)


keep_option = click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave runs' files here.")


@main.command()
@click.option("--runs", type=click.IntRange(min=1), default=20, show_default=True, help="Runs in each setting.")
@click.option("--seed", default=1, show_default=True, help="Fixes loads, faults and ends.")
@click.option("--place", "places", multiple=True, type=click.Choice(PLACES), help="Settings; all where absent.")
@keep_option
def count(runs: int, seed: int, places: tuple[str, ...], keep: Path | None) -> None:
    """Hold what is counted against the files and the engine's log, in runs with random ends and faults."""
    with working_in(keep) as folder:
        done = list(count_runs(usable(places), runs, seed, folder, say))
    console().print(accounts_table(done))
    for run in done:
        for difference in run.differences:
            click.echo(f"{run.place} {run.trial.number:02} {run.trial.end}: {difference}")
    if any(run.differences for run in done):
        raise SystemExit(1)


@main.command()
@click.option("--rate", "rates", multiple=True, type=click.IntRange(min=1), help="Requests/s; repeatable.")
@click.option("--scale", default=1.0, show_default=True, help="Makes every run so many times as long.")
@click.option("--seed", default=1, show_default=True, help="Fixes the arrivals.")
@keep_option
def arrivals(rates: tuple[int, ...], scale: float, seed: int, keep: Path | None) -> None:
    """Hold an open loop on two processes against the arrivals that the engine logged."""
    readings = []
    with working_in(keep) as folder:
        for rate_per_s in rates or RATES_PER_S:
            for kind in KINDS:
                say(f"{kind} arrivals, {rate_per_s} /s")
                readings.append(measure(kind, rate_per_s, scale, seed, folder / f"{kind}-{rate_per_s}"))
    console().print(readings_table(readings))
    end_on([judgement for each in readings for judgement in judge_arrivals(each)])


@main.command()
@keep_option
def lost(keep: Path | None) -> None:
    """Lose a worker in each way, and see how soon it is noticed and what is left of its records."""
    places = usable(PLACES)
    with working_in(keep) as folder:
        losses = [lose(way, folder / f"loss-{number}") for number, way in enumerate(WAYS) if WAYS[way] in places]
    console().print(losses_table(losses))
    end_on(judge_losses(losses))


@main.command()
def reports() -> None:
    """Show how large a worker's report grows with the spread of latencies and their number."""
    console().print(sizes_table(sizes()))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.runs")
