"""The sizing compared with a GPU: weights by its driver, speed by its bandwidth, llmload by an engine's own log."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks import ROOT
from llmload.errors import ConfigError
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.cards import chosen_gpu, local_gpus
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.parameters import count_parameters
from llmload.sizing.speed import decode_bound_tokens_per_s
from llmload.sizing.weights import WEIGHT_FORMATS, weights_bytes
from llmload.units import GIB

ENGINE = ROOT / "benchmarks" / "tools" / "random_engine.py"
FORMATS = ("fp32", "bf16", "int8")
_MIB = 2**20
_STORED_PERCENT = 1.0  # bytes of parameters, of which only buffers and scales are not counted
_DRIVER_PERCENT = 3.0  # of what the driver reports, the CUDA context and the allocator's rounding left out
_CONTEXT_BYTES = 1.5 * GIB  # the most that a CUDA context with its loaded kernels has taken
_TPOT_PERCENT, _TPOT_S = 5.0, 0.0005
_COMMON = {"max_position_embeddings": 2048, "num_attention_heads": 16, "num_key_value_heads": 4}

# Of three shapes: dense with its own head, dense with a tied one and query norms, a mixture of experts.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama": {
        **_COMMON, "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 24, "tie_word_embeddings": False,
    },
    "qwen3": {
        **_COMMON, "model_type": "qwen3", "vocab_size": 64000, "hidden_size": 2048, "intermediate_size": 6144,
        "num_hidden_layers": 28, "head_dim": 128, "tie_word_embeddings": True,
    },
    "qwen3_moe": {
        **_COMMON, "model_type": "qwen3_moe", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 6144,
        "moe_intermediate_size": 768, "num_experts": 32, "num_experts_per_tok": 4, "num_hidden_layers": 16,
        "head_dim": 128, "tie_word_embeddings": False,
    },
}  # fmt: skip
_TINY = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}


def config_of(shape: str, device: str) -> dict[str, Any]:
    """Return a shape's config; on a CPU a small model of the same kind."""
    config = dict(SHAPES[shape])
    if device == "cpu":
        config |= _TINY | {"num_attention_heads": 8, "num_key_value_heads": 4}
        config |= {key: value for key, value in (("head_dim", 32), ("moe_intermediate_size", 64)) if key in config}
    return config


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One figure of the engine beside llmload's; `problem` says why it is not held, None that it is."""

    name: str
    measured: float
    estimated: float
    unit: str
    problem: str | None

    @property
    def text(self) -> str:
        """The line that is printed."""
        share = self.measured / self.estimated
        held = "held" if self.problem is None else f"OFF: {self.problem}"
        return f"{self.name:<34}{self.measured:>12,.2f}{self.estimated:>12,.2f} {self.unit:<9}{share:>8.1%}  {held}"


def judge_weights(name: str, model: ModelSpec, form: str, facts: Mapping[str, Any]) -> list[Held]:
    """Return the bytes that PyTorch stores, and those that the driver reports, beside the estimate."""
    estimate = weights_bytes(count_parameters(model), WEIGHT_FORMATS[form])
    stored = facts["stored_bytes"]
    off = 100 * abs(stored / estimate - 1)
    rows = [
        Held(
            name=f"{name} stored", measured=stored / _MIB, estimated=estimate / _MIB, unit="MiB",
            problem=None if off <= _STORED_PERCENT else f"{off:.1f} % away",
        )
    ]  # fmt: skip
    if facts["driver_bytes"] is not None:
        beside = facts["driver_bytes"] - estimate
        low, high = -estimate * _DRIVER_PERCENT / 100, estimate * _DRIVER_PERCENT / 100 + _CONTEXT_BYTES
        problem = None if low <= beside <= high else f"{beside / _MIB:,.0f} MiB beside the weights"
        taken = facts["driver_bytes"] / _MIB
        rows.append(
            Held(name=f"{name} by the driver", measured=taken, estimated=estimate / _MIB, unit="MiB", problem=problem)
        )
    return rows


def judge_speed(name: str, model: ModelSpec, form: str, facts: Mapping[str, Any]) -> Held:
    """Return tokens/s of one sequence beside the bound: of the card where it is known, else of the measured copy."""
    try:
        card = chosen_gpu(facts["gpu"] or "")
    except ConfigError:
        card = chosen_gpu(facts["gpu"] or "this machine", bandwidth_gb_per_s=facts["copy_gb_per_s"])
    bound, speed = decode_bound_tokens_per_s(model, card, weight_format=form), facts["decode_tokens_per_s"]
    return Held(
        name=f"{name} decoding", measured=speed, estimated=bound, unit="tokens/s",
        problem=None if speed <= bound else "faster than its bound",
    )  # fmt: skip


def judge_load(summary: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> list[Held]:
    """Return llmload's figures of a run beside the engine's log of the same requests."""
    seen, logged = summary["tpot_s"]["mean"], mean(line["tpot_s"] for line in log)
    far = abs(seen - logged) > max(_TPOT_S, logged * _TPOT_PERCENT / 100)
    counted, generated = summary["output_tokens"], sum(line["tokens"] for line in log)
    return [
        Held(
            name="TPOT: llmload, the engine's log", measured=1000 * seen, estimated=1000 * logged, unit="ms",
            problem="they differ" if far else None,
        ),
        Held(
            name="tokens: llmload, the engine's log", measured=counted, estimated=generated, unit="tokens",
            problem=None if counted == generated else "they differ",
        ),
    ]  # fmt: skip


@contextmanager
def engine(python: str, config: Mapping[str, Any], form: str, device: str, *further: str) -> Iterator[Iterator[Any]]:
    """Start the engine, yield its lines as objects, and end it."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(config))
        command = [python, str(ENGINE), str(file), "--format", form, "--device", device, *further]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield map(json.loads, process.stdout or ())
            finally:
                process.kill()


def loaded(python: str, config: Mapping[str, Any], device: str) -> list[Held]:
    """Run llmload against the engine and compare what both say of the same requests."""
    with engine(python, config, "bf16", device, "--serve") as lines, TemporaryDirectory() as folder:
        next(lines)
        url = next(lines)["url"]
        command = [sys.executable, "-m", "llmload.cli.main", "run", "lima-speed", "--base-url", url, "--json"]
        command += ["--model", "random", "--prompts", "builtin", "--out", folder, "--metrics-port", "off"]
        for setting in ("load.requests=8", "prompts.count=8", "request.max_tokens=48"):
            command += ["--set", setting]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        if not done.stdout.startswith("{"):
            raise click.ClickException(f"llmload run: {done.stderr.strip()[-400:]}")
        summary = json.loads(done.stdout)
        return judge_load(summary, [next(lines) for _ in range(summary["requests"]["completed"])])


@click.command()
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--python", default=sys.executable, help="A Python with torch and Transformers. [default: this one]")
@click.option("--format", "formats", type=click.Choice(FORMATS), multiple=True, help="[default: all three]")
def main(device: str, python: str, formats: tuple[str, ...]) -> None:
    """
    Hold weights and speed of three random-weight models, and llmload's figures of one, against this machine's GPU.

    Without a GPU it says so and ends with exit code 0; `--device cpu` walks the same way with small models. Exit code 1
    where a figure is off.
    """
    if device == "cuda" and not local_gpus():
        click.echo("no GPU here: skipped (--device cpu tries the same with small models)")
        return
    rows: list[Held] = []
    for shape in SHAPES:
        config = config_of(shape, device)
        model = model_from_config(HfConfig(config, shape), shape)
        for form in formats or FORMATS:
            if form == "int8" and "num_experts" in config:
                continue  # bitsandbytes leaves experts that are stored together 16 bits wide
            with engine(python, config, form, device) as lines:
                facts = next(lines, None)
            if facts is None:
                raise click.ClickException(f"{python} {ENGINE.name} ended without a word: see its error above")
            if "skipped" in facts:
                click.echo(f"{shape} {form}: skipped: {facts['skipped']}")
                continue
            name = f"{shape} {form}"
            rows += _shown([*judge_weights(name, model, form, facts), judge_speed(name, model, form, facts)])
    rows += _shown(loaded(python, config_of("llama", device), device))
    off = sum(row.problem is not None for row in rows)
    click.echo(f"{len(rows) - off} of {len(rows)} held")
    sys.exit(1 if off else 0)


def _shown(rows: list[Held]) -> list[Held]:
    for row in rows:
        click.echo(row.text)
    return rows


if __name__ == "__main__":
    main()
