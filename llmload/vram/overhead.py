"""What an engine takes beside weights and KV cache: the peak of its warm-up, libraries, CUDA graphs."""

from dataclasses import dataclass

from llmload.vram.engine import Engine
from llmload.vram.estimate import Estimate
from llmload.vram.model import Dense, Experts, LatentAttention, ModelSpec
from llmload.vram.sharding import ONE_GPU, Parallelism, rank_model

_GIB = 2**30
_LEAN_SAMPLER_SINCE = (0, 17)
_FAT_LOGIT_BYTES = 37.51  # what the sampler's warm-up took for each entry of its logits before
_LOGIT_BYTES_BESIDE_OWN = 12  # and since, beside the logit itself
MXFP4_EXPERT_STEP = 256  # vLLM pads the width of MXFP4 experts to a multiple of it: 2880 becomes 3072


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """Bytes on one GPU that serve neither weights nor KV cache."""

    activation_bytes: Estimate
    non_torch_bytes: Estimate  # CUDA context, NCCL buffers and what libraries keep
    graph_bytes: Estimate

    @property
    def total_bytes(self) -> Estimate:
        """All of it."""
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
    What vLLM takes on one rank of a pipeline stage, in bytes.

    Formulas: fitted to the parts that vLLM 0.19 logged in 45 runs on H100, and checked against 8 runs of vLLM 0.11
    (llm-d planner, results_raw.csv and empirical-vllm-memory-results.md); bounds are the widest errors seen there.
    """
    last = stage == parallelism.pipeline - 1
    peak = activation_peak_bytes(model, engine, parallelism, last_stage=last, weight_format=weight_format)
    graphs = Estimate(0.4, 0.85, 1.95) if engine.counts_graphs else Estimate(0.0, 0.0, 0.0)
    return Overhead(
        activation_bytes=Estimate.around(peak, 0.1, 0.15 * _GIB),
        non_torch_bytes=_gib(_libraries_gib(engine, parallelism)),
        graph_bytes=_gib(graphs),
    )


def activation_peak_bytes(
    model: ModelSpec,
    engine: Engine,
    parallelism: Parallelism = ONE_GPU,
    *,
    last_stage: bool = True,
    weight_format: str = "bf16",
) -> float:
    """
    The peak of vLLM's warm-up on one rank: the sampler's logits or the widest layer, whichever is larger.

    Experts run in a workspace that is kept, so theirs is added to the sampler's; MXFP4 kernels have none.
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
    return max(sampler, layer_peak) + width * tokens * hidden + 0.11 * _GIB


def kept_tables_bytes(model: ModelSpec, parallelism: Parallelism = ONE_GPU) -> int:
    """
    Bytes that vLLM counts among the weights of a rank without their being parameters.

    The table of rotary angles, for every position, and for latent attention the two projections it absorbs.
    """
    rotary = 2 * (model.max_position_tokens or 0) * model.rotary_dim
    absorbed = sum(
        2 * mixer.kv_lora_rank * (mixer.heads // parallelism.tensor) * (mixer.qk_nope_head_dim + mixer.v_head_dim)
        for mixer in (layer.mixer for layer in model.decoder)
        if isinstance(mixer, LatentAttention)
    )
    return rotary + absorbed // parallelism.pipeline


def _libraries_gib(engine: Engine, parallelism: Parallelism) -> Estimate:
    """What CUDA, NCCL and other libraries keep, by whether ranks talk within a layer, between layers or not at all."""
    lean = engine.version >= _LEAN_SAMPLER_SINCE
    if parallelism.tensor > 1:
        return Estimate(2.0, 2.1, 2.25) if lean else Estimate(0.5, 0.55, 0.7)
    if parallelism.pipeline > 1:
        return Estimate(0.05, 0.2, 0.4)
    return Estimate(0.2, 0.25, 0.5) if lean else Estimate(0.08, 0.13, 0.3)


def _gib(estimate: Estimate) -> Estimate:
    return Estimate(estimate.low * _GIB, estimate.best * _GIB, estimate.high * _GIB)
