"""What an engine takes of a GPU beside weights and KV cache: activations, libraries, graphs; as figures with bounds."""

from dataclasses import dataclass, replace

from llmload.sizing.architecture import Dense, Experts, LatentAttention, ModelSpec
from llmload.sizing.engines import Engine
from llmload.sizing.parallelism import ONE_GPU, Parallelism, rank_model
from llmload.units import GIB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with bounds that measured runs stayed within: low <= best <= high, in the unit of its name."""

    low: float
    best: float
    high: float

    @classmethod
    def around(cls, best: float, fraction: float, least: float = 0.0) -> "Estimate":
        """Return the best figure plus and minus a fraction of it, and at least `least` in its own unit."""
        margin = max(abs(best) * fraction, least)
        return cls(best - margin, best, best + margin)

    def __add__(self, other: "Estimate") -> "Estimate":
        """Return the sum of two parts whose errors may have the same direction, as when both follow one setting."""
        return Estimate(self.low + other.low, self.best + other.best, self.high + other.high)

    def less(self, part: "Estimate") -> "Estimate":
        """Return what is left when a part is taken away: its high bound leaves the low one."""
        return Estimate(self.low - part.high, self.best - part.best, self.high - part.low)

    @property
    def figures(self) -> tuple[float, float, float]:
        """Low, best and high."""
        return self.low, self.best, self.high

    def left_of(self, whole: float) -> "Estimate":
        """Return what is left of a whole: the high bound of this leaves the low bound."""
        return Estimate(whole - self.high, whole - self.best, whole - self.low)

    def rounded(self, digits: int) -> dict[str, float]:
        """Return the three figures for JSON."""
        return {"low": round(self.low, digits), "best": round(self.best, digits), "high": round(self.high, digits)}


_LEAN_SAMPLER_SINCE = (0, 17)
_FAT_LOGIT_BYTES = 37.51  # of the sampler's warm-up, for each entry of its logits, before that version
_LOGIT_BYTES_BESIDE_OWN = 12  # since then, beside the logit itself
MXFP4_EXPERT_STEP = 256  # vLLM pads the width of MXFP4 experts to a multiple of it: 2880 becomes 3072


# How far activations were from their formula, a fraction and bytes at least: in versions that were measured part by
# part, and in older ones, of which a few whole pools are known.
_MEASURED_SINCE = (0, 11)
_SEEN = (0.1, 0.15 * GIB)
_SEEN_AFAR = (0.4, 0.3 * GIB)
_NOTHING = Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Bytes on one GPU for neither weights nor KV cache."""

    activation_bytes: Estimate
    non_torch_bytes: Estimate  # CUDA context, NCCL buffers, libraries
    graph_bytes: Estimate

    @property
    def total_bytes(self) -> Estimate:
        """The sum of the three."""
        return self.activation_bytes + self.non_torch_bytes + self.graph_bytes


def overhead(
    model: ModelSpec,
    engine: Engine,
    parallelism: Parallelism = ONE_GPU,
    *,
    stage: int = 0,
    weight_format: str = "bf16",
) -> Overhead:
    """
    Return what an engine takes on one rank of a pipeline stage, of the memory that it may use.

    Formulas: fitted to the parts that vLLM 0.19 logged in 45 runs on H100, and checked against 8 runs of vLLM 0.11
    (llm-d planner, results_raw.csv and empirical-vllm-memory-results.md); bounds are the largest errors there.
    """
    found = _overhead(model, engine, parallelism, stage, weight_format)
    beside = Estimate(0.0, 0.0, engine.unmeasured_gib * GIB)
    return replace(found, non_torch_bytes=found.non_torch_bytes + beside)


def _overhead(model: ModelSpec, engine: Engine, parallelism: Parallelism, stage: int, weight_format: str) -> Overhead:
    if engine.name == "sglang":
        return _sglang_overhead(engine, parallelism)
    last = stage == parallelism.pipeline - 1
    if engine.name == "llama.cpp":
        return _llama_cpp_overhead(model, engine, last_stage=last)
    peak = activation_peak_bytes(model, engine, parallelism, last_stage=last, weight_format=weight_format)
    graphs = Estimate(0.4, 0.85, 1.95) if engine.counts_graphs else _NOTHING
    return Overhead(
        activation_bytes=Estimate.around(peak, *(_SEEN_AFAR if engine.version < _MEASURED_SINCE else _SEEN)),
        non_torch_bytes=_gib(_libraries_gib(engine, parallelism)),
        graph_bytes=_gib(graphs),
    )


def _sglang_overhead(engine: Engine, parallelism: Parallelism) -> Overhead:
    """SGLang's fraction is of what is free before the weights; activations and graphs have the rest of the memory."""
    started = Estimate(0.4, 0.6, 1.2) if parallelism.tensor * parallelism.data == 1 else Estimate(0.6, 1.8, 2.8)
    return Overhead(
        activation_bytes=_NOTHING,
        non_torch_bytes=Estimate(*(figure * engine.utilization * GIB for figure in started.figures)),
        graph_bytes=_NOTHING,
    )


def _llama_cpp_overhead(model: ModelSpec, engine: Engine, *, last_stage: bool) -> Overhead:
    """The CUDA context, and the compute buffer."""
    return Overhead(
        activation_bytes=llama_cpp_buffer_bytes(model, engine, last_stage=last_stage),
        non_torch_bytes=_gib(Estimate(0.2, 0.4, 0.8)),
        graph_bytes=_NOTHING,
    )


def llama_cpp_buffer_bytes(model: ModelSpec, engine: Engine, *, last_stage: bool = True) -> Estimate:
    """
    Return llama.cpp's compute buffer: 32-bit logits and hidden states of a step, or the widest layer's.

    Builds since late 2025 keep the logits of the last token alone. Flash attention is on, as it is by default.
    """
    step = 4 * engine.max_num_batched_tokens
    hidden = model.hidden_size
    widths = [layer.feed_forward.intermediate_size for layer in model.decoder if isinstance(layer.feed_forward, Dense)]
    layer = step * (4 * max(widths, default=0) + 2 * hidden)
    logits = step * (model.vocab_size + hidden) if last_stage else 0
    best = max(layer, logits)
    return Estimate(min(layer, best) / 4, best, 1.5 * best + 0.25 * GIB)


def activation_peak_bytes(
    model: ModelSpec,
    engine: Engine,
    parallelism: Parallelism = ONE_GPU,
    *,
    last_stage: bool = True,
    weight_format: str = "bf16",
) -> float:
    """
    Return the peak of vLLM's warm-up on one rank: the sampler's logits or the widest layer, whichever is larger.

    Experts run in a workspace that stays allocated, so it is added to the sampler's; MXFP4 kernels have none.
    """
    tokens, hidden = engine.max_num_batched_tokens, model.hidden_size
    width = 4 if weight_format == "fp32" else 2
    logit_bytes = _FAT_LOGIT_BYTES if engine.version < _LEAN_SAMPLER_SINCE else _LOGIT_BYTES_BESIDE_OWN + width
    sampler = logit_bytes * engine.max_num_seqs * model.vocab_size if last_stage else 0.0
    part = rank_model(model, parallelism)
    experts = [layer.feed_forward for layer in part.decoder if isinstance(layer.feed_forward, Experts)]
    if experts and weight_format != "mxfp4":
        chosen = max(block.per_token * (3 * block.intermediate_size + hidden) for block in experts)
        return sampler + width * tokens * chosen
    widths = [layer.feed_forward.intermediate_size for layer in part.decoder if isinstance(layer.feed_forward, Dense)]
    layer_peak = width * tokens * (3 * max(widths, default=0) + 2 * hidden)
    return max(sampler, layer_peak) + width * tokens * hidden + 0.11 * GIB


def pads_experts(model: ModelSpec, weight_format: str) -> bool:
    """Return whether vLLM pads the width of a model's experts: of gpt-oss' MXFP4, not of other checkpoints' MXFP4."""
    return weight_format == "mxfp4" and model.quantisation in (None, "mxfp4")


def kept_tables_bytes(model: ModelSpec, parallelism: Parallelism = ONE_GPU) -> int:
    """
    Return the bytes that vLLM counts among a rank's weights and that are not parameters.

    The table of rotary angles, for every position, and for latent attention the two projections it absorbs.
    """
    rotary = 2 * (model.max_position_tokens or 0) * model.rotary_dim
    absorbed = sum(
        2 * mixer.kv_lora_rank * (mixer.heads // parallelism.tensor) * (mixer.qk_nope_head_dim + mixer.v_head_dim)
        for mixer in model.mixers
        if isinstance(mixer, LatentAttention)
    )
    return rotary + absorbed // parallelism.pipeline


def _libraries_gib(engine: Engine, parallelism: Parallelism) -> Estimate:
    """GiB of CUDA, NCCL and other libraries: with TP or DP attention, with pipeline stages, with none."""
    lean = engine.version >= _LEAN_SAMPLER_SINCE
    if parallelism.tensor * parallelism.data > 1:
        return Estimate(2.0, 2.1, 2.25) if lean and engine.symmetric_memory else Estimate(0.1, 0.55, 2.25)
    if parallelism.pipeline > 1:
        return Estimate(0.05, 0.2, 0.4)
    return Estimate(0.2, 0.25, 0.5) if lean else Estimate(0.08, 0.13, 0.3)


def _gib(estimate: Estimate) -> Estimate:
    return Estimate(estimate.low * GIB, estimate.best * GIB, estimate.high * GIB)
