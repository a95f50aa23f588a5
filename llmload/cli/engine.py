"""`llmload engine` and `llmload demo`: the simulated engine, alone or with the three questions answered on it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from llmload.access.address import HIGHEST_PORT
from llmload.errors import ExitCode
from llmload.interrupts import held
from llmload.scenario.reading import find_scenario, locust_arguments, locust_command

# `llmload demo`: speed, throughput and sizing on the simulated engine, with Locust, in about a minute.

MODEL: Final = "simulated"
DEMO_ENGINE: Final[Mapping[str, Any]] = {
    "model": MODEL,
    "slots": 8,
    "ttft_s": 0.03,
    "itl_s": 0.005,
    "output_tokens_mean": 48.0,
}
"""The settings of the engine that the demo measures."""


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

    _step("1/4", "starting the simulated engine: it runs no model, and its times follow documented formulas")
    with spawn(SimulationSettings(**DEMO_ENGINE)) as engine:
        click.echo(f"ready at {engine.url}")
        _step("2/4", "speed: 100 prompts, one at a time (about 30 s)")
        speed = _run("lima-speed", {"host": engine.url, "model": MODEL, "engine": MODEL, "out": out})
        _step("3/4", "throughput: 8 requests in flight for 16 s")
        throughput = _run("demo", {"host": engine.url, "out": out})
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
    code = _wait(arguments)
    if code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code != ExitCode.GOOD:
        raise click.ClickException(f"the run of {scenario} ended with exit code {code}; see its output above")
    (made,) = _folders(Path(str(changes["out"]))) - before
    return made


def _wait(arguments: list[str]) -> int:
    """Return the exit code of a run; Ctrl-C reaches the run itself, which drains, so it is waited for."""
    with held():
        process = subprocess.Popen(locust_command(arguments))  # noqa: S603 - our own command
    while True:
        with suppress(KeyboardInterrupt):
            return process.wait()


def _folders(out: Path) -> set[Path]:
    return set(out.iterdir()) if out.is_dir() else set()


def _show_tables(runs: list[Path]) -> None:
    for arguments in (["vram", "table", "--rule", "reference"], ["report", *map(str, runs), "--reference-tables"]):
        click.echo(f"\n$ llmload {' '.join(arguments)}\n")
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "llmload.cli.main", *arguments], check=True)  # noqa: S603 - our own command


_HELP = """
Run the embedded simulated engine until Ctrl-C.

It answers /v1/chat/completions, /v1/completions, /generate_stream, /generate, /v1/models, /version, /info, /health,
/tokenize and /metrics as vLLM and TGI do. No model runs: all times follow from these formulas, and each answer says
that it is simulated.

\b
  prompt tokens  those of --tokenizer (bytes: UTF-8 bytes / 4, rounded up), plus 4 for each chat message
  TTFT           wait for a slot + ttft-s + prompt tokens * prefill-s-per-token
  gap            itl-s * (1 + itl-load-factor * (running - 1) / slots)
  answer tokens  --output-tokens, else lognormal around --output-tokens-mean,
                 determined by prompt and seed; cut at max_tokens

\b
Examples:
  llmload engine simulate --port 8100
  llmload engine simulate --slots 8 --output-tokens 100 --itl-s 0.01 --itl-load-factor 0
  llmload engine simulate --fault http_500=0.05 --fault reset=0.01 --log truth.jsonl

\b
A header gives a single request a fault:
  curl -N http://127.0.0.1:8100/v1/completions -H 'X-Simulate-Fault: stall' \\
       -d '{"prompt": "hello", "stream": true}'
"""


class _OneLineErrors(click.Command):
    """A command that reports a wrong option in one line, without its usage; its help ends with the faults."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        from llmload.simulator.settings import FAULTS

        with formatter.section("Faults"):
            formatter.write_dl(list(FAULTS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.ctx = None
            raise

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = None
            raise


def _read_faults(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    faults = {}
    for fault in given:
        kind, _, share = fault.partition("=")
        try:
            faults[kind] = float(share)
        except ValueError:
            raise click.BadParameter(f"{fault!r} is not KIND=FRACTION, such as http_500=0.05") from None
    return faults


def _read_key(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    if name is None:
        return None
    if not os.environ.get(name):
        raise click.BadParameter(f"the environment variable {name} is not set")
    return os.environ[name]


@click.group()
def engine() -> None:
    """Engines to test against."""


@engine.command(cls=_OneLineErrors, help=_HELP)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, HIGHEST_PORT),
    default=8100,
    show_default=True,
    metavar="PORT",
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--model", default="simulated", show_default=True, help="Model name; a request for another one gets status 404."
)
@click.option(
    "--slots",
    default=32,
    show_default=True,
    help="Requests that run at the same time; others wait, first in, first out.",
)
@click.option("--ttft-s", default=0.05, show_default=True, help="Seconds to the first token, without prefill.")
@click.option(
    "--prefill-s-per-token", default=0.0002, show_default=True, help="Seconds of prefill for each prompt token."
)
@click.option("--itl-s", default=0.02, show_default=True, help="Seconds between two tokens when one request runs.")
@click.option(
    "--itl-load-factor", default=1.0, show_default=True, help="Relative increase of that time with all slots in use."
)
@click.option("--output-tokens", type=int, help="Tokens of every answer. [default: drawn]")
@click.option("--output-tokens-mean", default=128.0, show_default=True, help="Mean tokens of drawn answers.")
@click.option(
    "--output-tokens-spread",
    default=0.5,
    show_default=True,
    help="Standard deviation of the logarithm of their tokens.",
)
@click.option(
    "--reasoning-tokens",
    default=0,
    show_default=True,
    help="The first tokens of each chat answer, which are reasoning.",
)
@click.option(
    "--reasoning-form",
    type=click.Choice(["field", "tags", "hidden"]),
    default="field",
    show_default=True,
    help="Where these stand: in reasoning_content, between <think> tags in the text, or nowhere.",
)
@click.option(
    "--per-request-metrics",
    is_flag=True,
    help="Each answer's usage has its queue, TTFT and decode, as vLLM's can have.",
)
@click.option(
    "--max-model-len-tokens", default=32768, show_default=True, help="Context length; a longer request gets status 400."
)
@click.option("--kv-cache-tokens", default=65536, show_default=True, help="Size of the KV cache, for its gauge.")
@click.option(
    "--prefix-cache-tokens",
    default=0,
    show_default=True,
    help="Prompt tokens in the prefix cache, in blocks of 16; a cached token needs no prefill.",
)
@click.option(
    "--tokenizer",
    type=click.Choice(["bytes", "words"]),
    default="bytes",
    show_default=True,
    help="What a token is: 4 bytes, or a word or part of it, with merges across spaces as BPE has them.",
)
@click.option("--tokenize/--no-tokenize", default=True, show_default=True, help="Whether it has vLLM's /tokenize.")
@click.option(
    "--exact-output/--no-exact-output",
    default=True,
    show_default=True,
    help="Whether it takes ignore_eos and min_tokens.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of lengths, words and faults.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    callback=_read_faults,
    metavar="KIND=FRACTION",
    help="Fraction of requests with a fault, of the kinds below; may be repeated.",
)
@click.option(
    "--api-key-env",
    "api_key",
    callback=_read_key,
    metavar="NAME",
    help="Environment variable with the bearer key that requests need.",
)
@click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append a JSON line for each request: what was really sent and when.",
)
@click.option("--log-chunks", is_flag=True, help="Add the time of each token to the log.")
def simulate(**flags: Any) -> None:
    """Run the embedded simulated engine."""
    from llmload.errors import ConfigError, EngineError
    from llmload.simulator import SimulationSettings, run_until_signal

    try:
        run_until_signal(SimulationSettings(**flags))
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    except EngineError as error:
        raise click.ClickException(str(error)) from None
