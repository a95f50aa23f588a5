"""The error of the sizing against engines: 40 published runs of vLLM on H100, and a real vLLM on this CPU."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import click

from benchmarks import ROOT
from llmload.sizing.cards import find_gpu
from llmload.sizing.catalogue import load_model
from llmload.sizing.engine_log import Comparison, compare, read_engine
from llmload.sizing.engines import EngineOptions, engine_for
from llmload.sizing.fit import Deployment, Fit, fit
from llmload.sizing.parallelism import Parallelism
from llmload.sizing.text import comparison_text

RUNS = ROOT / "tests" / "sizing" / "data" / "vllm_runs.json"
MODELS = Path(".engines") / "models"
TOLERANCE_PERCENT = 2.0


@click.command()
@click.argument("models", nargs=-1, type=click.Choice(["smollm2", "tiny"]))
@click.option("--port", type=int, default=8765, show_default=True)
@click.option("--timeout", "timeout_s", type=float, default=240.0, show_default=True, help="Seconds for each start.")
@click.option("--published-only", is_flag=True, help="Start no engine.")
def main(models: tuple[str, ...], port: int, timeout_s: float, published_only: bool) -> None:
    """
    Print the error on the published runs, then start vLLM on this CPU with each of MODELS and compare.

    Except with --published-only it needs `python -m benchmarks.tools.cpu_engines install transformers model vllm`.
    Exit code 1 when a figure of the engine on this machine differs from the estimate by more than 2 %.
    """
    published()
    if published_only:
        return
    far = []
    for model in models or ("smollm2", "tiny"):
        rows = on_this_cpu(model, port, timeout_s)
        far += [
            f"{model}: {row.quantity}" for row in rows if row.logged is not None and not row.agrees(TOLERANCE_PERCENT)
        ]
    if far:
        click.echo(f"further than {TOLERANCE_PERCENT:g} %: {', '.join(far)}")
        sys.exit(1)
    click.echo(f"all within {TOLERANCE_PERCENT:g} %")


def published() -> None:
    """Print the error of maximum concurrency on each published run, and its mean over language models."""
    errors = []
    click.echo(f"{'vLLM 0.19.0 on H100-80GB':<44}{'TP':>3}{'PP':>3}{'measured':>10}{'estimate':>10}{'%':>8}")
    for run in json.loads(RUNS.read_text())["runs"]:
        estimated = fit_of(run).concurrency.best
        error = 100 * (estimated / run["concurrency"] - 1)
        beside = "" if run["language_only"] else "  has a vision tower, not counted"
        if run["language_only"]:
            errors.append(abs(error))
        name = run["run_of"].rpartition("/")[2]
        click.echo(
            f"{name[:43]:<44}{run['tensor_parallel']:>3}{run['pipeline_parallel']:>3}"
            f"{run['concurrency']:>10.2f}{estimated:>10.2f}{error:>+8.2f}{beside}"
        )
    click.echo(f"mean error of maximum concurrency, {len(errors)} language models: {mean(errors):.2f} %")


def fit_of(run: Mapping[str, Any]) -> Fit:
    """Return llmload's estimate of a published run."""
    gpu = find_gpu("H100-SXM5-80GB")
    plan = Deployment(
        model=load_model(run["model"]),
        gpu=gpu,
        engine=engine_for(gpu, version="0.19", options=EngineOptions(utilization=0.95)),
        parallelism=Parallelism(tensor=run["tensor_parallel"], pipeline=run["pipeline_parallel"]),
        weight_format=run["weight_format"],
        kv_dtype=run["kv_dtype"],
        context_tokens=run["max_model_len_tokens"],
    )
    return fit(plan)


def on_this_cpu(model: str, port: int, timeout_s: float) -> list[Comparison]:
    """Start vLLM with a model, read its log and its metrics, stop it, and print both beside the estimate."""
    spec = load_model(str(ROOT / MODELS / model))
    log, metrics = start_and_read(model, port, timeout_s)
    rows = []
    for text in (log, metrics):
        facts = read_engine(text)
        found = compare(facts, spec)
        click.echo(comparison_text(facts, found))
        rows += found
    return rows


def start_and_read(model: str, port: int, timeout_s: float) -> tuple[str, str]:
    """Start vLLM, return its start-up log and metrics, and stop it; ClickException if it does not start."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.tools.cpu_engines",
        "serve",
        "vllm",
        "--model",
        model,
        "--port",
        str(port),
    ]
    path = ROOT / ".engines" / f"sizing-{model}.log"
    with path.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out) as engine:
        try:
            until = time.monotonic() + timeout_s
            while "Application startup complete" not in path.read_text(errors="replace"):
                if engine.poll() is not None or time.monotonic() > until:
                    raise click.ClickException(f"vLLM did not start; its output is in {path.relative_to(ROOT)}")
                time.sleep(0.5)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                metrics = answer.read().decode()
        finally:
            engine.terminate()
    return path.read_text(errors="replace"), metrics


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.sizing")
