"""
How far recorded runs were from the best figure, and from low and high: `python -m benchmarks.trials.size_bounds`.

Every run counts whose log says how much memory something took, each in its class: those that the formulas were fitted
to (tests/sizing/data/vllm_runs.json, golden.json) and those that they had not seen.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import click

from benchmarks.trials.sizing import RUNS, fit_of
from benchmarks.trials.unseen_sizes import DATA, SETS, Judged, judged, runs
from benchmarks.trials.unseen_sizes import fit_of as unseen_fit
from llmload.sizing.cards import find_gpu
from llmload.sizing.catalogue import load_model
from llmload.sizing.engines import EngineOptions, parse_version
from llmload.sizing.fit import DeploymentRequest, Fit, fit, plan_deployment
from llmload.sizing.overhead import Estimate
from llmload.units import GIB, MIB_PER_GIB

H100: Final = "vLLM since 0.17 on H100"
OTHERS: Final = "vLLM since 0.17 on other cards"
MIDDLE: Final = "vLLM 0.11 to 0.16"
OLD: Final = "vLLM before 0.11"
PARTS: Final = ("weights", "activations", "libraries, one GPU", "libraries, TP or PP", "cache", "compute buffer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What one part took in one run, in GiB, beside its estimate."""

    group: str
    part: str  # one of PARTS
    run: str
    logged: float
    estimate: Estimate

    @property
    def off(self) -> float:
        """GiB that were more than the best figure."""
        return self.logged - self.estimate.best

    @property
    def of_bound(self) -> float:
        """The error as a fraction of the distance to the bound on its side."""
        bound = self.estimate.high if self.off > 0 else self.estimate.low
        return self.off / (bound - self.estimate.best) if self.off else 0.0

    @property
    def inside(self) -> bool:
        """Whether the logged figure is within low and high."""
        return self.estimate.low <= self.logged <= self.estimate.high


@cache
def observed() -> tuple[Observed, ...]:
    """Return what every recorded run says of its memory."""
    return (*_fitted(), *_golden(), *(each for name in SETS for each in _unseen(name)))


def _gib(estimate: Estimate) -> Estimate:
    return Estimate(*(figure / GIB for figure in estimate.figures))


def _fitted() -> Iterator[Observed]:
    """The runs of vLLM 0.19 on H100, of language models; with pipeline stages the log's stage is not known."""
    for run in json.loads(RUNS.read_text(encoding="utf-8"))["runs"]:
        if not run["language_only"] or run["pipeline_parallel"] > 1:
            continue
        stage = fit_of(run).tightest
        libraries = PARTS[3] if run["tensor_parallel"] > 1 else PARTS[2]
        for part, key, estimate in (
            ("weights", "weights_gib", stage.weights_bytes),
            ("activations", "activation_gib", stage.overhead.activation_bytes),
            (libraries, "non_torch_gib", stage.overhead.non_torch_bytes),
            ("cache", "pool_gib", stage.pool_bytes),
        ):
            yield Observed(group=H100, part=part, run=run["run_of"], logged=run[key], estimate=_gib(estimate))


def _golden() -> Iterator[Observed]:
    """The runs of vLLM 0.11 on H100 whose parts were published."""
    for entry in json.loads((DATA / "golden.json").read_text(encoding="utf-8"))["entries"]:
        given, expect = entry["given"], entry["expect"]
        if "activation_gib" not in expect:
            continue
        request = DeploymentRequest(
            model=load_model(given["model"]), gpu=find_gpu("H100-SXM5"), count=given["tp"], context_tokens=16_000,
            engine_version="0.11", options=EngineOptions(utilization=given["util"]),
        )  # fmt: skip
        stage = fit(plan_deployment(request)).tightest
        for part, key, estimate in (
            ("weights", "weights_gib", stage.weights_bytes),
            ("activations", "activation_gib", stage.overhead.activation_bytes),
            ("cache", "kv_gib", stage.pool_bytes),
        ):
            yield Observed(group=MIDDLE, part=part, run=entry["id"], logged=expect[key], estimate=_gib(estimate))


def _unseen(name: str) -> Iterator[Observed]:
    of_run = {run["id"]: run for run in runs(name)}
    for number in judged(name):
        if number.bounded and number.estimate is not None:
            yield _number(of_run[number.run], number, number.estimate)


def _number(run: Mapping[str, Any], number: Judged, estimate: Estimate) -> Observed:
    """A number of a run in GiB: tokens are the fraction of the cache that they fill."""
    part, logged = "weights", number.logged
    if number.quantity == "compute_mib":
        part, logged = "compute buffer", logged / MIB_PER_GIB
        estimate = Estimate(*(figure / MIB_PER_GIB for figure in estimate.figures))
    elif number.quantity != "weights_gib":
        part = "cache"
        if number.quantity != "pool_gib":
            whole: Fit = unseen_fit(run)
            token = whole.tightest.pool_bytes.best / GIB / estimate.best
            logged, estimate = logged * token, Estimate(*(figure * token for figure in estimate.figures))
    return Observed(group=_group(run), part=part, run=run["id"], logged=logged, estimate=estimate)


def _group(run: Mapping[str, Any]) -> str:
    engine: str = run["asked"].get("engine", "vllm")
    if engine != "vllm":
        return {"sglang": "SGLang"}.get(engine, engine)
    version = parse_version(run["asked"].get("engine_version", "0.19"))
    if version < (0, 17):
        return OLD if version < (0, 11) else MIDDLE
    return H100 if find_gpu(run["gpu"] or "H100-SXM5").name.startswith("H100-SXM5") else OTHERS


def bounds_table(everything: Sequence[Observed]) -> str:
    """Return each class and part as Markdown: runs, errors, the fraction of a bound that they took, runs outside."""
    lines = ["| class | part | runs | off by, GiB | of the bound, at most | outside |", "|---|---|---|---|---|---|"]
    for group in (H100, OTHERS, MIDDLE, OLD, "SGLang", "llama.cpp"):
        for part in PARTS:
            found = [each for each in everything if (each.group, each.part) == (group, part)]
            if not found:
                continue
            off = [each.off for each in found]
            seen = f"{min(off):+.2f} to {max(off):+.2f}" if len(found) > 1 else f"{off[0]:+.2f}"
            used = max(each.of_bound for each in found if each.inside)
            outside = sum(not each.inside for each in found)
            lines.append(f"| {group} | {part} | {len(found)} | {seen} | {100 * used:.0f} % | {outside} |")
    return "\n".join(lines)


@click.command()
def main() -> None:
    """Print the table of docs/sizing.md that says how far recorded runs were from the estimate, and its bounds."""
    everything = observed()
    click.echo(bounds_table(everything))
    for each in everything:
        if not each.inside:
            figures = " to ".join(f"{figure:.2f}" for figure in (each.estimate.low, each.estimate.high))
            click.echo(f"outside: {each.run}, {each.part}: {each.logged:.2f} GiB, estimated {figures}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.size_bounds")
