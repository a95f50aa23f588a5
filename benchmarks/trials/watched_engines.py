"""
Real engines on this machine's CPU, watched while llmload measures them: `python -m benchmarks.trials.watched_engines`.

Each engine is started, warmed up and loaded. Its own metrics are printed beside llmload's figures: the difference of
the means, and whether both counted the same tokens. An engine without metrics is measured too.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import ROOT
from llmload.scenario.reading import free_port

ENGINES: Final = {"vllm": "vllm", "llamacpp": "llama.cpp", "transformers": "transformers"}
"""By engine: its name in a scenario."""
SCENARIO: Final = """\
[tool.locust]
locustfile = "{root}/locustfiles/chat.py"
[scenario]
name = "watched-{engine}"
seed = 1
[engine]
name = "{name}"
base_url = "{url}"
[model]
name = "{model}"
served_as = "{served_as}"
[prompts]
repeat = true
[request]
max_tokens = {tokens}
[load]
kind = "closed_loop"
users = {users}
requests = {requests}
[monitor]
engine_metrics_url = "{url}/metrics"
"""
START_S: Final = 240
RUN_S: Final = 900
HEADER: Final = (
    "| engine | requests | TTFT mean, ms: engine / client / gap | ITL mean, ms: engine / client / gap "
    "| output tokens: engine / client | running, waiting at most | reads |\n|---|---|---|---|---|---|---|"
)


@contextmanager
def serving(engine: str, model: str, *options: str) -> Iterator[str]:
    """Serve the model with the engine and its options while the context lasts, and yield its address."""
    port, program = str(free_port()), [sys.executable, "-m", "benchmarks.tools.cpu_engines"]
    command = [*program, "serve", engine, "--model", model, "--port", port, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        subprocess.run([*program, "wait", "--port", port, "--timeout", str(START_S)], cwd=ROOT, check=True)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def measured(engine: str, model: str, url: str, users: int, requests: int, tokens: int) -> dict[str, Any]:
    """Return the summary of a run."""
    served_as = f".engines/models/{model}" if engine == "transformers" else model
    with tempfile.TemporaryDirectory(prefix="llmload-watched-") as name:
        file = Path(name) / "scenario.toml"
        text = SCENARIO.format(
            root=ROOT,
            engine=engine,
            name=ENGINES[engine],
            url=url,
            model=model,
            served_as=served_as,
            users=users,
            requests=requests,
            tokens=tokens,
        )
        file.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "locust", "--config", str(file), "--headless", "--out", name]
        command += ["--metrics-port", "off", "--loglevel", "ERROR", "--summary", "none"]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL, timeout=RUN_S)
        (summary,) = Path(name).glob("*/summary.json")
        read: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
        return read


def row(engine: str, summary: dict[str, Any]) -> str:
    """Return a line of the table."""
    seen, requests = summary["engine_metrics"], summary["requests"]
    counts = f"{requests['completed']} of {requests['started']}"
    if not seen["samples"]:
        return f"| {ENGINES[engine]} | {counts} | it serves no metrics | | | | 0 of {seen['failed_reads']} |"
    means = (_means(seen, name) for name in ("ttft", "itl"))
    tokens = f"{_count(seen['output_tokens'])} / {seen['client_output_tokens']:,}"
    most = f"{_count(seen['running_max'])}, {_count(seen['waiting_max'])}"
    reads = f"{seen['samples']} of {seen['samples'] + seen['failed_reads']}"
    return f"| {ENGINES[engine]} | {counts} | {' | '.join(means)} | {tokens} | {most} | {reads} |"


def judgement(engine: str, summary: dict[str, Any]) -> tuple[str, bool]:
    """Return a line, and whether both counted the same tokens; an engine without a count passes."""
    seen, requests = summary["engine_metrics"], summary["requests"]
    gap = seen["output_tokens_gap"]
    if gap is None:
        return f"{ENGINES[engine]}: does not export token counts; nothing to compare", True
    if requests["completed"] != requests["started"]:
        return f"FAIL {ENGINES[engine]}: not every request was answered, so the counts cannot agree", False
    return f"{'FAIL' if gap else 'PASS'} {ENGINES[engine]}: counts agree to {gap:g} tokens", gap == 0


def _means(seen: dict[str, Any], name: str) -> str:
    figures = (seen[f"{name}_mean_s"], seen[f"client_{name}_mean_s"], seen[f"{name}_gap_s"])
    return " / ".join("n/a" if each is None else f"{each * 1000:.2f}" for each in figures)


def _count(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f}"


@click.command()
@click.argument("engines", nargs=-1, type=click.Choice(list(ENGINES)))
@click.option("--model", default="smollm2", show_default=True, type=click.Choice(["smollm2", "tiny"]))
@click.option("--users", type=click.IntRange(1), default=4, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=40, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Maximum tokens of an answer.")
def main(engines: tuple[str, ...], model: str, users: int, requests: int, tokens: int) -> None:
    """Watch ENGINES (default: all); exit code 1 where token counts differ."""
    judgements = []
    click.echo(f"{users} users, answers of at most {tokens} tokens\n\n{HEADER}")
    for engine in engines or ENGINES:
        click.echo(f"{engine}: starting", err=True)
        with serving(engine, "smollm2" if engine == "llamacpp" else model) as url:
            measured(engine, model, url, users, users * 2, tokens)  # the first batch compiles kernels
            summary = measured(engine, model, url, users, requests, tokens)
        click.echo(row(engine, summary))
        judgements.append(judgement(engine, summary))
    click.echo("\n".join(["", *(text for text, _ in judgements)]))
    sys.exit(not all(passed for _, passed in judgements))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.watched_engines")
