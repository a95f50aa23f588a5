"""What the command that starts an engine says of its memory: which engine, and the options that sizing models."""

import shlex
from collections.abc import Callable, Mapping
from itertools import pairwise
from math import inf
from typing import Any, Final

from llmload.sizing.engines import FLAGS, EngineOptions

_OF_PROGRAM: Final[Mapping[str, str]] = {
    "sglang": "sglang",
    "llama-server": "llama.cpp",
    "text-generation-launcher": "tgi",
    "trtllm-serve": "tensorrt-llm",
}
_ALIASES: Final[Mapping[str, str]] = {
    "-np": "--parallel",
    "-ub": "--ubatch-size",
    "-ngl": "--n-gpu-layers",
    "--gpu-layers": "--n-gpu-layers",
    "-ctk": "--cache-type-k",
    "-c": "--ctx-size",
    "-kvu": "--kv-unified",
}
"""Other names of llama.cpp's options."""
_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "utilization": float,
    "max_num_seqs": int,
    "max_num_batched_tokens": int,
    "max_loras": int,
    "max_lora_rank": int,
    "cpu_offload_gib": float,
    "gpu_layers": int,
    "cache_type": str,
    "ctx_size": int,
}


def engine_of(command: str) -> str:
    """Return the engine that a command starts, vLLM where it names none that is known."""
    return next((name for program, name in _OF_PROGRAM.items() if program in command), "vllm")


def options_of(command: str) -> EngineOptions:
    """Return the options in a command that move its engine's memory; those that sizing does not model are left out."""
    flags = {flag: name for name, flag in FLAGS.get(engine_of(command), {}).items()}
    found: dict[str, Any] = {}
    for word, following in pairwise([*_words(command), ""]):
        name = flags.get(_ALIASES.get(word, word), "")
        if name in ("enforce_eager", "kv_unified"):
            found[name] = True
        elif name in _READ:
            found[name] = _value(_READ[name], following)
    return EngineOptions(**found)


def _words(command: str) -> list[str]:
    """The words of a command, `--flag=value` as two; none where its quotes do not match."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    parts = (word.partition("=") if word.startswith("--") else (word, "", "") for word in words)
    return [each for flag, _, value in parts for each in (_dashed(flag), value) if each]


def _dashed(word: str) -> str:
    """A long option with dashes: vLLM takes `--max_num_seqs` too."""
    return word.replace("_", "-") if word.startswith("--") else word


def _value(read: Callable[[str], Any], text: str) -> Any:
    """Return a value as it is read; None where it is none, or says "the default" by a negative number."""
    try:
        value = read(text)
    except ValueError:
        return None
    return value if isinstance(value, str) or 0 <= value < inf else None
