"""A fit laid out for people and for programs."""

from llmload.vram.estimate import Estimate
from llmload.vram.fit import Fit
from llmload.vram.kv_cache import KvCache
from llmload.vram.plan import command_line, engine_flags, remedies

_GIB = 2**30


def fit_json(found: Fit) -> dict[str, object]:
    """The fit with every unit in its key; parts are those of one GPU of the tightest stage."""
    plan, tight = found.deployment, found.tightest
    return {
        "verdict": found.verdict,
        "model": plan.model.name,
        "gpu": plan.gpu.name,
        "gpu_memory_gib": round(plan.gpu.usable_gib, 2),
        "gpu_memory_is_measured": plan.gpu.total_gib is not None,
        "gpus": plan.parallelism.gpus * plan.copies,
        "tensor_parallel": plan.parallelism.tensor,
        "pipeline_parallel": plan.parallelism.pipeline,
        "expert_parallel": plan.parallelism.expert,
        "copies": plan.copies,
        "engine": plan.engine.name,
        "engine_version": ".".join(map(str, plan.engine.version)),
        "utilization": plan.engine.utilization,
        "max_num_seqs": plan.engine.max_num_seqs,
        "max_num_batched_tokens": plan.engine.max_num_batched_tokens,
        "precision": plan.weight_format,
        "kv_dtype": plan.kv_dtype,
        "context_tokens": plan.context_tokens,
        "users": plan.users,
        "usable_gib": round(found.usable_bytes / _GIB, 3),
        "weights_gib": _gib(tight.weights_bytes).rounded(3),
        "activation_gib": _gib(tight.overhead.activation_bytes).rounded(3),
        "non_torch_gib": _gib(tight.overhead.non_torch_bytes).rounded(3),
        "cuda_graphs_gib": _gib(tight.overhead.graph_bytes).rounded(3),
        "kv_pool_gib": _gib(tight.pool_bytes).rounded(3),
        "pool_tokens": found.pool_tokens.rounded(0),
        "max_concurrency": found.concurrency.rounded(2),
        "max_context_tokens": found.max_context_tokens,
        "would_make_it_fit": remedies(found),
        "command": engine_flags(found),
        "notes": fit_notes(found),
    }


def fit_text(found: Fit) -> str:
    """The fit for people, no wider than 80 columns but for the command line."""
    plan, tight = found.deployment, found.tightest
    cut = f"TP {plan.parallelism.tensor}" + (
        f", PP {plan.parallelism.pipeline}" if plan.parallelism.pipeline > 1 else ""
    )
    copies = f", {plan.copies} copies" if plan.copies > 1 else ""
    gpus = plan.parallelism.gpus * plan.copies
    share = f"{plan.gpu.usable_gib:.2f} x {plan.engine.utilization:g}"
    asked = f"{plan.users:,} requests" if plan.users else "one request"
    lines = [
        f"{plan.model.name} on {gpus} x {plan.gpu.name}: {found.verdict.upper()}",
        f"  for {asked} of {plan.context_tokens:,} tokens; {cut}{copies},",
        f"  weights {plan.weight_format}, KV cache {plan.kv_dtype}",
        "",
        f"{'GiB on each GPU':<28}{'low':>11}{'best':>11}{'high':>11}",
        f"  {'usable':<26}{'':>11}{found.usable_bytes / _GIB:>11.2f}   {share}",
        _row("weights", _gib(tight.weights_bytes), 2),
    ]
    if plan.engine.name == "vllm":
        lines.append(_row("activations", _gib(tight.overhead.activation_bytes), 2))
        lines.append(_row("CUDA, NCCL, libraries", _gib(tight.overhead.non_torch_bytes), 2))
    if plan.engine.counts_graphs:
        lines.append(_row("CUDA graphs", _gib(tight.overhead.graph_bytes), 2))
    lines += [
        _row("left for the KV cache", _gib(tight.pool_bytes), 2),
        "",
        _row("KV cache, tokens", found.pool_tokens, 0),
        _row("requests at once", found.concurrency, 2),
        f"  {'longest single request':<26}{'':>11}{found.max_context_tokens:>11,}",
    ]
    if changes := remedies(found):
        lines += ["", "Any one of these would make it fit:", *(f"  - {change}" for change in changes)]
    elif found.verdict == "does not fit":
        lines += ["", "No single change that is known here would make it fit."]
    if notes := fit_notes(found):
        lines += ["", *(f"Note: {note}" for note in notes)]
    if found.verdict != "does not fit":
        lines += ["", command_line(engine_flags(found))]
    return "\n".join(lines)


def fit_notes(found: Fit) -> list[str]:
    """What the figures leave out or lean on, a sentence each."""
    plan = found.deployment
    notes = []
    if plan.engine.name == "sglang":
        notes.append("SGLang's share is for weights and cache alone; its figures are not measured here.")
    elif plan.engine.version < (0, 11):
        notes.append("vLLM before 0.11 was not measured; its warm-up took other amounts.")
    elif "H100" not in plan.gpu.name:
        notes.append("the overhead was measured on H100 only.")
    if plan.gpu.total_gib is None:
        notes.append(f"what {plan.gpu.name} reports as its memory is not known here: 97 % of its name is taken.")
    if plan.model.uncounted:
        notes.append(f"not counted: {', '.join(plan.model.uncounted)}; up to 2 GiB are held against the low estimate.")
    if plan.parallelism.tensor > 1 and plan.gpu.nvlink_gb_per_s == 0:
        notes.append(f"{plan.gpu.name} has no NVLink: tensor parallelism will be bound by PCIe.")
    limit = plan.model.max_position_tokens
    if limit is not None and plan.context_tokens > limit:
        notes.append(f"the model was made for {limit:,} tokens of context.")
    if plan.users and plan.users > plan.engine.max_num_seqs * plan.copies:
        notes.append(f"the engine admits {plan.engine.max_num_seqs} requests a copy at once: raise --max-num-seqs.")
    if KvCache(model=plan.model).state_bytes:
        notes.append("recurrent states share blocks in other ways from version to version.")
    return notes


def _row(name: str, estimate: Estimate, digits: int) -> str:
    cells = "".join(f"{value:>11,.{digits}f}" for value in (estimate.low, estimate.best, estimate.high))
    return f"  {name:<26}{cells}"


def _gib(estimate: Estimate) -> Estimate:
    return Estimate(estimate.low / _GIB, estimate.best / _GIB, estimate.high / _GIB)
