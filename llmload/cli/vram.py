"""`llmload vram`: how much GPU memory a model needs, whether it fits, how fast it can be, all from its config."""

import json
import re
import sys
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import click

from llmload.cli.engine_options import AMOUNT, COUNT, GPUS, MOST, engine_options, taken
from llmload.errors import ExitCode

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, units in the keys.")
_hub = click.option("--hub", is_flag=True, help="Read a config that is not in the catalogue from the Hugging Face hub.")
_kv_dtype = click.option(
    "--kv-dtype",
    type=click.Choice(["bf16", "fp16", "fp8", "fp32"]),
    help="Format of the KV cache. [default: as the model declares, else bf16]",
)
_precision = click.option(
    "--precision",
    "weight_format",
    metavar="FORMAT",
    help="Format of the weights: bf16, fp8, w4a16, Q4_K_M ... [default: as the model comes]",
)

_gpu = click.option("--gpu", metavar="NAME", help="The GPU, as `llmload vram gpus` names it.")
_gpu_memory = click.option(
    "--gpu-memory-gib",
    type=AMOUNT,
    metavar="GIB",
    help="Memory of one GPU as its driver reports it, for any that is not known, or in place of what is known.",
)
_gpu_bandwidth = click.option(
    "--gpu-bandwidth",
    type=AMOUNT,
    metavar="GB/S",
    help="Memory bandwidth of one GPU, likewise.",
)

_context = click.option(
    "--context",
    "context_tokens",
    type=COUNT,
    metavar="TOKENS",
    help="Tokens of one request. [default: the model's limit]",
)
_users = click.option("--users", type=COUNT, metavar="N", help="Requests of that context at the same time.")
_html = click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the picture as a page too."
)


def _options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Return several options as one decorator, in the order of the help text."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# The signs of a memory bar (sizing/picture.py) in colours; click leaves them out where no terminal reads.
_COLOURS = {"█": "blue", "▙": "red", "▓": "yellow", "▒": "magenta", "▚": "cyan", "░": "green", "·": "bright_black"}


def _show(content: object) -> None:
    """Print text, its memory bars in colours at a terminal, other content as JSON."""
    if not isinstance(content, str):
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(re.sub(f"([{''.join(_COLOURS)}])\\1*", lambda run: click.style(run[0], _COLOURS[run[1]]), content))


@click.group()
def vram() -> None:
    """
    Size a model's GPU memory and speed from its config: no network, no GPU, no model download.

    MODEL is a name from the catalogue (llama-2-70b, Qwen3-30B-A3B), a Hugging Face id in it
    (meta-llama/Llama-3.1-8B-Instruct), or a file: a config.json, a model directory, a safetensors file or index beside
    its config.json, a GGUF file.
    """


@vram.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--rule",
    type=click.Choice(["reference", "total", "exact"]),
    default="reference",
    show_default=True,
    help="reference: 1.2 x backbone and rotary caches; total: 1.2 x all; exact: as stored.",
)
@click.option("--precision", "precisions", multiple=True, metavar="FORMAT", help="Only this column; may be repeated.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV instead of Markdown.")
@_json
def table(models: tuple[str, ...], rule: str, precisions: tuple[str, ...], as_csv: bool, as_json: bool) -> None:
    """
    Print the sizing table: without MODEL, the eleven models of the reference document.

    The reference rule is 1.2 x bytes x (P + R) / 2^30, where P are the parameters without the language
    model head and R the rotary caches of Transformers 4.31. Its "GB" is GiB. No rule includes KV cache
    or engine: see fit.

    \b
    Examples:
      llmload vram table
      llmload vram table --rule exact --precision bf16 --precision w4a16 Qwen3-32B
      llmload vram table --rule total --csv
      llmload vram table --rule reference --json llama-2-70b
    """
    from llmload.sizing.catalogue import load_model
    from llmload.sizing.size_table import (
        exact_table,
        reference_json,
        reference_markdown,
        reference_models,
        reference_row,
        reference_rows,
        reference_table,
        table_csv,
        table_json,
        table_markdown,
        total_table,
    )

    if rule == "reference":
        rows = [reference_row(load_model(name)) for name in models] if models else reference_rows()
        if not precisions and not as_csv:
            _show(reference_json(rows) if as_json else reference_markdown(rows))
            return
        sizes = reference_table(rows, precisions)
    else:
        found = [load_model(name) for name in models] if models else reference_models()
        sizes = (total_table if rule == "total" else exact_table)(found, precisions)
    _show(table_json(sizes) if as_json else table_csv(sizes) if as_csv else table_markdown(sizes))


@vram.command()
@click.argument("model")
@_options(_kv_dtype, _hub, _json)
def show(model: str, kv_dtype: str | None, hub: bool, as_json: bool) -> None:
    """
    Show a model's parameters, its weights in each format, and its KV cache by token and by context.

    \b
    Examples:
      llmload vram show Llama-3.1-8B-Instruct
      llmload vram show DeepSeek-V3 --kv-dtype fp8
      llmload vram show gemma-3-12b-it --json
    """
    from llmload.sizing.catalogue import load_model
    from llmload.sizing.text import model_sheet, sheet_json, sheet_text

    sheet = model_sheet(load_model(model, hub=hub), kv_dtype)
    _show(sheet_json(sheet) if as_json else sheet_text(sheet))


@vram.command()
@click.argument("model")
@_options(_gpu, _gpu_memory)
@click.option("--count", type=GPUS, default=1, show_default=True, help="Number of GPUs.")
@click.option(
    "--tp",
    "tensor",
    type=GPUS,
    help="Tensor parallelism. [default: as much as the count, the model and a node allow]",
)
@click.option(
    "--gpus-per-node",
    type=GPUS,
    metavar="N",
    help="GPUs that reach each other without a network; TP goes beyond them only with --tp. [default: the card's]",
)
@click.option("--pp", "pipeline", type=GPUS, help="Pipeline stages. [default: the rest of the count]")
@click.option("--ep", "expert", is_flag=True, help="Expert parallelism: whole experts on each tensor rank.")
@click.option(
    "--dp-attention", "data", type=GPUS, default=1, metavar="N",
    help="Groups of TP GPUs with their own attention and cache; the experts are divided among all.",
)  # fmt: skip
@click.option(
    "--dcp", "context", type=GPUS, default=1, metavar="N",
    help="Decode context parallelism: ranks that would hold the same cache divide it.",
)  # fmt: skip
@_options(_context, _users)
@engine_options
@_options(_precision, _kv_dtype, _hub, _html, _json)
def fit(
    model: str,
    gpu: str | None,
    gpu_memory_gib: float | None,
    hub: bool,
    html: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """
    Say whether MODEL fits on COUNT GPUs, and how many requests fit then.

    FITS, exit code 0: even by the low estimate. MAY FIT, exit code 4: between low and high.
    DOES NOT FIT, exit code 1: not even by the high estimate.

    \b
    Examples:
      llmload vram fit llama-2-70b --gpu A100-SXM4-80GB --count 2
      llmload vram fit Qwen3-32B --gpu H100-SXM5 --count 2 --context 16000 --users 8 --kv-dtype fp8
      llmload vram fit gpt-oss-20b --gpu RTX-4090 --engine-version 0.19 --context 32768 --json
      llmload vram fit DeepSeek-V3 --gpu H200 --count 8 --tp 1 --dp-attention 8 --ep --context 16000
      llmload vram fit Qwen3-8B --gpu "A100-SXM4-80GB MIG 3g.40gb"
      llmload vram fit Qwen3-8B --gpu-memory-gib 60 --html memory.html
    """
    from llmload.sizing.cards import chosen_gpu
    from llmload.sizing.catalogue import load_model
    from llmload.sizing.fit import DeploymentRequest, plan_deployment
    from llmload.sizing.fit import fit as fit_deployment
    from llmload.sizing.text import fit_json, fit_text

    card = chosen_gpu(gpu, gpu_memory_gib)
    request = DeploymentRequest(model=load_model(model, hub=hub), gpu=card, options=taken(asked), **asked)
    found = fit_deployment(plan_deployment(request))
    _show(fit_json(found) if as_json else fit_text(found))
    if html is not None:
        from llmload.report.html.memory import write_memory_page

        write_memory_page(html, [found])
    sys.exit({"fits": ExitCode.GOOD, "may fit": ExitCode.INCONCLUSIVE}.get(found.verdict, ExitCode.FAILED))


@vram.command()
@click.argument("model", required=False)
@_options(_gpu, _gpu_bandwidth)
@click.option("--count", type=GPUS, default=1, show_default=True, help="GPUs that share one copy of the model.")
@click.option(
    "--context",
    "context_tokens",
    type=click.IntRange(0, MOST),
    default=0,
    show_default=True,
    metavar="TOKENS",
    help="Tokens of each sequence.",
)
@click.option("--batch", "batches", type=COUNT, multiple=True, help="Sequences at the same time; may be repeated.")
@click.option(
    "--measured",
    "measured_tokens_per_s",
    type=AMOUNT,
    metavar="TOKENS/S",
    help="A measured speed to compare with the bound.",
)
@_options(_precision, _kv_dtype, _hub, _json)
def bound(
    model: str | None, gpu: str | None, gpu_bandwidth: float | None, hub: bool, as_json: bool, **asked: Any
) -> None:
    """
    Say how fast MODEL can generate at best, by memory bandwidth, and what fraction of it a measured speed is.

    Without MODEL: the speed table of the reference document beside its bounds, implausible cells marked.

    \b
    Examples:
      llmload vram bound
      llmload vram bound vicuna-7b-v1.3 --gpu A100-SXM4-80GB --measured 41.14
      llmload vram bound Qwen3-30B-A3B --gpu H100-SXM5 --context 2000 --batch 1 --batch 64 --json
      llmload vram bound Qwen3-8B --gpu-bandwidth 1200
    """
    from dataclasses import asdict

    from llmload.sizing.cards import chosen_gpu
    from llmload.sizing.catalogue import load_model
    from llmload.sizing.speed import BoundRequest, reference_speed_rows, speed_bounds
    from llmload.sizing.text import bound_json, bound_text, reference_speed_markdown

    if model is None:
        rows = reference_speed_rows()
        _show([asdict(row) for row in rows] if as_json else reference_speed_markdown(rows))
        return
    found = speed_bounds(
        BoundRequest(model=load_model(model, hub=hub), gpu=chosen_gpu(gpu, bandwidth_gb_per_s=gpu_bandwidth), **asked)
    )
    _show(bound_json(found) if as_json else bound_text(found))


@vram.command()
@click.argument("model")
@click.option("--gpus", "names", required=True, metavar="A,B,C", help="Cards, as `llmload vram gpus` names them.")
@click.option("--count", type=GPUS, help="GPUs of each. [default: the fewest of 1, 2, 4 to 32 on which it fits]")
@click.option(
    "--price", "prices", multiple=True, metavar="CARD=PRICE", help="Price of one GPU for an hour; may be repeated."
)
@_options(_context, _users)
@engine_options
@_options(_precision, _kv_dtype, _hub, _html, _json)
def compare(
    model: str,
    names: str,
    count: int | None,
    prices: tuple[str, ...],
    hub: bool,
    html: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """
    Set cards side by side: how many MODEL takes, requests at once, speed at most, and the price of a month.

    \b
    Examples:
      llmload vram compare Qwen3-32B --gpus L40S,H100-SXM5,MI300X --context 16000 --users 8
      llmload vram compare Qwen3-8B --gpus L4,A10G --price L4=0.7 --price A10G=1.0 --context 8000 --json
    """
    from llmload.sizing.cards import find_gpu
    from llmload.sizing.catalogue import load_model
    from llmload.sizing.compare_cards import compare_cards, compare_json, compare_text
    from llmload.sizing.fit import DeploymentRequest

    cards = [find_gpu(name.strip()) for name in names.split(",")]
    request = DeploymentRequest(model=load_model(model, hub=hub), gpu=cards[0], options=taken(asked), **asked)
    rows = compare_cards(request, cards, count, dict(_price(text) for text in prices))
    _show(compare_json(rows) if as_json else compare_text(rows))
    if html is not None:
        from llmload.report.html.memory import write_memory_page

        write_memory_page(html, [row.found for row in rows], rows)


def _price(text: str) -> tuple[str, float]:
    name, _, price = text.rpartition("=")
    try:
        figure = float(price)
    except ValueError:
        figure = nan
    if not 0 <= figure < inf:
        raise click.BadParameter(f"{text!r} is not CARD=PRICE, as L4=0.7 is", param_hint="--price")
    return name, figure


@vram.command()
@click.argument("model")
@click.option(
    "--gib", "pool_gib", required=True, type=AMOUNT, metavar="GIB",
    help="Memory that each GPU has for the KV cache.",
)  # fmt: skip
@click.option("--tp", "tensor", type=GPUS, default=1, show_default=True, help="Tensor parallelism.")
@_context
@click.option("--block-size", "block_tokens", type=COUNT, default=16, show_default=True, metavar="TOKENS")
@click.option("--max-num-batched-tokens", type=COUNT, default=8192, show_default=True, metavar="TOKENS")
@_options(_kv_dtype, _hub, _json)
def pool(model: str, hub: bool, as_json: bool, **asked: Any) -> None:
    """
    Say what GIB of KV cache hold: blocks, tokens, requests at once, the longest request. No GPU is named.

    The rules are vLLM's: layers that differ (windows, recurrent states) share its blocks in groups.

    \b
    Examples:
      llmload vram pool --gib 12.3 Qwen3-8B
      llmload vram pool --gib 30 --tp 2 --context 16000 --kv-dtype fp8 Llama-3.1-70B-Instruct
      llmload vram pool --gib 12.3 gpt-oss-20b --json
    """
    from llmload.sizing.catalogue import load_model
    from llmload.sizing.pool import PoolRequest, pool_json, pool_sheet, pool_text

    sheet = pool_sheet(PoolRequest(model=load_model(model, hub=hub), **asked))
    _show(pool_json(sheet) if as_json else pool_text(sheet))


@vram.command("check-log")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", metavar="MODEL", help="The served model. [default: as the log names it]")
@click.option("--gpu", metavar="NAME", help="The GPU, where the log does not state its memory.")
@_gpu_memory
@click.option("--tp", type=GPUS, help="Tensor parallelism, where FILE does not state it: /metrics never does.")
@_options(_precision, _hub, _json)
def check_log(
    file: Path,
    model: str | None,
    gpu: str | None,
    gpu_memory_gib: float | None,
    tp: int | None,
    weight_format: str | None,
    hub: bool,
    as_json: bool,
) -> None:
    """
    Compare what an engine says about its memory with the estimate: FILE is its start-up log, or what /metrics answers.

    The logs of vLLM (V0, and V1 in the old and the new wording) and SGLang can be read.

    \b
    Examples:
      llmload vram check-log vllm.log
      llmload vram check-log metrics.txt --model Llama-3.2-1B-Instruct --json
    """
    from dataclasses import asdict

    from llmload.sizing.cards import chosen_gpu
    from llmload.sizing.catalogue import load_served
    from llmload.sizing.engine_log import compare, read_engine
    from llmload.sizing.text import comparison_text

    facts = read_engine(file.read_text(encoding="utf-8", errors="replace"))
    spec = load_served(model or facts.model, hub=hub)
    card = chosen_gpu(gpu, gpu_memory_gib) if gpu or gpu_memory_gib else None
    rows = compare(facts, spec, card, weight_format, tp)
    found = [asdict(row) | {"difference_percent": row.difference_percent} for row in rows]
    _show({"facts": asdict(facts), "comparison": found} if as_json else comparison_text(facts, rows))


@vram.command("gpus")
@click.option(
    "--local", is_flag=True, help="List the NVIDIA GPUs of this machine instead, as their driver reports them."
)
@_json
def list_gpus(local: bool, as_json: bool) -> None:
    """
    List the GPU models that llmload knows: memory as CUDA reports it, bandwidth and 16-bit speed.

    \b
    Examples:
      llmload vram gpus
      llmload vram gpus --json
      llmload vram gpus --local
    """
    from dataclasses import asdict

    from llmload.sizing.cards import gpus, local_gpus
    from llmload.sizing.text import gpus_text, local_gpus_text

    if local:
        here = local_gpus()
        _show([asdict(gpu) for gpu in here] if as_json else local_gpus_text(here))
    else:
        _show([asdict(gpu) for gpu in gpus()] if as_json else gpus_text(gpus()))


@vram.command("models")
@_json
def list_models(as_json: bool) -> None:
    """
    List the models whose configs ship with llmload.

    \b
    Examples:
      llmload vram models
      llmload vram models --json
    """
    from llmload.sizing.catalogue import model_entries

    lines = [f"{entry['name']:<34}{entry['hf_id'] or ''}".rstrip() for entry in model_entries()]
    _show(model_entries() if as_json else "\n".join(lines))
