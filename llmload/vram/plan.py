"""From the cards at hand to a deployment: how to cut the model, how to start the engine, what to change if it fails."""

import shlex
from collections.abc import Iterator
from dataclasses import replace

from llmload.errors import ConfigError
from llmload.vram.catalogue import hub_id
from llmload.vram.engine import default_utilization, engine_for
from llmload.vram.fit import Deployment, Fit, default_format, fit
from llmload.vram.gpus import Gpu
from llmload.vram.model import ModelSpec
from llmload.vram.sharding import Parallelism, parallel_problems

_NARROWER = ("fp8", "w4a16")
_NARROW = {"w4a16", "nf4", "nvfp4", "mxfp4", "q4_K", "q3_K", "q2_K"}
_NARROW_KV, _BOTH = "an fp8 KV cache", "w4a16 weights and an fp8 KV cache"
_CONTEXT_STEP = 1024
_MOST_GPUS = 64


def plan_parallelism(
    model: ModelSpec, gpus: int, tensor: int | None = None, pipeline: int | None = None, *, expert: bool = False
) -> tuple[Parallelism, int]:
    """
    How to cut the model over so many GPUs, and how many copies that makes: what is not given is chosen.

    As much tensor parallelism as the model allows, then pipeline stages. Raises ConfigError when the GPUs do not
    suffice for, or cannot be dealt evenly to, what was asked.
    """
    if tensor is None:
        share = gpus // (pipeline or 1)
        fitting = [n for n in range(1, share + 1) if share % n == 0]
        tensor = next(n for n in reversed(fitting) if n == 1 or not parallel_problems(model, Parallelism(tensor=n)))
        if pipeline is None and gpus // tensor <= len(model.decoder):
            pipeline = gpus // tensor
    found = Parallelism(tensor=tensor, pipeline=pipeline or 1, expert=expert)
    if gpus % found.gpus:
        raise ConfigError(f"{gpus} GPUs cannot be dealt to copies of TP {found.tensor} x PP {found.pipeline} evenly")
    return found, gpus // found.gpus


def plan_deployment(
    model: ModelSpec,
    gpu: Gpu,
    *,
    count: int = 1,
    tensor: int | None = None,
    pipeline: int | None = None,
    expert: bool = False,
    context_tokens: int | None = None,
    users: int | None = None,
    engine: str = "vllm",
    engine_version: str | None = None,
    utilization: float | None = None,
    weight_format: str | None = None,
    kv_dtype: str = "bf16",
) -> Deployment:
    """
    The deployment that a few wishes mean; what is None is as the model comes, as the engine's defaults or as it fits.

    Raises ConfigError for wishes that cannot be met, and where the model states no longest context and none is given.
    """
    parallelism, copies = plan_parallelism(model, count, tensor, pipeline, expert=expert)
    longest = context_tokens or model.max_position_tokens
    if longest is None:
        raise ConfigError(f"{model.name} states no longest context: give --context")
    return Deployment(
        model=model,
        gpu=gpu,
        engine=engine_for(gpu, engine, engine_version, utilization=utilization, gpus=parallelism.gpus),
        parallelism=parallelism,
        copies=copies,
        weight_format=weight_format or default_format(model),
        kv_dtype=kv_dtype,
        context_tokens=longest,
        users=users,
    )


def remedies(found: Fit) -> list[str]:
    """Changes of which each alone would make a deployment fit that does not surely fit, the cheapest first."""
    if found.verdict == "fits":
        return []
    helpful = [text for text, changed in _changes(found) if _fits(changed)]
    return [text for text in helpful if text != _BOTH or not {_NARROW_KV, "w4a16 weights"} & set(helpful)]


def engine_flags(found: Fit) -> list[str]:
    """The command that starts the engine as it was computed with, the model under its Hub id where it has one."""
    plan = found.deployment
    model = hub_id(plan.model.name)
    engine, cut = plan.engine, plan.parallelism
    if engine.name == "sglang":
        line = ["python", "-m", "sglang.launch_server", "--model-path", model]
        line += ["--context-length", str(plan.context_tokens), "--mem-fraction-static", f"{engine.utilization:g}"]
        names = ("--tp-size", "--pp-size", "--dp-size")
        fp8 = "fp8_e5m2"
    else:
        line = ["vllm", "serve", model, "--max-model-len", str(plan.context_tokens)]
        line += ["--gpu-memory-utilization", f"{engine.utilization:g}"]
        line += ["--max-num-seqs", str(engine.max_num_seqs)]
        line += ["--max-num-batched-tokens", str(engine.max_num_batched_tokens)]
        names = ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size")
        fp8 = "fp8"
    for name, value in zip(names, (cut.tensor, cut.pipeline, plan.copies), strict=True):
        line += [name, str(value)] if value > 1 else []
    if cut.expert:
        line += ["--enable-expert-parallel"] if engine.name == "vllm" else ["--ep-size", str(cut.tensor)]
    return line + (["--kv-cache-dtype", fp8] if plan.kv_dtype == "fp8" else [])


def command_line(words: list[str]) -> str:
    """Words as they are typed in a shell."""
    return shlex.join(words)


def _changes(found: Fit) -> Iterator[tuple[str, Deployment]]:
    plan = found.deployment
    if (shorter := _shorter_context(found)) is not None:
        yield f"a context of {shorter:,} tokens", replace(plan, context_tokens=shorter)
    if plan.users and (fewer := int(found.concurrency.low)) > 0:
        yield f"{fewer:,} users at once", replace(plan, users=fewer)
    if plan.kv_dtype != "fp8":
        yield _NARROW_KV, replace(plan, kv_dtype="fp8")
    if plan.engine.utilization < 0.95 and plan.engine.name == "vllm":
        yield "a utilisation of 0.95", replace(plan, engine=replace(plan.engine, utilization=0.95))
    for form in _NARROWER if plan.weight_format not in _NARROW else ():
        if form != plan.weight_format:
            yield f"{form} weights", replace(plan, weight_format=form)
    if plan.kv_dtype != "fp8" and plan.weight_format not in _NARROW:
        yield _BOTH, replace(plan, kv_dtype="fp8", weight_format="w4a16")
    yield from _more_gpus(plan)


def _more_gpus(plan: Deployment) -> Iterator[tuple[str, Deployment]]:
    """The fewest further cards of the same kind that suffice, as more tensor parallelism or as more copies."""
    factor = 2
    while factor * plan.parallelism.gpus * plan.copies <= _MOST_GPUS:
        for copies in (1, 2, 4, 8, 16, 32, 64):
            if factor % copies:
                break
            bigger = _grown(plan, factor // copies, copies)
            if bigger is not None and _fits(bigger):
                cut = bigger.parallelism
                each = f", {bigger.copies} copies" if bigger.copies > 1 else ""
                yield f"{cut.gpus * bigger.copies} x {plan.gpu.name}: TP {cut.tensor}{each}", bigger
                return
        factor *= 2


def _grown(plan: Deployment, tensor_factor: int, copies_factor: int) -> Deployment | None:
    """The deployment on more cards, its share of memory following the default; None where it cannot be cut."""
    cut = replace(plan.parallelism, tensor=plan.parallelism.tensor * tensor_factor)
    if parallel_problems(plan.model, cut):
        return None
    engine = plan.engine
    if engine.utilization == default_utilization(engine.name, engine.version, plan.parallelism.gpus):
        engine = replace(engine, utilization=default_utilization(engine.name, engine.version, cut.gpus))
    return replace(plan, parallelism=cut, copies=plan.copies * copies_factor, engine=engine)


def _shorter_context(found: Fit) -> int | None:
    """The longest context in steps of 1,024 at which the users' requests surely fit; None where none does."""
    plan = found.deployment
    low, high = 0, plan.context_tokens // _CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(replace(plan, context_tokens=middle * _CONTEXT_STEP)) else (low, middle - 1)
    return low * _CONTEXT_STEP or None


def _fits(deployment: Deployment) -> bool:
    return fit(deployment).verdict == "fits"
