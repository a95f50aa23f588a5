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
        help="vllm or sglang; the memory of others is not modelled.",
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
        "max_num_seqs",
        type=click.IntRange(1),
        metavar="N",
        help="Requests that the engine admits at once. [default: the engine's]",
    ),
    click.option(
        "--max-num-batched-tokens",
        "--chunked-prefill-size",
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
