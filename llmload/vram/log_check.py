"""An engine's own figures beside the estimate made from its settings."""

from dataclasses import dataclass

from llmload.errors import ConfigError
from llmload.vram.block_pool import BlockPool, block_pool
from llmload.vram.engine import Engine, engine_for
from llmload.vram.engine_log import EngineFacts
from llmload.vram.fit import rank_weights
from llmload.vram.gpus import Gpu
from llmload.vram.kv_cache import KV_ELEMENT_BYTES, KvCache
from llmload.vram.model import ModelSpec
from llmload.vram.overhead import overhead
from llmload.vram.parameters import count_parameters
from llmload.vram.sharding import Parallelism, rank_model
from llmload.vram.weights import WEIGHT_FORMATS, weights_bytes

_GIB = 2**30
_CPU_BLOCK_TOKENS = 128  # vllm/platforms/cpu.py
_QUANTISED = {"fp8": "fp8", "mxfp4": "mxfp4", "awq": "w4a16", "gptq": "w4a16", "bitsandbytes": "nf4"}
_KV_DTYPES = {"auto": None, "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure of the engine beside the estimate, both in the unit that ends the name; None: it was not told."""

    quantity: str
    logged: float | None
    estimated: float
    given: str  # what the estimate starts from

    @property
    def difference_percent(self) -> float | None:
        """How far the estimate is above the engine's figure; None where that is unknown or zero."""
        return 100 * (self.estimated / self.logged - 1) if self.logged else None

    def agrees(self, percent: float) -> bool:
        """Whether they differ by no more than so many percent, or by less than a log of two digits rounds off."""
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
    What can be estimated from what the engine tells of its settings; the other arguments stand in for what it omits.

    Raises ConfigError for a quantisation that is not known and not given.
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


def comparison_text(facts: EngineFacts, rows: list[Comparison]) -> str:
    """The comparison for people, a line a figure; a dash is not told."""
    version = f" {facts.version}" if facts.version else ""
    lines = [f"{facts.engine}{version}: {facts.model or 'model not named'}"]
    lines.append(f"  {'':<22}{'logged':>13}{'estimate':>13}{'%':>8}  from")
    for row in rows:
        digits = 2 if row.quantity.endswith("_gib") or row.quantity == "concurrency" else 0
        logged = "-" if row.logged is None else f"{row.logged:,.{digits}f}"
        off = "-" if row.difference_percent is None else f"{row.difference_percent:+.2f}"
        off = "equal" if row.agrees(0) else off  # as far as the log's digits tell
        lines.append(f"  {row.quantity:<22}{logged:>13}{row.estimated:>13,.{digits}f}{off:>8}  {row.given}")
    return "\n".join(lines)


def log_weight_format(facts: EngineFacts, model: ModelSpec) -> str:
    """
    How the engine holds its weights: by its quantisation, then by its dtype, then by the model's config.

    Raises ConfigError where none of these tells.
    """
    method = (facts.quantization or "").removesuffix("_marlin")
    if method in _QUANTISED:
        return _QUANTISED[method]
    if method:
        if model.weight_format and model.quantisation:
            return model.weight_format
        raise ConfigError(f"quantization={method} may be several formats: say which with --precision")
    if facts.dtype == "float32":
        return "fp32"
    if model.weight_format is None:
        raise ConfigError(f"{model.source}: quantisation {model.quantisation!r} is not known: give --precision")
    return model.weight_format


def _weights(facts: EngineFacts, model: ModelSpec, form: str, parallelism: Parallelism) -> list[Comparison]:
    rows = []
    if facts.checkpoint_gib is not None:
        whole = weights_bytes(count_parameters(model), WEIGHT_FORMATS[form]) / _GIB
        rows.append(
            Comparison(quantity="checkpoint_gib", logged=facts.checkpoint_gib, estimated=whole, given=f"config, {form}")
        )
    if facts.weights_gib is not None or not rows:
        best = max(rank_weights(model, form, parallelism, stage).best for stage in range(parallelism.pipeline))
        given = f"config, {form}, TP {parallelism.tensor}"
        rows.append(Comparison(quantity="weights_gib", logged=facts.weights_gib, estimated=best / _GIB, given=given))
    return rows


def _overhead(
    facts: EngineFacts, model: ModelSpec, form: str, parallelism: Parallelism, gpu: Gpu | None
) -> list[Comparison]:
    """Activations, libraries and the pool: only for vLLM on a GPU whose memory is known."""
    card = gpu or _card_of(facts)
    if facts.engine != "vllm" or facts.on_cpu or card is None or facts.version is None:
        return []
    engine = _engine(facts, card)
    extra = overhead(model, engine, parallelism, stage=parallelism.pipeline - 1, weight_format=form)
    weights = rank_weights(model, form, parallelism, parallelism.pipeline - 1)
    usable = card.usable_gib * _GIB * engine.utilization
    parts = {
        "activation_gib": (facts.activation_gib, extra.activation_bytes.best),
        "non_torch_gib": (facts.non_torch_gib, extra.non_torch_bytes.best),
        "pool_gib": (facts.pool_gib, usable - weights.best - extra.total_bytes.best),
    }
    given = f"{card.usable_gib:.2f} GiB x {engine.utilization:g}, vLLM {facts.version}"
    return [
        Comparison(quantity=name, logged=logged, estimated=estimated / _GIB, given=given)
        for name, (logged, estimated) in parts.items()
    ]


def _cache(facts: EngineFacts, model: ModelSpec, parallelism: Parallelism) -> list[Comparison]:
    """Blocks, tokens and concurrency from the pool that the engine reports, so that errors before it are left out."""
    if facts.pool_gib is None or model.encoder:
        return []
    pool_bytes = int(facts.pool_gib * _GIB)
    if facts.engine == "sglang":
        cache = KvCache(model=model, element_bytes=_width(facts), tensor_parallel=parallelism.tensor)
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
    return block_pool(KvCache(model=part, element_bytes=_width(facts)), block_tokens)


def _width(facts: EngineFacts) -> int:
    named = _KV_DTYPES.get(facts.kv_dtype or "auto") or ("fp32" if facts.dtype == "float32" else "bf16")
    return KV_ELEMENT_BYTES[named]


def _card_of(facts: EngineFacts) -> Gpu | None:
    """The card of which only the memory is known, from the log itself."""
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
        utilization=facts.utilization,
        max_num_seqs=facts.max_num_seqs,
        max_num_batched_tokens=facts.max_num_batched_tokens,
    )
