"""The options of an engine that change how much memory it leaves, under each engine's own names."""

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from llmload.sizing.engines import EngineOptions

_OPTIONS = (
    click.option(
        "--engine",
        default="vllm",
        show_default=True,
        metavar="NAME",
        help="vllm, sglang or llama.cpp; the memory of others is not modelled.",
    ),
    click.option("--engine-version", metavar="VERSION", help="The version, such as 0.19. [default: the newest known]"),
    click.option(
        "--utilization",
        "--gpu-memory-utilization",
        "--mem-fraction-static",
        type=float,
        metavar="FRACTION",
        help="Fraction of the GPU's memory for the engine. [default: the engine's]",
    ),
    click.option(
        "--max-num-seqs",
        "--max-running-requests",
        "--parallel",
        "-np",
        "max_num_seqs",
        type=click.IntRange(1),
        metavar="N",
        help="Requests that the engine admits at once. [default: the engine's]",
    ),
    click.option(
        "--max-num-batched-tokens",
        "--chunked-prefill-size",
        "--ubatch-size",
        "-ub",
        "max_num_batched_tokens",
        type=click.IntRange(1),
        metavar="TOKENS",
        help="Tokens of one step. [default: the engine's]",
    ),
    click.option(
        "--enforce-eager",
        "--disable-cuda-graph",
        "enforce_eager",
        is_flag=True,
        default=None,
        help="The engine captures no CUDA graphs.",
    ),
    click.option(
        "--enable-prefix-caching/--no-enable-prefix-caching",
        "prefix_caching",
        default=None,
        help="Whether prefixes are kept; models with recurrent layers then take two states a request.",
    ),
    click.option(
        "--drafter",
        metavar="METHOD",
        help="Speculative decoding by eagle, eagle3 or mtp: its weights, and one layer more in the KV cache.",
    ),
    click.option(
        "--draft-tokens", type=click.IntRange(1), metavar="N", help="Tokens that it drafts at a time. [default: 3]"
    ),
    click.option("--max-loras", type=click.IntRange(1), metavar="N", help="LoRA adapters on the GPU at once."),
    click.option("--max-lora-rank", type=click.IntRange(1), metavar="RANK", help="Their largest rank. [default: 16]"),
    click.option(
        "--cpu-offload-gib",
        "--cpu-offload-gb",
        "cpu_offload_gib",
        type=click.FloatRange(0, min_open=True),
        metavar="GIB",
        help="Weights of each GPU that stay in the host's memory.",
    ),
    click.option(
        "--n-gpu-layers",
        "--gpu-layers",
        "-ngl",
        "gpu_layers",
        type=click.IntRange(0),
        metavar="N",
        help="llama.cpp: layers on the GPU, the output counting as one. [default: all]",
    ),
    click.option(
        "--cache-type",
        "--cache-type-k",
        "-ctk",
        "cache_type",
        metavar="TYPE",
        help="llama.cpp: type of keys and values, such as f16, q8_0 or q4_0. [default: f16]",
    ),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them by keyword; see `taken`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def taken(asked: dict[str, Any]) -> "EngineOptions":
    """Return the engine's options out of a command's keywords, which are left without them."""
    from llmload.sizing.engines import EngineOptions

    return EngineOptions(**{field.name: asked.pop(field.name) for field in fields(EngineOptions)})
