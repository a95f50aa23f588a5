"""What an engine's start-up log or /metrics says about its memory, and the estimate from its settings beside it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmload.errors import ConfigError
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.block_pool import BlockPool, block_pool
from llmload.sizing.cards import Gpu
from llmload.sizing.engines import Engine, EngineOptions, engine_for
from llmload.sizing.fit import rank_weights
from llmload.sizing.kv_cache import KV_ELEMENT_BYTES, KvCache
from llmload.sizing.overhead import overhead
from llmload.sizing.parallelism import Parallelism, rank_model
from llmload.sizing.parameters import count_parameters
from llmload.sizing.weights import format_of, weights_bytes
from llmload.units import GIB

Pick = Callable[[list[float]], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """
    What the text says; None where it does not. Sizes are GiB on one GPU, the fullest where they differ.

    `one_line_tokens`: tokens of the KV cache are concurrency x length, as vLLM counts since it logs both in one line.
    """

    engine: str  # vllm or sglang
    version: str | None = None
    model: str | None = None
    on_cpu: bool = False
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    expert_parallel: bool = False
    enforce_eager: bool = False
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
_GIB_PATTERN = _NUMBER + r" ?Gi?B"

# Wordings by fact: vLLM V1, then V0, then SGLang; the "GB" of all three is 2^30 bytes. The last match counts, except
# where several ranks log: see _PICKS.
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
        rf"total_gpu_memory \({_GIB_PATTERN}\)",
        rf"total_gpu_memory(?:=|\s+){_GIB_PATTERN}",
        r"Free memory on device[^(]*\([\d.]+/([\d.]+) GiB\)",
    ),
    "checkpoint_gib": (rf"Checkpoint size: {_GIB_PATTERN}",),
    "weights_gib": (
        rf"[Mm]odel loading took {_GIB_PATTERN}",
        rf"[Mm]odel weights take\s+{_GIB_PATTERN}",
        rf"Loading model weights took {_GIB_PATTERN}",
        rf"[Ll]oad.weight.end.*mem usage={_GIB_PATTERN}",
    ),
    "activation_gib": (rf"activation peak memory(?: takes|\s)\s*{_GIB_PATTERN}",),
    "non_torch_gib": (rf"non_torch_memory(?: takes|=|\s)\s*{_GIB_PATTERN}",),
    "graphs_gib": (
        rf"Estimated CUDA graph memory: {_GIB_PATTERN}",
        rf"Graph capturing finished in .*took {_GIB_PATTERN}",
    ),
    "pool_gib": (
        rf"Available KV cache memory: {_GIB_PATTERN}",
        rf"reserved for KV Cache is {_GIB_PATTERN}",
        rf"kv_cache_size={_GIB_PATTERN}",
        rf"available_kv_cache_memory\s+{_GIB_PATTERN}",
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
    Return the facts of a start-up log of vLLM or SGLang, or of what their /metrics answers.

    Raises ConfigError for a text without any of them.
    """
    if re.search(r"^vllm:cache_config_info\{", text, re.MULTILINE):
        return _from_metrics(text)
    found: dict[str, Any] = {name: _number(name, text) for name in _NUMBERS}
    if all(found[name] is None for name in ("weights_gib", "checkpoint_gib", "pool_gib", "tokens", "blocks")):
        raise ConfigError("neither a start-up log nor /metrics: it has no weights, KV cache, blocks or tokens")
    found |= {name: _word(patterns, text) for name, patterns in _WORDS.items()}
    sglang = bool(re.search(r"max_total_num_tokens|mem_fraction_static|KV Cache is allocated", text))
    if sglang and found["pool_gib"] is None:
        found["pool_gib"] = _sglang_pool_gib(text)
    return EngineFacts(
        engine="sglang" if sglang else "vllm",
        on_cpu=bool(re.search(r"CPU KV cache size|GiB for KV cache on node|device_config=cpu", text)),
        expert_parallel=bool(re.search(r"'enable_expert_parallel': True|enable_expert_parallel=True", text)),
        enforce_eager=bool(re.search(r"'?enforce_eager'?[:=] ?True|disable_cuda_graph=True", text)),
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
    """The settings and results in the labels of one of vLLM's series."""
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
        pool_gib=pool_bytes / GIB if pool_bytes else None,
        tokens=tokens,
        concurrency=concurrency,
        max_model_len_tokens=round(tokens / concurrency) if tokens and concurrency else None,
        one_line_tokens=tokens is not None,
    )


_CPU_BLOCK_TOKENS = 128  # vllm/platforms/cpu.py
_QUANTISED = {"fp8": "fp8", "mxfp4": "mxfp4", "awq": "w4a16", "gptq": "w4a16", "bitsandbytes": "nf4"}
_KV_DTYPES = {"auto": None, "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure of the engine beside the estimate, both in the unit that ends the name; None: the log has none."""

    quantity: str
    logged: float | None
    estimated: float
    given: str  # the estimate's inputs

    @property
    def difference_percent(self) -> float | None:
        """How far the estimate is above the engine's figure; None where that is unknown or zero."""
        return 100 * (self.estimated / self.logged - 1) if self.logged else None

    def agrees(self, percent: float) -> bool:
        """Return whether they differ by at most `percent`, or by less than a log with two digits rounds off."""
        if self.logged is None:
            return False
        rounded_off = 0.005 if self.quantity.endswith(("_gib", "concurrency")) else 0.0
        return abs(self.estimated - self.logged) <= max(abs(self.logged) * percent / 100, rounded_off)


def compare(
    facts: EngineFacts,
    model: ModelSpec,
    gpu: Gpu | None = None,
    weight_format: str | None = None,
    tensor_parallel: int | None = None,
) -> list[Comparison]:
    """
    Return the estimates that the engine's settings allow; the other arguments replace what the log omits.

    Raises ConfigError for an unknown quantisation without `weight_format`.
    """
    form = weight_format or log_weight_format(facts, model)
    parallelism = Parallelism(
        tensor=facts.tensor_parallel or tensor_parallel or 1,
        pipeline=facts.pipeline_parallel or 1,
        expert=facts.expert_parallel,
    )
    rows = _weights(facts, model, form, parallelism)
    rows += _overhead(facts, model, form, parallelism, gpu)
    return rows + _cache(facts, model, parallelism)


def log_weight_format(facts: EngineFacts, model: ModelSpec) -> str:
    """
    Return the format of the engine's weights: by its quantisation, then its dtype, then the model's config.

    Raises ConfigError where none of these has it.
    """
    method = (facts.quantization or "").removesuffix("_marlin")
    if method and model.weight_format and model.quantisation:
        return model.weight_format
    if method in _QUANTISED:
        return _QUANTISED[method]
    if method:
        raise ConfigError(f"quantization={method} may be several formats: say which with --precision")
    if facts.dtype == "float32":
        return "fp32"
    if model.weight_format is None:
        raise ConfigError(f"{model.source}: {model.unread}: give --precision")
    return model.weight_format


def _weights(facts: EngineFacts, model: ModelSpec, form: str, parallelism: Parallelism) -> list[Comparison]:
    rows = []
    if facts.checkpoint_gib is not None:
        whole = weights_bytes(count_parameters(model), format_of(model, form)) / GIB
        rows.append(
            Comparison(quantity="checkpoint_gib", logged=facts.checkpoint_gib, estimated=whole, given=f"config, {form}")
        )
    if facts.weights_gib is not None or not rows:
        best = max(rank_weights(model, form, parallelism, stage).best for stage in range(parallelism.pipeline))
        given = f"config, {form}, TP {parallelism.tensor}"
        rows.append(Comparison(quantity="weights_gib", logged=facts.weights_gib, estimated=best / GIB, given=given))
    return rows


def _overhead(
    facts: EngineFacts, model: ModelSpec, form: str, parallelism: Parallelism, gpu: Gpu | None
) -> list[Comparison]:
    """Activations, libraries and the pool; only for vLLM on a GPU whose memory is known."""
    card = gpu or _card_of(facts)
    if facts.engine != "vllm" or facts.on_cpu or card is None or facts.version is None:
        return []
    engine = _engine(facts, card)
    extra = overhead(model, engine, parallelism, stage=parallelism.pipeline - 1, weight_format=form)
    weights = rank_weights(model, form, parallelism, parallelism.pipeline - 1)
    usable = card.usable_gib * GIB * engine.utilization
    parts = {
        "activation_gib": (facts.activation_gib, extra.activation_bytes.best),
        "non_torch_gib": (facts.non_torch_gib, extra.non_torch_bytes.best),
        "pool_gib": (facts.pool_gib, usable - weights.best - extra.total_bytes.best),
    }
    given = f"{card.usable_gib:.2f} GiB x {engine.utilization:g}, vLLM {facts.version}"
    return [
        Comparison(quantity=name, logged=logged, estimated=estimated / GIB, given=given)
        for name, (logged, estimated) in parts.items()
    ]


def _cache(facts: EngineFacts, model: ModelSpec, parallelism: Parallelism) -> list[Comparison]:
    """Blocks, tokens and concurrency from the pool that the engine logs, so that no earlier error is in them."""
    if facts.pool_gib is None or model.encoder:
        return []
    pool_bytes = int(facts.pool_gib * GIB)
    if facts.engine == "sglang":
        cache = KvCache(model=model, element_bytes=_width(facts, model), tensor_parallel=parallelism.tensor)
        token_bytes = cache.bytes_per_token
        return [
            Comparison(quantity="tokens", logged=facts.tokens, estimated=pool_bytes // token_bytes, given="its pool")
        ]
    pool = _pool(facts, model, parallelism)
    blocks = pool.blocks(pool_bytes)
    rows = [Comparison(quantity="blocks", logged=facts.blocks, estimated=blocks, given="its pool")]
    length, batched = facts.max_model_len_tokens, facts.max_num_batched_tokens or 2048
    if length is None:
        return rows
    concurrency = pool.max_concurrency(blocks, length, batched)
    tokens = int(concurrency * length) if facts.one_line_tokens else pool.tokens(blocks)
    given = f"its pool, requests of {length:,}"
    rows.append(Comparison(quantity="tokens", logged=facts.tokens, estimated=tokens, given=given))
    rows.append(Comparison(quantity="concurrency", logged=facts.concurrency, estimated=concurrency, given=given))
    return rows


def _pool(facts: EngineFacts, model: ModelSpec, parallelism: Parallelism) -> BlockPool:
    block_tokens = facts.block_tokens or (_CPU_BLOCK_TOKENS if facts.on_cpu else 16)
    cut = Parallelism(tensor=parallelism.tensor, pipeline=parallelism.pipeline)
    part = rank_model(model, cut, parallelism.pipeline - 1)
    return block_pool(KvCache(model=part, element_bytes=_width(facts, model)), block_tokens)


def _width(facts: EngineFacts, model: ModelSpec) -> int:
    unnamed = model.kv_dtype or ("fp32" if facts.dtype == "float32" else "bf16")
    named = _KV_DTYPES.get(facts.kv_dtype or "auto") or unnamed
    return KV_ELEMENT_BYTES.get(named, 2)


def _card_of(facts: EngineFacts) -> Gpu | None:
    """The GPU of which only the memory is known, from the log."""
    if facts.gpu_total_gib is None:
        return None
    return Gpu(
        name="the log's GPU",
        nominal_gb=round(facts.gpu_total_gib),
        total_gib=facts.gpu_total_gib,
        bandwidth_gb_per_s=0,
        tensor_16bit_tflops=None,
        nvlink_gb_per_s=None,
        source="the log",
    )


def _engine(facts: EngineFacts, card: Gpu) -> Engine:
    return engine_for(
        card,
        version=facts.version,
        options=EngineOptions(
            utilization=facts.utilization,
            max_num_seqs=facts.max_num_seqs,
            max_num_batched_tokens=facts.max_num_batched_tokens,
            enforce_eager=facts.enforce_eager or None,
        ),
    )
