"""Whether a model fits on given cards under an engine, how much it then serves, and how sure that is."""

from dataclasses import dataclass, replace
from math import floor
from typing import Literal

from llmload.errors import ConfigError
from llmload.vram.block_pool import BlockPool, block_pool
from llmload.vram.engine import Engine
from llmload.vram.estimate import Estimate
from llmload.vram.gpus import Gpu
from llmload.vram.kv_cache import KV_ELEMENT_BYTES, KvCache
from llmload.vram.model import ModelSpec
from llmload.vram.overhead import MXFP4_EXPERT_STEP, Overhead, kept_tables_bytes, overhead
from llmload.vram.sharding import ONE_GPU, Parallelism, check_parallelism, rank_counts, rank_model
from llmload.vram.weights import FROM_FILE, WEIGHT_FORMATS, weights_bytes

_GIB = 2**30
_UNCOUNTED_GIB = 2.0  # the most that a vision tower was seen to add; the least is nothing

Verdict = Literal["fits", "may fit", "does not fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model on cards under an engine; `copies` of it serve side by side."""

    model: ModelSpec
    gpu: Gpu
    engine: Engine
    parallelism: Parallelism = ONE_GPU
    copies: int = 1
    weight_format: str = "bf16"
    kv_dtype: str = "bf16"
    context_tokens: int
    users: int | None = None  # requests of full context at once; None: one must do


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFit:
    """What one rank of a pipeline stage spends its memory on, in bytes."""

    weights_bytes: Estimate
    overhead: Overhead
    pool_bytes: Estimate  # what is left for the KV cache; negative where weights alone are too much
    blocks: BlockPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The verdict on a deployment; concurrency counts requests of the deployment's context, over all copies."""

    deployment: Deployment
    usable_bytes: float
    stages: tuple[StageFit, ...]
    concurrency: Estimate
    pool_tokens: Estimate  # over all copies, in requests of that context
    max_context_tokens: int  # the longest single request, by the best estimate and the model's own limit

    @property
    def tightest(self) -> StageFit:
        """The stage that holds the fewest blocks, and so decides for all."""
        return min(self.stages, key=lambda stage: stage.pool_bytes.best / stage.blocks.block_bytes)

    @property
    def verdict(self) -> Verdict:
        """Whether the users' requests fit: surely, by the best estimate alone, or not."""
        wanted = self.deployment.users or 1
        if self.concurrency.low >= wanted:
            return "fits"
        return "may fit" if self.concurrency.best >= wanted else "does not fit"


def fit(deployment: Deployment) -> Fit:
    """
    Work out what is left for the KV cache on each rank, and how many requests that holds.

    Raises ConfigError for a cut that engines refuse, a format that is not known, or layers whose blocks are not known.
    """
    check_parallelism(deployment.model, deployment.parallelism)
    usable = deployment.gpu.usable_gib * _GIB * deployment.engine.utilization
    stages = tuple(_stage_fit(deployment, i, usable) for i in range(deployment.parallelism.pipeline))
    blocks = _fewest_blocks(stages)
    pool = stages[0].blocks
    engine, context = deployment.engine, deployment.context_tokens
    one_request = pool.blocks_per_request(context, engine.max_num_batched_tokens)
    concurrency = Estimate(*(deployment.copies * count / one_request for count in blocks))
    return Fit(
        deployment=deployment,
        usable_bytes=usable,
        stages=stages,
        concurrency=concurrency,
        pool_tokens=Estimate(*(floor(requests * context) for requests in concurrency.figures)),
        max_context_tokens=_longest(pool, blocks[1], deployment),
    )


def pool_warning(found: Fit, users: int, tokens: int) -> str | None:
    """What to tell before a load of users x tokens each on this deployment; None where its KV cache surely holds it."""
    wider = fit(replace(found.deployment, context_tokens=tokens, users=users))
    if wider.verdict == "fits":
        return None
    least, best = floor(max(0.0, wider.concurrency.low)), floor(max(0.0, wider.concurrency.best))
    held = f"{best:,}" if least == best else f"{least:,} to {best:,}"
    return (
        f"{users:,} users x {tokens:,} tokens are {users * tokens:,} tokens of KV cache; {found.deployment.gpu.name} "
        f"holds {held} such requests at once: others wait, or are computed anew"
    )


def _stage_fit(deployment: Deployment, stage: int, usable: float) -> StageFit:
    part = rank_model(deployment.model, deployment.parallelism, stage)
    weights = rank_weights(deployment.model, deployment.weight_format, deployment.parallelism, stage)
    extra = overhead(
        deployment.model,
        deployment.engine,
        deployment.parallelism,
        stage=stage,
        weight_format=deployment.weight_format,
    )
    if deployment.engine.name == "sglang":  # its share is for weights and cache alone
        pool = weights.left_of(usable)
        pool = Estimate(pool.low - extra.non_torch_bytes.high, pool.best, pool.high)
    else:
        pool = (weights + extra.total_bytes).left_of(usable)
    cache = KvCache(model=part, element_bytes=KV_ELEMENT_BYTES[deployment.kv_dtype])
    return StageFit(
        weights_bytes=weights,
        overhead=extra,
        pool_bytes=pool,
        blocks=block_pool(cache, deployment.engine.block_tokens),
    )


def rank_weights(model: ModelSpec, weight_format: str, parallelism: Parallelism = ONE_GPU, stage: int = 0) -> Estimate:
    """
    Bytes that vLLM reports for the weights of one rank of a stage; the format "file" takes them as the files hold them.

    Raises ConfigError for a format that is neither that nor in WEIGHT_FORMATS, and for "file" where no file was read.
    Bounds: the weights of 34 runs of vLLM 0.19 lay within them.
    """
    tables = kept_tables_bytes(model, parallelism)
    if weight_format == FROM_FILE and model.checkpoint is not None:
        share = _rank_share(model, parallelism, stage)
        return Estimate.around(model.checkpoint.tensor_bytes * share + tables, 0.005, 0.2 * _GIB)
    if weight_format not in WEIGHT_FORMATS:
        known = ", ".join(WEIGHT_FORMATS)
        raise ConfigError(f"precision {weight_format!r} is not known for {model.name}; known: {known}, and file")
    step = MXFP4_EXPERT_STEP if weight_format == "mxfp4" else 1
    counts = rank_counts(model, parallelism, stage, step)
    around = Estimate.around(weights_bytes(counts, WEIGHT_FORMATS[weight_format]) + tables, 0.005, 0.2 * _GIB)
    return replace(around, high=around.high + _UNCOUNTED_GIB * _GIB) if model.uncounted else around


def default_format(model: ModelSpec) -> str:
    """The format a model's weights come in: as its files hold them, else as its config declares; raises ConfigError."""
    if model.checkpoint is not None:
        return FROM_FILE
    if model.weight_format is None:
        raise ConfigError(f"{model.source}: quantisation {model.quantisation!r} is not known: give --precision")
    return model.weight_format


def _rank_share(model: ModelSpec, parallelism: Parallelism, stage: int) -> float:
    """A rank's share of the weights, each parameter counted alike: what is cut and what is copied differ little."""
    return rank_counts(model, parallelism, stage).total / rank_counts(model, ONE_GPU).total


def _fewest_blocks(stages: tuple[StageFit, ...]) -> tuple[int, int, int]:
    """Blocks of the stage that has the fewest, for low, best and high; vLLM gives every stage that many."""
    low = min(stage.blocks.blocks(max(0, int(stage.pool_bytes.low))) for stage in stages)
    best = min(stage.blocks.blocks(max(0, int(stage.pool_bytes.best))) for stage in stages)
    high = min(stage.blocks.blocks(max(0, int(stage.pool_bytes.high))) for stage in stages)
    return low, best, high


def _longest(pool: BlockPool, blocks: int, deployment: Deployment) -> int:
    """The longest request in tokens that so many blocks hold, by halving; 0 where not even a block is left."""
    limit = deployment.model.max_position_tokens
    batched = deployment.engine.max_num_batched_tokens
    shortest, longest = 0, limit or (blocks + 1) * pool.block_tokens
    while shortest < longest:
        middle = (shortest + longest + 1) // 2
        if pool.blocks_per_request(middle, batched) <= blocks:
            shortest = middle
        else:
            longest = middle - 1
    return shortest
