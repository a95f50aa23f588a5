"""`python -m benchmarks.trials.capacity`: whole searches on simulated engines of known capacity."""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any, Final, Literal

import click

from benchmarks import ROOT
from llmload.simulator import SimulationSettings, spawn

TOLERANCE: Final = 0.05
REPEAT_TOLERANCE: Final = 0.10
Kind = Literal["users", "rate_per_s"]
KINDS: Final[tuple[Kind, ...]] = ("users", "rate_per_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownEngine:
    """
    An engine with a capacity that can be computed, and the objective that defines it.

    Every answer takes `service_s` = ttft_s + (output tokens - 1) x itl_s on one of `slots` slots, first in first out.
    Up to `slots` users never wait; with one more, one of them always does. Arrivals at even times never wait up to
    slots / service_s a second (the queue D/D/c); above, each waits longer than the one before.
    """

    seed: int
    slots: int
    ttft_s: float
    itl_s: float
    output_tokens: int
    slack_s: float
    """How much later than `ttft_s` the first token may be: more than this machine's noise, less than a wait."""

    @property
    def service_s(self) -> float:
        """How long an answer takes once it has a slot."""
        return self.ttft_s + (self.output_tokens - 1) * self.itl_s

    def truth(self, kind: Kind) -> float:
        """The highest load that meets the objective."""
        return float(self.slots) if kind == "users" else self.slots / self.service_s

    def settings(self) -> SimulationSettings:
        """The settings of the engine."""
        return SimulationSettings(
            slots=self.slots,
            ttft_s=self.ttft_s,
            prefill_s_per_token=0.0,
            itl_s=self.itl_s,
            itl_load_factor=0.0,
            output_tokens=self.output_tokens,
            seed=self.seed,
        )


def engine_of(kind: Kind, seed: int) -> KnownEngine:
    """Return the engine that a seed draws."""
    random = Random(f"{kind} {seed}")  # noqa: S311 - repeatable, not secret
    slots = random.randint(3, 8) if kind == "users" else random.randint(8, 24)
    output_tokens = random.randint(8, 16)
    service_s = random.uniform(0.6, 0.9)
    ttft_s = 0.1
    return KnownEngine(
        seed=seed,
        slots=slots,
        ttft_s=ttft_s,
        itl_s=(service_s - ttft_s) / (output_tokens - 1),
        output_tokens=output_tokens,
        slack_s=0.05 if kind == "users" else 0.2,
    )


def load_of(kind: Kind, known: KnownEngine) -> dict[str, Any]:
    """Return the search's settings, as for `--set load.KEY=VALUE`."""
    overrides: dict[str, Any] = {
        "search": kind,
        "objectives": [f"ttft_s p95 < {known.ttft_s + known.slack_s:.4g}"],
        "start": 1 if kind == "users" else 4,
        "at_most": 64 if kind == "users" else 256,
        "warmup_s": 1,
        "step_min_s": 5,
        "step_max_s": 20,
    }
    if kind == "rate_per_s":
        overrides |= {"arrivals": "constant", "precision": 0.02}
    return overrides


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The result of a search, beside the truth."""

    kind: Kind
    known: KnownEngine
    code: int
    capacity: dict[str, Any] | None
    verdict: str

    @property
    def passes(self) -> float | None:
        """The load that was found."""
        return None if self.capacity is None else self.capacity["passes"]

    @property
    def error(self) -> float | None:
        """Relative distance from the truth."""
        truth = self.known.truth(self.kind)
        return None if self.passes is None else self.passes / truth - 1

    @property
    def passed(self) -> bool:
        """Whether it is within the tolerance."""
        return self.error is not None and abs(self.error) <= TOLERANCE

    @property
    def line(self) -> str:
        """The row that is printed."""
        steps = 0 if self.capacity is None else len(self.capacity["curve"])
        passes = "none" if self.passes is None else f"{self.passes:.4g}"
        error = "n/a" if self.error is None else f"{self.error:+.1%}"
        return (
            f"{self.kind:<11}{self.known.seed:>4}{self.known.slots:>6}{self.known.service_s:>11.3f}"
            f"{self.known.truth(self.kind):>9.4g}{passes:>9}{error:>8}{steps:>6}  {self.verdict:<9}"
            f"{'PASS' if self.passed else 'FAIL'}"
        )


HEAD: Final = f"{'search':<11}{'seed':>4}{'slots':>6}{'service, s':>11}{'truth':>9}{'found':>9}{'error':>8}{'steps':>6}"


def search(kind: Kind, seed: int, folder: Path) -> SearchResult:
    """Run one search through Locust, on a new engine."""
    known, out = engine_of(kind, seed), folder / f"{kind}-{seed}"
    with spawn(known.settings()) as engine:
        overrides = {**{f"load.{key}": value for key, value in load_of(kind, known).items()}, "scenario.seed": seed}
        code, summary = run_search("demo-capacity", engine.url, out, overrides)
    verdict = summary.get("verdict", {}).get("level", "none")
    return SearchResult(kind=kind, known=known, code=code, capacity=summary.get("capacity"), verdict=verdict)


def run_search(
    scenario: str, url: str, folder: Path, overrides: dict[str, Any], *further: str
) -> tuple[int, dict[str, Any]]:
    """Run a scenario's search through Locust, and return its exit code and summary, empty where there is none."""
    command = [sys.executable, "-m", "llmload.cli.main", "run", scenario, "--base-url", url, "--metrics-port", "off"]
    command += ["--out", str(folder), "--json", *further]
    for key, value in overrides.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not ended.stdout.startswith("{"):
        click.echo(ended.stderr, err=True)
        return ended.returncode, {}
    return ended.returncode, json.loads(ended.stdout)


def repeat_on(url: str, model: str, objective: str, max_tokens: int, times: int, folder: Path) -> bool:
    """Search on a real engine several times, print what each found, and return whether they are within 10 %."""
    overrides = {
        "load.objectives": [objective],
        "load.warmup_s": 2,
        "load.step_min_s": 8,
        "load.step_max_s": 32,
        "request.max_tokens": max_tokens,
    }
    found: list[float] = []
    for number in range(1, times + 1):
        code, summary = run_search("capacity", url, folder / str(number), overrides, "--model", model)
        capacity = summary.get("capacity", {})
        passes, per_min = capacity.get("passes"), capacity.get("requests_per_min")
        steps = len(capacity.get("curve", ()))
        click.echo(
            f"{number}: {passes} users, {per_min and round(per_min)} requests/min, {steps} steps, exit code {code}"
        )
        found += [] if passes is None else [passes]
    spread = (max(found) - min(found)) / mean(found) if len(found) == times else None
    passed = spread is not None and spread <= REPEAT_TOLERANCE
    click.echo(f"spread {'n/a' if spread is None else f'{spread:.1%}'} of the mean: {'PASS' if passed else 'FAIL'}")
    return passed


@click.command()
@click.option(
    "--engine-url", metavar="URL", help="Search on this engine, `--times` times, instead of on simulated ones."
)
@click.option("--model", default="default", show_default=True, help="With --engine-url: its model.")
@click.option("--objective", default="e2e_s p95 < 1", show_default=True, help="With --engine-url: the objective.")
@click.option(
    "--max-tokens", type=click.IntRange(1), default=8, show_default=True, help="With --engine-url: of each answer."
)
@click.option(
    "--times", type=click.IntRange(2), default=3, show_default=True, help="With --engine-url: number of searches."
)
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True, help="Engines for each search.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="What to search for; both where absent.")
@click.option("--parallel", type=click.IntRange(min=1), default=1, show_default=True, help="Searches at a time.")
@click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), help="Write run folders here, and leave them."
)
def main(
    engine_url: str | None,
    model: str,
    objective: str,
    max_tokens: int,
    times: int,
    seeds: int,
    kinds: tuple[Kind, ...],
    parallel: int,
    keep: Path | None,
) -> None:
    """
    Search for the capacity of engines whose capacity is known, in users and in requests/s; exit code 1 on a miss.

    Each seed draws slots and service time. Both truths are closed forms: as many users as slots, slots / service time
    requests a second. A search passes within 5 % of them. One takes one to three minutes.
    """
    with tempfile.TemporaryDirectory(prefix="llmload-capacity-") as temporary, ThreadPoolExecutor(parallel) as pool:
        folder = (keep or Path(temporary)).absolute()
        if engine_url is not None:
            raise SystemExit(0 if repeat_on(engine_url, model, objective, max_tokens, times, folder) else 1)
        which = [kind for kind in kinds or KINDS for _ in range(seeds)]
        numbers = [*range(1, seeds + 1)] * len(kinds or KINDS)
        click.echo(HEAD)
        found = []
        for each in pool.map(search, which, numbers, repeat(folder)):
            click.echo(each.line)
            found.append(each)
    missed = [each for each in found if not each.passed]
    errors = [abs(each.error) for each in found if each.error is not None]
    click.echo(f"{len(found) - len(missed)} of {len(found)} within {TOLERANCE:.0%}")
    if errors:
        click.echo(f"mean error {mean(errors):.1%}, worst {max(errors):.1%}")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.capacity")
