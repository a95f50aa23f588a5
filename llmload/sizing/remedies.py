"""What to change of a deployment that does not fit: each change that alone makes it fit."""

from collections.abc import Iterator
from dataclasses import replace

from llmload.sizing.engine_pools import VllmPool
from llmload.sizing.engines import on_more_gpus, with_steps
from llmload.sizing.fit import Deployment, Fit, fit
from llmload.sizing.gguf_mix import MIXES
from llmload.sizing.parallelism import (
    Parallelism,
    parallel_problems,
)

_NARROWER = ("fp8", "w4a16")
_NARROW = {"w4a16", "nf4", "nvfp4", "mxfp4", "q4_K", "q3_K", "q2_K", *MIXES}
_NARROW_KV, _BOTH = "an fp8 KV cache", "w4a16 weights and an fp8 KV cache"
_CONTEXT_STEP = 1024
_MOST_GPUS = 64
_SMALL_STEP = 2048  # tokens: vLLM's own on small cards; windows reserve blocks for two steps


def remedies(found: Fit) -> list[str]:
    """Return the changes each of which would make the deployment fit, the cheapest first; empty where it fits."""
    if found.verdict == "fits":
        return []
    helpful = [text for text, changed in _changes(found) if _fits(changed)]
    return [text for text in helpful if text != _BOTH or not {_NARROW_KV, "w4a16 weights"} & set(helpful)]


def _changes(found: Fit) -> Iterator[tuple[str, Deployment]]:
    plan = found.deployment
    if (shorter := _shorter_context(found)) is not None:
        yield f"a context of {shorter:,} tokens", replace(plan, context_tokens=shorter)
    if plan.users and (fewer := int(found.concurrency.low)) > 0:
        yield f"{fewer:,} users at once", replace(plan, users=fewer)
    if plan.kv_dtype != "fp8" and plan.engine.name != "llama.cpp":
        yield _NARROW_KV, replace(plan, kv_dtype="fp8")
    if plan.engine.utilization < 0.95 and plan.engine.name == "vllm":
        yield "a utilisation of 0.95", replace(plan, engine=replace(plan.engine, utilization=0.95))
    if isinstance(found.tightest.pool, VllmPool) and plan.engine.max_num_batched_tokens > _SMALL_STEP:
        yield f"steps of {_SMALL_STEP:,} tokens", replace(plan, engine=with_steps(plan.engine, _SMALL_STEP))
    narrower = ("q8_0", "q4_K") if plan.engine.name == "llama.cpp" else _NARROWER
    for form in narrower if plan.weight_format not in _NARROW else ():
        if form != plan.weight_format:
            yield f"{form} weights", replace(plan, weight_format=form)
    if plan.kv_dtype != "fp8" and plan.weight_format not in _NARROW and plan.engine.name != "llama.cpp":
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
                split = f"TP {cut.tensor}" if cut.tensor > 1 else f"PP {cut.pipeline}"
                yield f"{cut.gpus * bigger.copies} x {plan.gpu.name}: {split}{each}", bigger
                return
        factor *= 2


def _grown(plan: Deployment, tensor_factor: int, copies_factor: int) -> Deployment | None:
    """The deployment on more GPUs, its utilization following the default; None where it cannot be split."""
    cut = replace(plan.parallelism, tensor=plan.parallelism.tensor * tensor_factor)
    if plan.engine.name == "llama.cpp":
        cut = Parallelism(pipeline=plan.parallelism.pipeline * tensor_factor)
    beyond_node = tensor_factor > 1 and cut.tensor > plan.gpus_per_node
    if beyond_node or parallel_problems(plan.model, cut):
        return None
    engine = on_more_gpus(plan.engine, plan.gpu, cut.gpus)
    return replace(plan, parallelism=cut, copies=plan.copies * copies_factor, engine=engine)


def _shorter_context(found: Fit) -> int | None:
    """The longest context, a multiple of 1,024 tokens, at which the users' requests fit; None without one."""
    plan = found.deployment
    low, high = 0, plan.context_tokens // _CONTEXT_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _fits(replace(plan, context_tokens=middle * _CONTEXT_STEP)) else (low, middle - 1)
    return low * _CONTEXT_STEP or None


def _fits(deployment: Deployment) -> bool:
    return fit(deployment).verdict == "fits"
