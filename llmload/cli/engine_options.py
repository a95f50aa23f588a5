"""The options of an engine that change how much memory it leaves, under each engine's own names."""

from collections.abc import Callable
from dataclasses import fields
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from llmload.sizing.engines import EngineOptions


class _Amount(click.FloatRange):
    """A number above 0 and within reason: `nan` is beyond no limit, so click takes it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; BadParameter for any other text."""
        amount: float = super().convert(value, param, ctx)
        if not isfinite(amount):
            self.fail(f"{value} is not a number above 0", param, ctx)
        return amount


MOST: Final = 1_000_000_000
"""More than any card or request has: what is computed of it is still finite."""
AMOUNT: Final = _Amount(0, MOST, min_open=True)
COUNT: Final = click.IntRange(1, MOST)
"""Requests, or tokens."""
GPUS: Final = click.IntRange(1, 100_000)
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
        type=COUNT,
        metavar="N",
        help="Requests that the engine admits at once. [default: the engine's]",
    ),
    click.option(
        "--max-num-batched-tokens",
        "--chunked-prefill-size",
        "--ubatch-size",
        "-ub",
        "max_num_batched_tokens",
        type=COUNT,
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
        "--draft-tokens",
        "--spec-draft-n-max",
        "draft_tokens",
        type=COUNT,
        metavar="N",
        help="Tokens that it drafts at a time. [default: 3]",
    ),
    click.option(
        "--max-loras",
        "--max-loras-per-batch",
        "max_loras",
        type=COUNT,
        metavar="N",
        help="LoRA adapters on the GPU at once.",
    ),
    click.option("--max-lora-rank", type=COUNT, metavar="RANK", help="Their largest rank. [default: 16]"),
    click.option(
        "--cpu-offload-gib",
        "--cpu-offload-gb",
        "cpu_offload_gib",
        type=AMOUNT,
        metavar="GIB",
        help="Weights of each GPU that stay in the host's memory.",
    ),
    click.option(
        "--n-gpu-layers",
        "--gpu-layers",
        "-ngl",
        "gpu_layers",
        type=click.IntRange(0, MOST),
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
    click.option(
        "--ctx-size",
        "-c",
        "ctx_size",
        type=COUNT,
        metavar="TOKENS",
        help="llama.cpp: context of all slots together, in place of --context, which is that of one.",
    ),
    click.option(
        "--kv-unified",
        "-kvu",
        "kv_unified",
        is_flag=True,
        default=None,
        help="llama.cpp: slots share one cache.",
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
