"""
What ordinary runs are judged as: `python -m benchmarks.trials.verdicts`.

The two measurements of `make demo` and every shipped scenario, some of them shortened, run again and again on the
simulated engine, with the engine on the same machine. A verdict that is seldom VALID there is one that nobody reads.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from llmload.cli.engine import DEMO_ENGINE
from llmload.simulator import SimulationSettings, spawn
from llmload.units import milliseconds, number

DEMO: Final = SimulationSettings(**DEMO_ENGINE)
USUAL_ENGINE: Final = SimulationSettings()
EIGHT_SLOTS: Final = SimulationSettings(slots=8)
WANTED_SHARE: Final = 0.9
"""How many of the runs of a measurement should be VALID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A shipped scenario, its keys that are changed to shorten it, and the engine that it runs on."""

    name: str
    scenario: str
    settings: tuple[str, ...] = ()
    engine: SimulationSettings = USUAL_ENGINE
    options: tuple[str, ...] = ()


SHORT: Final = ("load.duration_s=20", "load.warmup_s=4", "load.users=4", "prompts.output_tokens=32")
"""Answers of the simulated engine that take less than seconds."""
MEASUREMENTS: Final = (
    Measurement(name="make demo: speed", scenario="lima-speed", engine=DEMO),
    Measurement(name="make demo: throughput", scenario="demo", engine=DEMO),
    Measurement(name="demo", scenario="demo"),
    Measurement(name="demo --processes 2", scenario="demo", options=("--processes", "2")),
    Measurement(name="chat", scenario="chat", settings=("load.duration_s=16", "load.users=4"), engine=DEMO),
    Measurement(name="demo-open-loop", scenario="demo-open-loop"),
    Measurement(name="demo-spike", scenario="demo-spike"),
    Measurement(name="demo-staged", scenario="demo-staged"),
    Measurement(name="demo-capacity", scenario="demo-capacity", engine=EIGHT_SLOTS),
    Measurement(
        name="lima-throughput",
        scenario="lima-throughput",
        settings=("load.duration_s=40", "load.warmup_s=8"),
    ),
    Measurement(
        name="capacity",
        scenario="capacity",
        engine=EIGHT_SLOTS,
        settings=(
            "load.at_most=8",
            "load.warmup_s=1",
            "load.step_min_s=5",
            "load.step_max_s=15",
            "request.max_tokens=32",
        ),
    ),
    Measurement(name="1k-1k", scenario="1k-1k", settings=SHORT),
    Measurement(name="8k-1k", scenario="8k-1k", settings=SHORT),
    Measurement(
        name="sweep",
        scenario="sweep",
        engine=EIGHT_SLOTS,
        settings=("load.users=[1, 4, 8]", "load.rounds=1", "load.point_min_s=5", "request.max_tokens=32"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A run that has ended, and how it was judged."""

    measurement: Measurement
    code: int
    summary: dict[str, Any] | None
    error: str = ""
    """The last line on standard error of a run without a summary."""

    @property
    def level(self) -> str:
        """The verdict's level; `none` without a summary."""
        return "none" if self.summary is None else str(self.summary["verdict"]["level"])

    @property
    def reason(self) -> str | None:
        """The check of the verdict's first reason, or why there is no summary; None without a reason."""
        if self.summary is None:
            return self.error
        reasons = self.summary["verdict"]["reasons"]
        return reasons[0]["check"] if reasons else None

    @property
    def texts(self) -> list[str]:
        """Every reason in words."""
        return [] if self.summary is None else [reason["text"] for reason in self.summary["verdict"]["reasons"]]


def run(measurement: Measurement, folder: Path) -> Judged:
    """Run a measurement once, on an engine that is started for it."""
    with spawn(measurement.engine) as engine:
        command = [sys.executable, "-m", "llmload.cli.main", "run", measurement.scenario, "--base-url", engine.url]
        command += ["--model", "simulated", "--engine", "simulated", "--prompts", "builtin", "--json"]
        command += ["--out", str(folder), "--metrics-port", "off", *measurement.options]
        for setting in measurement.settings:
            command += ["--set", setting]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        summary = json.loads(done.stdout)
    except ValueError:
        return Judged(
            measurement=measurement,
            code=done.returncode,
            summary=None,
            error=(done.stderr.strip().splitlines() or ["no output"])[-1],
        )
    return Judged(measurement=measurement, code=done.returncode, summary=summary)


def verdicts_table(judged: Sequence[Judged]) -> Table:
    """Return a row per measurement: how its runs were judged, why, and the medians of their figures."""
    table = Table(title="Verdicts of ordinary runs", title_justify="left")
    table.add_column("measurement")
    for column in ("runs", "VALID", "DEGRADED", "INVALID", "exit 0", "requests/min", "TTFT p50, ms", "tok/s"):
        table.add_column(column, justify="right")
    table.add_column("first reasons otherwise")
    for name in dict.fromkeys(each.measurement.name for each in judged):
        table.add_row(*_cells(name, [each for each in judged if each.measurement.name == name]))
    table.add_section()
    table.add_row(*_cells("all", judged))
    return table


def _cells(name: str, runs: Sequence[Judged]) -> Iterator[str]:
    levels = Counter(each.level for each in runs)
    reasons = Counter(each.reason for each in runs if each.reason is not None)
    yield from (name, str(len(runs)), *(str(levels[level]) for level in ("VALID", "DEGRADED", "INVALID")))
    yield str(sum(each.code == 0 for each in runs))
    if name == "all":
        yield from ("", "", "")
    else:
        summaries = [each.summary for each in runs if each.summary is not None]
        yield number(_median(summary["requests_per_min"] for summary in summaries), 1)
        yield milliseconds(_median((summary["ttft_s"] or {}).get("p50") for summary in summaries))
        yield number(_median(summary["output_tokens_per_s"] for summary in summaries), 1)
    yield ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=20, show_default=True, help="Runs of each measurement.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([each.name for each in MEASUREMENTS]),
    help="Measurements; all where absent.",
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write every run's verdict.")
def main(runs: int, only: tuple[str, ...], json_file: Path | None) -> None:
    """
    Count the verdicts of ordinary runs, one after the other, on a machine that does nothing else.

    Exit code 1: a measurement was VALID in fewer than nine of ten runs.
    """
    wanted = [each for each in MEASUREMENTS if not only or each.name in only]
    judged = []
    for number_of_run in range(1, runs + 1):
        for measurement in wanted:
            with tempfile.TemporaryDirectory(prefix="llmload-verdicts-") as folder:
                judged.append(run(measurement, Path(folder)))
            click.echo(f"{number_of_run} {measurement.name}: {judged[-1].level} {judged[-1].reason or ''}", err=True)
    Console(highlight=False, width=None if Console().is_terminal else 200).print(verdicts_table(judged))
    texts = Counter(f"{each.measurement.name}: {text}" for each in judged for text in each.texts)
    for text in sorted(texts):
        click.echo(text)
    if json_file is not None:
        rows = [
            {"measurement": each.measurement.name, "exit_code": each.code, "level": each.level, "reasons": each.texts}
            for each in judged
        ]
        json_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    by_name = {each.name: [one.level == "VALID" for one in judged if one.measurement is each] for each in wanted}
    if any(sum(valid) < WANTED_SHARE * len(valid) for valid in by_name.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.verdicts")
