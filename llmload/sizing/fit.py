"""Whether a model fits on given GPUs under an engine, how many requests fit then, and what to change if it does not."""

from dataclasses import dataclass, field, replace
from math import floor
from typing import Literal

from llmload.errors import ConfigError
from llmload.sizing.additions import (
    drafter_bytes,
    drafter_layer,
    layers_on_gpu,
    llama_cpp_fraction,
    lora_bytes,
    offloaded_bytes,
    repacked_bytes,
    shares_memory,
    tower_bytes,
    with_drafter,
)
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.cards import Gpu
from llmload.sizing.engine_pools import RequestPool, keeping_prefixes, longest_request, request_pool
from llmload.sizing.engines import Engine, EngineOptions, engine_for
from llmload.sizing.kv_cache import KV_ELEMENT_BYTES, KvCache, default_kv_dtype
from llmload.sizing.overhead import MXFP4_EXPERT_STEP, Estimate, Overhead, kept_tables_bytes, overhead, pads_experts
from llmload.sizing.parallelism import (
    ONE_GPU,
    Parallelism,
    check_parallelism,
    parallel_problems,
    rank_counts,
    rank_model,
)
from llmload.sizing.weights import FROM_FILE, default_format, file_bytes, format_of, most_weights_bytes, weights_bytes
from llmload.units import GIB

UNCOUNTED_GIB = 3.0  # for towers that cannot be counted: 2.5 were seen
_WEIGHTS_SEEN = (0.005, 0.25 * GIB)  # how far weights may be off: a fraction, and bytes at least

Verdict = Literal["fits", "may fit", "does not fit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRequest:
    """What a user says of a deployment; None is the model's own value, the engine's default, or chosen to fit."""

    model: ModelSpec
    gpu: Gpu
    count: int = 1  # GPUs, over all copies
    tensor: int | None = None
    pipeline: int | None = None
    expert: bool = False
    data: int = 1
    context: int = 1
    gpus_per_node: int | None = None
    context_tokens: int | None = None
    users: int | None = None
    engine: str = "vllm"
    engine_version: str | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    weight_format: str | None = None
    kv_dtype: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model on GPUs under an engine; `copies` of it serve side by side."""

    model: ModelSpec
    gpu: Gpu
    engine: Engine
    parallelism: Parallelism = ONE_GPU
    copies: int = 1
    gpus_per_node: int = 8
    weight_format: str = "bf16"
    kv_dtype: str = "bf16"
    context_tokens: int
    users: int | None = None  # requests of full context at once; None: one

    @property
    def cache_groups(self) -> int:
        """Groups of GPUs, each with its own KV cache."""
        return self.copies * self.parallelism.data


def plan_deployment(request: DeploymentRequest) -> Deployment:
    """
    Return the deployment that a request means.

    Raises ConfigError for a request that cannot be met, and where neither it nor the model states a context length.
    """
    model, gpu = request.model, request.gpu
    tensor, pipeline = request.tensor, request.pipeline
    if request.kv_dtype not in (None, *KV_ELEMENT_BYTES):
        raise ConfigError(f"KV-cache type {request.kv_dtype!r} is not known; known: {', '.join(KV_ELEMENT_BYTES)}")
    if request.engine == "llama.cpp":
        if request.kv_dtype is not None:
            raise ConfigError("llama.cpp takes --cache-type in place of --kv-dtype")
        if (tensor or 1) > 1 or request.expert or request.data > 1:
            raise ConfigError("llama.cpp splits layers among GPUs; its other split modes are not modelled")
        tensor, pipeline = 1, pipeline or min(request.count, len(model.decoder))
    if gpu.is_slice:
        if (tensor or 1) * (pipeline or 1) * request.data > 1:
            raise ConfigError(f"engines do not join MIG slices as {gpu.name}: leave --tp, --pp, --dp-attention out")
        tensor = pipeline = 1
    gpus_per_node = request.gpus_per_node or gpu.gpus_per_node
    parallelism, copies = plan_parallelism(
        model,
        request.count,
        tensor,
        pipeline,
        within=Parallelism(expert=request.expert, data=request.data, context=request.context),
        gpus_per_node=gpus_per_node,
    )
    engine = engine_for(gpu, request.engine, request.engine_version, gpus=parallelism.gpus, options=request.options)
    context_tokens = _context_of(request) or model.max_position_tokens
    if context_tokens is None:
        raise ConfigError(f"{model.name} states no longest context: give --context")
    return Deployment(
        model=model,
        gpu=gpu,
        engine=engine,
        parallelism=parallelism,
        copies=copies,
        gpus_per_node=gpus_per_node,
        weight_format=request.weight_format or default_format(model),
        kv_dtype=request.kv_dtype or default_kv_dtype(model),
        context_tokens=context_tokens,
        users=request.users,
    )


def _context_of(request: DeploymentRequest) -> int | None:
    """The context of one request: its fraction of what llama.cpp has for all slots, where that is given."""
    whole = request.options.ctx_size
    if whole is None:
        return request.context_tokens
    if request.context_tokens is not None:
        raise ConfigError("--ctx-size is the context of all slots together, --context that of one: give one of them")
    slots = request.options.max_num_seqs or request.users or 1
    if whole < slots:
        raise ConfigError(f"--ctx-size {whole} leaves {slots} slots no token each")
    return whole // slots


def plan_parallelism(
    model: ModelSpec,
    gpus: int,
    tensor: int | None = None,
    pipeline: int | None = None,
    *,
    within: Parallelism = ONE_GPU,
    gpus_per_node: int = 8,
) -> tuple[Parallelism, int]:
    """
    Return how the model is split over the GPUs, and how many copies of it they serve; all but TP and PP as in `within`.

    Where nothing is given: as much tensor parallelism as the model and a node allow, then pipeline stages. Raises
    ConfigError where the GPUs are too few or cannot be divided evenly.
    """
    if tensor is None:
        ranks = gpus // (pipeline or 1) // within.data
        fitting = [n for n in range(1, min(ranks, gpus_per_node) + 1) if ranks % n == 0]
        tensor = next(n for n in reversed(fitting) if n == 1 or not parallel_problems(model, Parallelism(tensor=n)))
        if pipeline is None and ranks // tensor <= len(model.decoder):
            pipeline = max(1, ranks // tensor)
    found = replace(within, tensor=tensor, pipeline=pipeline or 1)
    if gpus % found.gpus:
        raise ConfigError(
            f"{gpus} GPUs cannot be divided evenly into copies of TP {found.tensor} x PP {found.pipeline}"
            + (f" x DP {found.data}" if found.data > 1 else "")
        )
    return found, gpus // found.gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFit:
    """What one rank of a pipeline stage spends its memory on, in bytes."""

    weights_bytes: Estimate  # of the language model, on this GPU
    tower_bytes: Estimate
    drafter_bytes: Estimate
    lora_bytes: Estimate
    overhead: Overhead
    pool_bytes: Estimate  # what is left for the KV cache; negative where weights alone are too much
    pool: RequestPool
    pool_at_worst: RequestPool  # where the engine's default is not known

    def requests(self, context_tokens: int) -> Estimate:
        """Return how many requests of that context the cache holds at once."""
        low, best, high = self.pool_bytes.figures
        return Estimate(
            self.pool_at_worst.requests(low, context_tokens),
            self.pool.requests(best, context_tokens),
            self.pool.requests(high, context_tokens),
        )


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
        """The stage whose cache holds the fewest requests, which limits all."""
        return min(self.stages, key=lambda stage: stage.requests(self.deployment.context_tokens).best)

    @property
    def wanted(self) -> int:
        """Requests at once that have to fit: the users', llama.cpp's slots, or one."""
        plan = self.deployment
        return plan.users or (plan.engine.max_num_seqs if plan.engine.name == "llama.cpp" else 1)

    @property
    def requests_at_once(self) -> tuple[int, int, int]:
        """Whole requests of the deployment's context that fit at the same time: low, best and high."""
        low, best, high = (floor(max(0.0, requests)) for requests in self.concurrency.figures)
        return low, best, high

    @property
    def verdict(self) -> Verdict:
        """Whether the users' requests fit: even by the low estimate, by the high one at most, or not even by that."""
        if self.concurrency.low >= self.wanted:
            return "fits"
        return "may fit" if self.concurrency.high >= self.wanted else "does not fit"


def fit(deployment: Deployment) -> Fit:
    """
    Compute what is left for the KV cache on each rank, and how many requests fit into it.

    Raises ConfigError for a split that engines refuse, an unknown format, or layers whose blocks are unknown.
    """
    check_parallelism(deployment.model, deployment.parallelism)
    if deployment.parallelism.context > 1 and deployment.engine.name != "vllm":
        raise ConfigError(f"DCP of {deployment.engine.name} is not modelled: leave --dcp out")
    usable = deployment.gpu.usable_gib * GIB * deployment.engine.utilization
    stages = tuple(_stage_fit(deployment, i, usable) for i in range(deployment.parallelism.pipeline))
    context = deployment.context_tokens
    held = [stage.requests(context) for stage in stages]
    fewest = (min(each.low for each in held), min(each.best for each in held), min(each.high for each in held))
    concurrency = Estimate(*(deployment.cache_groups * requests for requests in fewest))
    found = Fit(
        deployment=deployment,
        usable_bytes=usable,
        stages=stages,
        concurrency=concurrency,
        pool_tokens=Estimate(*(floor(requests * context) for requests in concurrency.figures)),
        max_context_tokens=0,
    )
    tight = found.tightest
    limit = deployment.model.max_position_tokens or max(context, int(10 * found.pool_tokens.best))
    return replace(found, max_context_tokens=longest_request(tight.pool, tight.pool_bytes.best, limit))


def _stage_fit(deployment: Deployment, stage: int, usable: float) -> StageFit:
    model, engine, cut = deployment.model, deployment.engine, deployment.parallelism
    weights = _loaded_weights(deployment, stage)
    layer = drafter_layer(model, engine) if stage == cut.pipeline - 1 else None
    drafter = drafter_bytes(model, engine, cut, deployment.weight_format) if layer else Estimate(0.0, 0.0, 0.0)
    tower = tower_bytes(model, engine, cut, stage, deployment.weight_format)
    lora = lora_bytes(model, engine, cut)
    extra = overhead(model, engine, cut, stage=stage, weight_format=deployment.weight_format)
    loaded = (weights + tower + drafter + lora).less(offloaded_bytes(engine, weights))
    part = with_drafter(rank_model(layers_on_gpu(model, engine), cut, stage), layer, cut)
    cache = KvCache(model=part, element_bytes=KV_ELEMENT_BYTES[deployment.kv_dtype])
    return StageFit(
        weights_bytes=weights.less(offloaded_bytes(engine, weights)),
        tower_bytes=tower,
        drafter_bytes=drafter,
        lora_bytes=lora,
        overhead=extra,
        pool_bytes=(loaded + extra.total_bytes).left_of(usable),
        pool=request_pool(cache, engine, cut),
        pool_at_worst=request_pool(cache, keeping_prefixes(engine), cut),
    )


def _loaded_weights(deployment: Deployment, stage: int) -> Estimate:
    model, engine, cut = deployment.model, deployment.engine, deployment.parallelism
    if engine.name != "llama.cpp":
        stored = rank_weights(model, deployment.weight_format, cut, stage)
        if not pads_experts(model, deployment.weight_format):
            return stored
        return stored + repacked_bytes(model, deployment.gpu, engine, cut, stage)
    fraction = llama_cpp_fraction(model, engine, cut, stage, one_memory=shares_memory(deployment.gpu))
    whole = rank_weights(model, deployment.weight_format)
    return Estimate(*(figure * fraction for figure in whole.figures))


def rank_weights(model: ModelSpec, weight_format: str, parallelism: Parallelism = ONE_GPU, stage: int = 0) -> Estimate:
    """
    Return the bytes that vLLM reports for the weights of one rank of a stage; the format "file" is that of the files.

    Raises ConfigError for a format that is neither "file" nor in WEIGHT_FORMATS, and for "file" where no file was read.
    Bounds: the weights of 34 runs of vLLM 0.19 lay within them.
    """
    tables = kept_tables_bytes(model, parallelism)
    if weight_format == FROM_FILE and model.checkpoint is not None:
        counts = rank_counts(model, parallelism, stage)
        towers = model.checkpoint.beside_language_bytes / parallelism.gpus
        return Estimate.around(file_bytes(model, counts) + towers + tables, *_WEIGHTS_SEEN)
    step = MXFP4_EXPERT_STEP if pads_experts(model, weight_format) else 1
    counts = rank_counts(model, parallelism, stage, step)
    part = rank_model(model, parallelism, stage, step)
    best = weights_bytes(counts, format_of(part, weight_format))
    around = Estimate.around(best + tables, *_WEIGHTS_SEEN)
    beside = most_weights_bytes(part, counts, weight_format) - best + UNCOUNTED_GIB * GIB * bool(model.uncounted)
    return replace(around, high=around.high + beside)


def pool_warning(found: Fit, users: int, tokens: int) -> str | None:
    """Return a warning for a load of users x tokens each; None where it fits the KV cache even by the low estimate."""
    wider = fit(replace(found.deployment, context_tokens=tokens, users=users))
    if wider.verdict == "fits":
        return None
    least, best, _ = wider.requests_at_once
    fitting = f"{best:,}" if least == best else f"{least:,} to {best:,}"
    return (
        f"{users:,} users x {tokens:,} tokens are {users * tokens:,} tokens of KV cache; {found.deployment.gpu.name} "
        f"holds {fitting} of these requests at once: others wait, or are computed again"
    )
