"""`python -m benchmarks.trials.sweep`: a sweep of 15 points held to a formula, and one of a real engine on the CPU."""

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import click

from benchmarks import ROOT
from llmload.runs.folder import RunFolder
from llmload.runs.sweep import SweepPoint, SweepResult
from llmload.simulator import SimulationSettings, spawn
from llmload.simulator.settings import gap_ns, ttft_ns
from llmload.units import NS_PER_S, S_PER_MIN

TOLERANCE: Final = 0.02
USERS: Final = (1, 2, 4, 8, 16)
SHAPES: Final = ((64, 64), (512, 128), (64, 192))
ENGINE: Final = SimulationSettings(slots=32, ttft_s=0.05, prefill_s_per_token=0.0005, itl_s=0.01, itl_load_factor=1.5)
READY_S: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What a point of the simulated engine must show: all users run all the time, so every time is known."""

    requests_per_min: float
    output_tokens_per_s: float
    user_tokens_per_s: float

    @classmethod
    def of(cls, settings: SimulationSettings, users: int, shape: tuple[int, int]) -> Self:
        """Return the figures of a number of users with prompts and answers of a shape."""
        prompt, output = shape
        gap_s = gap_ns(settings, users) / NS_PER_S
        service_s = ttft_ns(settings, prompt) / NS_PER_S + (output - 1) * gap_s
        return cls(
            requests_per_min=users * S_PER_MIN / service_s,
            output_tokens_per_s=users * output / service_s,
            user_tokens_per_s=1 / gap_s,
        )

    def errors(self, point: SweepPoint) -> tuple[float, float, float]:
        """Return by which part each measured figure is off."""
        measured = (point.requests_per_min, point.output_tokens_per_s, point.tokens_per_s_per_user.median)
        true = (self.requests_per_min, self.output_tokens_per_s, self.user_tokens_per_s)
        of_requests, of_tokens, of_user = (
            (found or 0.0) / known - 1 for found, known in zip(measured, true, strict=True)
        )
        return of_requests, of_tokens, of_user


def front_of(users: Sequence[int], shape: tuple[int, int]) -> set[str]:
    """Return the names of the points on the front by the formula, each compared with each."""
    truths = {number: Truth.of(ENGINE, number, shape) for number in users}
    return {
        f"{shape[0]}/{shape[1]}, {number} user{'' if number == 1 else 's'}"
        for number, truth in truths.items()
        if not any(
            other.user_tokens_per_s > truth.user_tokens_per_s and other.output_tokens_per_s >= truth.output_tokens_per_s
            for other in truths.values()
        )
    }


def run_sweep(url: str, folder: Path, settings: dict[str, Any], *further: str) -> RunFolder:
    """Run the shipped sweep and return its folder; ClickException where it leaves none."""
    command = [sys.executable, "-m", "llmload.cli.main", "run", "sweep", "--base-url", url, "--metrics-port", "off"]
    command += ["--out", str(folder), "--progress", "10", *further]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    subprocess.run(command, cwd=ROOT, check=False)
    made = sorted(set(folder.iterdir()) - before) if folder.is_dir() else []
    if not made:
        raise click.ClickException("the sweep left no run folder")
    return RunFolder(made[-1])


def sweep_of(run: RunFolder) -> SweepResult:
    """Return the points of a run; ClickException where it has none."""
    sweep = run.summary().sweep
    if sweep is None:
        raise click.ClickException(f"{run.path} is not a sweep")
    return sweep


@click.group()
def main() -> None:
    """Sweeps over users and lengths."""


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="Where the run's folder is left; nowhere if absent.")
@click.option("--point-min-s", default=8.0, show_default=True)
def simulated(out: Path | None, point_min_s: float) -> None:
    """Measure 5 numbers of users x 3 shapes on the simulated engine, and hold every point to its formula."""
    with tempfile.TemporaryDirectory(prefix="llmload-sweep-") as temporary, spawn(ENGINE) as engine:
        settings = {
            "load.users": USERS,
            "prompts.shapes": SHAPES,
            "load.rounds": 1,
            "load.least_growth": 0,
            "load.point_min_s": point_min_s,
            "deployment.gpus": 4,
        }
        sweep = sweep_of(run_sweep(engine.url, out or Path(temporary), settings, "--engine", "simulated"))
    passed = _points_pass(sweep)
    computed = {name for shape in SHAPES for name in front_of(USERS, shape)}
    fronts_agree = set(sweep.front.median) == computed
    click.echo(f"Pareto front: {len(sweep.front.median)} points, {'as' if fronts_agree else 'not as'} computed")
    click.echo("PASS" if passed and fronts_agree else "FAIL")
    sys.exit(0 if passed and fronts_agree else 1)


def _points_pass(sweep: SweepResult) -> bool:
    click.echo(f"{'point':<20}{'requests/min':>14}{'tok/s':>9}{'tok/s/user':>12}   off by (limit {TOLERANCE:.0%})")
    within = len(sweep.points) == len(USERS) * len(SHAPES)
    for point in sweep.points:
        shape = (point.input_tokens or 0, point.output_tokens or 0)
        errors = Truth.of(ENGINE, point.users or 0, shape).errors(point)
        good = max(map(abs, errors)) <= TOLERANCE
        within = within and good
        texts = "".join(f"{error:>+9.2%}" for error in errors)
        click.echo(
            f"{point.name:<20}{point.requests_per_min or 0:>14,.1f}{point.output_tokens_per_s or 0:>9,.1f}"
            f"{point.tokens_per_s_per_user.median or 0:>12,.2f}{texts}  {point.verdict.level:<9}"
            f"{'PASS' if good else 'FAIL'}"
        )
    return within


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True)
@click.option("--port", type=int, default=8131, show_default=True)
def real(out: Path, port: int) -> None:
    """Measure vLLM on this machine's CPU: `python -m benchmarks.tools.cpu_engines install vllm model` first."""
    engine = [sys.executable, "-m", "benchmarks.tools.cpu_engines", "serve", "vllm", "--model", "smollm2"]
    process = subprocess.Popen([*engine, "--port", str(port)], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        _await_ready(process, url)
        settings = {
            "load.users": [1, 2, 4, 8, 16],
            "prompts.shapes": [[64, 32], [256, 32]],
            "load.rounds": 1,
            "load.requests_per_user": 5,
            "load.point_min_s": 8,
            "deployment.gpus": 0,
        }
        run = run_sweep(url, out.resolve(), settings, "--engine", "vllm")
    finally:
        process.terminate()
        process.wait()
    sweep = sweep_of(run)
    measured = [point for point in sweep.points if point.output_tokens_per_s]
    click.echo(f"{len(measured)} points, {len(sweep.front.median)} on the Pareto front: {run.path}")
    sys.exit(0 if measured and sweep.complete else 1)


def _await_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    end_s = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < end_s:
        with suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=1):  # noqa: S310 - this machine's own
            return
        time.sleep(1)
    raise click.ClickException("the engine did not start")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.sweep")
