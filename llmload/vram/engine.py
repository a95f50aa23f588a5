"""Inference engines as far as memory depends on them: their versions, settings and defaults."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from llmload.errors import ConfigError
from llmload.vram.gpus import Gpu

VLLM_LATEST = (0, 21)  # what an unnamed version is taken for; nothing that sizes memory is known to differ above it
_GRAPHS_COUNTED_SINCE = (0, 21)  # vLLM's own log: "CUDA graph memory profiling is enabled (default since v0.21.0)"
# sglang/srt/server_args.py of 0.4: the share that weights and KV cache may take, by GPUs of one copy.
_SGLANG_SHARES: Mapping[int, float] = {16: 0.79, 8: 0.81, 4: 0.85, 2: 0.87, 1: 0.88}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine as it will be started; its `utilization` is the share of a card's memory that it may use."""

    name: str  # vllm or sglang
    version: tuple[int, int]
    utilization: float
    max_num_seqs: int
    max_num_batched_tokens: int
    block_tokens: int = 16
    graphs: bool = True  # CUDA graphs are captured

    @property
    def counts_graphs(self) -> bool:
        """Whether the engine sets the memory of its CUDA graphs aside before it sizes the KV cache."""
        return self.graphs and self.name == "vllm" and self.version >= _GRAPHS_COUNTED_SINCE


def engine_for(
    gpu: Gpu,
    name: str = "vllm",
    version: str | None = None,
    *,
    utilization: float | None = None,
    gpus: int = 1,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
) -> Engine:
    """
    The engine with the defaults it takes on such a card; gpus: of one copy of the model.

    Raises ConfigError for an engine, version or share of memory that is not known. Source: vLLM engine/arg_utils.py,
    `get_batch_defaults`; SGLang server_args.py.
    """
    if name not in ("vllm", "sglang"):
        raise ConfigError(f"engine {name!r} is not known; known: vllm, sglang")
    if utilization is not None and not 0 < utilization <= 1:
        raise ConfigError(f"utilization = {utilization} is not a share above 0 and up to 1")
    seqs, batched = _batch_defaults(gpu)
    release = parse_version(version) if version else VLLM_LATEST
    return Engine(
        name=name,
        version=release,
        utilization=utilization or default_utilization(name, release, gpus),
        max_num_seqs=max_num_seqs or seqs,
        max_num_batched_tokens=max_num_batched_tokens or batched,
    )


def parse_version(text: str) -> tuple[int, int]:
    """The first two numbers of a version such as 0.19.0 or v0.8.5.post1; raises ConfigError where there are none."""
    found = re.match(r"v?(\d+)\.(\d+)", text.strip())
    if found is None:
        raise ConfigError(f"engine version {text!r} does not begin with two numbers, as 0.19 does")
    return int(found[1]), int(found[2])


def default_utilization(name: str, version: tuple[int, int], gpus: int = 1) -> float:
    """The share of a card's memory that the engine takes unasked; vLLM raised it when it began to count its graphs."""
    if name == "sglang":
        return next(share for least, share in _SGLANG_SHARES.items() if gpus >= least)
    return 0.92 if version >= _GRAPHS_COUNTED_SINCE else 0.9


def _batch_defaults(gpu: Gpu) -> tuple[int, int]:
    """vLLM's max_num_seqs and max_num_batched_tokens for its API server on such a card."""
    total_gib = gpu.usable_gib
    if total_gib >= 160:
        return 1024, 16384
    if total_gib >= 70 and "a100" not in gpu.name.lower():
        return 1024, 8192
    return 256, 2048
