"""What an inference engine says about its memory: its start-up log, or its /metrics, as facts."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmload.errors import ConfigError

Pick = Callable[[list[float]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """
    What was found; None is what the text does not say. Sizes are GiB on one GPU, the fullest where they differ.

    Settings are those the engine was started with; `one_line_tokens` tells the wording that counts KV tokens as
    concurrency x length, which vLLM took up when it began to print both in one line.
    """

    engine: str  # vllm or sglang
    version: str | None = None
    model: str | None = None
    on_cpu: bool = False
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    expert_parallel: bool = False
    dtype: str | None = None
    kv_dtype: str | None = None
    quantization: str | None = None
    max_model_len_tokens: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    block_tokens: int | None = None
    utilization: float | None = None
    gpu_total_gib: float | None = None
    checkpoint_gib: float | None = None
    weights_gib: float | None = None
    activation_gib: float | None = None
    non_torch_gib: float | None = None
    graphs_gib: float | None = None
    pool_gib: float | None = None
    blocks: int | None = None
    tokens: int | None = None
    concurrency: float | None = None
    one_line_tokens: bool = False


_NUMBER = r"(-?[\d,]+\.?\d*)"
_GIB = _NUMBER + r" ?Gi?B"

# Wordings by fact: vLLM V1, then V0, then SGLang; the "GB" of all three is 2^30 bytes. The last mention counts, except
# where several ranks speak: see _PICKS.
_NUMBERS: Mapping[str, Sequence[str]] = {
    "tensor_parallel": (r"tensor_parallel_size=(\d+)", r"'tensor_parallel_size': (\d+)", r"\btp_size=(\d+)"),
    "pipeline_parallel": (r"pipeline_parallel_size=(\d+)", r"\bpp_size=(\d+)"),
    "max_model_len_tokens": (
        r"Maximum concurrency for ([\d,]+) tokens",
        r"max_seq_len=(\d+)",
        r"Using max model len (\d+)",
        r"context_len=(\d+)",
    ),
    "max_num_seqs": (r"'max_num_seqs': (\d+)", r"max_num_seqs=(\d+)", r"Defaulting max_num_seqs to (\d+)"),
    "max_num_batched_tokens": (
        r"'max_num_batched_tokens': (\d+)",
        r"max_num_batched_tokens=(\d+)",
        r"Defaulting max_num_batched_tokens to (\d+)",
    ),
    "block_tokens": (r"'block_size': (\d+)", r"\bpage_size=(\d+)"),
    "utilization": (
        r"'gpu_memory_utilization': ([\d.]+)",
        r"gpu_memory_utilization \(([\d.]+)\)",
        r"gpu_memory_utilization(?:=|\s+)([\d.]+)",
        r"mem_fraction_static=([\d.]+)",
    ),
    "gpu_total_gib": (
        rf"total_gpu_memory \({_GIB}\)",
        rf"total_gpu_memory(?:=|\s+){_GIB}",
        r"Free memory on device[^(]*\([\d.]+/([\d.]+) GiB\)",
    ),
    "checkpoint_gib": (rf"Checkpoint size: {_GIB}",),
    "weights_gib": (
        rf"[Mm]odel loading took {_GIB}",
        rf"[Mm]odel weights take\s+{_GIB}",
        rf"Loading model weights took {_GIB}",
        rf"[Ll]oad.weight.end.*mem usage={_GIB}",
    ),
    "activation_gib": (rf"activation peak memory(?: takes|\s)\s*{_GIB}",),
    "non_torch_gib": (rf"non_torch_memory(?: takes|=|\s)\s*{_GIB}",),
    "graphs_gib": (rf"Estimated CUDA graph memory: {_GIB}", rf"Graph capturing finished in .*took {_GIB}"),
    "pool_gib": (
        rf"Available KV cache memory: {_GIB}",
        rf"reserved for KV Cache is {_GIB}",
        rf"kv_cache_size={_GIB}",
        rf"available_kv_cache_memory\s+{_GIB}",
        r"(?:Explicitly|Auto) set \(([\d.]+)/[\d.]+\) GiB for KV cache",
    ),
    "blocks": (r"# (?:GPU|cuda|CUDA) blocks: ([\d,]+)", r"num_gpu_blocks(?: is)?: (\d+)"),
    "tokens": (
        r"KV cache size: ([\d,]+) tokens",
        r"KV Cache is allocated\..*#tokens: ([\d,]+)",
        r"max_total_num_tokens=(\d+)",
    ),
    "concurrency": (rf"Maximum concurrency for [\d,]+ tokens per request: {_NUMBER}x",),
}
_PICKS: Mapping[str, Pick] = {"weights_gib": max, "activation_gib": max, "non_torch_gib": max, "pool_gib": min}
_WHOLE = {name for name in _NUMBERS if name.endswith(("_parallel", "_tokens", "_seqs")) or name in ("blocks", "tokens")}
_WORDS: Mapping[str, Sequence[str]] = {
    "version": (r"LLM engine \(v([\w.+]+)\)", r"version (\d+\.\d+[\w.]*)"),
    "model": (r"config: model='([^']+)'", r"model_path='([^']+)'", r"Starting to load model (\S+?)\.{3}"),
    "dtype": (r"[ (]dtype=(?:torch\.)?'?(\w+)",),
    "kv_dtype": (r"kv_cache_dtype='?(\w+)",),
    "quantization": (r"[ (]quantization='?([\w-]+)",),
}


def read_engine(text: str) -> EngineFacts:
    """
    The facts of a vLLM or SGLang start-up log, or of their /metrics.

    Raises ConfigError for a text in which neither engine says anything about its memory.
    """
    if re.search(r"^vllm:cache_config_info\{", text, re.MULTILINE):
        return _from_metrics(text)
    found: dict[str, Any] = {name: _number(name, text) for name in _NUMBERS}
    if all(found[name] is None for name in ("weights_gib", "checkpoint_gib", "pool_gib", "tokens", "blocks")):
        raise ConfigError("neither a start-up log nor /metrics: no weights, KV cache, blocks or tokens are told in it")
    found |= {name: _word(patterns, text) for name, patterns in _WORDS.items()}
    sglang = bool(re.search(r"max_total_num_tokens|mem_fraction_static|KV Cache is allocated", text))
    if sglang and found["pool_gib"] is None:
        found["pool_gib"] = _sglang_pool_gib(text)
    return EngineFacts(
        engine="sglang" if sglang else "vllm",
        on_cpu=bool(re.search(r"CPU KV cache size|GiB for KV cache on node|device_config=cpu", text)),
        expert_parallel=bool(re.search(r"'enable_expert_parallel': True|enable_expert_parallel=True", text)),
        one_line_tokens=bool(re.search(r"KV cache size: [\d,]+ tokens, Maximum concurrency", text)),
        **found,
    )


def _number(name: str, text: str) -> Any:
    for pattern in _NUMBERS[name]:
        values = [float(value.replace(",", "")) for value in re.findall(pattern, text)]
        if values:
            value = _PICKS[name](values) if name in _PICKS else values[-1]
            return int(value) if name in _WHOLE else value
    return None


def _word(patterns: Sequence[str], text: str) -> str | None:
    for pattern in patterns:
        found = re.search(pattern, text)
        if found and found[1] != "None":
            return found[1]
    return None


def _sglang_pool_gib(text: str) -> float | None:
    """SGLang logs keys and values apart, or both together for latent attention."""
    line = re.search(r"KV Cache is allocated\.(.*)", text)
    if line is None:
        return None
    sizes = [float(size) for size in re.findall(r"(?:K|V|KV) size: ([\d.]+) GB", line[1])]
    return sum(sizes) or None


def _from_metrics(text: str) -> EngineFacts:
    """The settings and results that vLLM exports as labels of one series."""
    line = re.search(r"^vllm:cache_config_info\{(.*)\}", text, re.MULTILINE)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line[1] if line else ""))
    known = {key: value for key, value in labels.items() if value not in ("None", "")}

    def whole(key: str) -> int | None:
        return int(known[key]) if key in known else None

    pool_bytes = whole("kv_cache_memory_bytes")
    model = re.search(r'^vllm:\w+\{[^}]*model_name="([^"]+)"', text, re.MULTILINE)
    concurrency = float(known["kv_cache_max_concurrency"]) if "kv_cache_max_concurrency" in known else None
    tokens = whole("kv_cache_size_tokens")
    return EngineFacts(
        engine="vllm",
        model=model[1] if model else None,
        kv_dtype=known.get("cache_dtype"),
        block_tokens=whole("block_size"),
        utilization=float(known["gpu_memory_utilization"]) if "gpu_memory_utilization" in known else None,
        blocks=whole("num_gpu_blocks"),
        pool_gib=pool_bytes / 2**30 if pool_bytes else None,
        tokens=tokens,
        concurrency=concurrency,
        max_model_len_tokens=round(tokens / concurrency) if tokens and concurrency else None,
        one_line_tokens=tokens is not None,
    )
