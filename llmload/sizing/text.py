"""What `llmload vram` prints: model sheets, fits, bounds, log comparisons and GPUs, for people and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

from llmload.sizing.architecture import ModelSpec
from llmload.sizing.cards import Gpu, LocalGpu
from llmload.sizing.engine_command import command_line, engine_flags
from llmload.sizing.engine_log import Comparison, EngineFacts
from llmload.sizing.engine_pools import VllmPool
from llmload.sizing.engines import FLAGS
from llmload.sizing.fit import UNCOUNTED_GIB, Deployment, Fit
from llmload.sizing.kv_cache import KV_ELEMENT_BYTES, KvCache, default_kv_dtype
from llmload.sizing.overhead import Estimate
from llmload.sizing.parameters import ParameterCounts, count_parameters
from llmload.sizing.picture import memory_picture
from llmload.sizing.remedies import remedies
from llmload.sizing.speed import SpeedBounds, SpeedCell, SpeedRow
from llmload.sizing.weights import WEIGHT_FORMATS, format_of, weights_bytes
from llmload.units import GIB, KIB, markdown_table

_MUCH_IN_FLIGHT = 0.5
_CONTEXTS_TOKENS = (2048, 8192, 32768, 131072)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSheet:
    """What a model needs before any engine is chosen: sizes in bytes, contexts in tokens."""

    model: ModelSpec
    counts: ParameterCounts
    kv_dtype: str
    weights_bytes: dict[str, int]
    kv_bytes_per_token: float
    kv_bytes_per_token_beyond_windows: float
    kv_bytes_per_input_token: float
    state_bytes: int
    sequence_bytes: dict[int, int]  # by context, without the encoder's input


def model_sheet(model: ModelSpec, kv_dtype: str | None = None) -> ModelSheet:
    """Return the data sheet of a model whose cache is stored as kv_dtype, one of KV_ELEMENT_BYTES; None: its own."""
    kv_dtype = kv_dtype or default_kv_dtype(model)
    counts = count_parameters(model)
    cache = KvCache(model=model, element_bytes=KV_ELEMENT_BYTES[kv_dtype])
    longest = model.max_position_tokens
    contexts = sorted(
        {c for c in _CONTEXTS_TOKENS if longest is None or c < longest} | ({longest} if longest else set())
    )
    return ModelSheet(
        model=model,
        counts=counts,
        kv_dtype=kv_dtype,
        weights_bytes={name: weights_bytes(counts, format_of(model, name)) for name in WEIGHT_FORMATS},
        kv_bytes_per_token=cache.bytes_per_token,
        kv_bytes_per_token_beyond_windows=cache.bytes_per_token_beyond_windows,
        kv_bytes_per_input_token=cache.bytes_per_input_token,
        state_bytes=cache.state_bytes,
        sequence_bytes={context: cache.sequence_bytes(context) for context in contexts},
    )


def sheet_json(sheet: ModelSheet) -> dict[str, object]:
    """Return the sheet for programs, units in the keys."""
    counts = sheet.counts
    model = sheet.model
    return {
        "model": model.name,
        "model_type": model.model_type,
        "source": model.source,
        "layers": len(model.encoder) + len(model.decoder),
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "max_position_tokens": model.max_position_tokens,
        "quantisation_declared": model.quantisation,
        "image_tower_params": model.image_tower,
        "uncounted": list(model.uncounted),
        "checkpoint": asdict(model.checkpoint) if model.checkpoint else None,
        "params": {
            **{key: value for key, value in asdict(counts).items() if key != "idle_experts"},
            "backbone": counts.backbone,
            "total": counts.total,
            "active": counts.active,
            "read_per_token": counts.read_per_token,
        },
        "weights_bytes": sheet.weights_bytes,
        "kv_dtype": sheet.kv_dtype,
        "kv_bytes_per_token": sheet.kv_bytes_per_token,
        "kv_bytes_per_token_beyond_windows": sheet.kv_bytes_per_token_beyond_windows,
        "kv_bytes_per_input_token": sheet.kv_bytes_per_input_token,
        "state_bytes": sheet.state_bytes,
        "sequence_bytes_by_context_tokens": sheet.sequence_bytes,
    }


def sheet_text(sheet: ModelSheet) -> str:
    """Return the sheet for people, in GiB and KiB."""
    return "\n".join([*_heading(sheet.model), *_parameters(sheet.counts), *_weights(sheet), *_cache(sheet)])


def _heading(model: ModelSpec) -> list[str]:
    stacks = f"{len(model.encoder)} + {len(model.decoder)}" if model.encoder else str(len(model.decoder))
    limit = f"{model.max_position_tokens:,} tokens" if model.max_position_tokens else "no fixed limit"
    sizes = f"{stacks} layers, hidden size {model.hidden_size:,}, vocabulary {model.vocab_size:,}"
    lines = [f"{model.name}: {model.model_type}, {sizes}, context {limit}"]
    if model.image_tower:
        size = 2 * model.image_tower / GIB
        lines.append(f"Below without its tower for images: {model.image_tower:,} parameters, {size:.2f} GiB in 16 bits")
    if model.uncounted:
        lines.append(f"Not counted: {', '.join(model.uncounted)}")
    if model.quantisation:
        own = f", below as {model.weight_format}" if model.weight_format in WEIGHT_FORMATS else ""
        lines.append(f"The config declares quantised weights: {model.quantisation}{own}")
    if model.checkpoint:
        types = ", ".join(f"{name} {size / GIB:,.3f}" for name, size in model.checkpoint.bytes_by_type)
        lines.append(f"Its files hold {model.checkpoint.tensor_bytes / GIB:,.3f} GiB{f': {types}' if types else ''}")
    return lines


def _parameters(counts: ParameterCounts) -> list[str]:
    parts = {
        "embedding": counts.embed,
        "attention": counts.attention,
        "MLP": counts.mlp,
        "experts": counts.experts,
        "router": counts.router,
        "norms": counts.norms,
        "LM head": counts.lm_head,
    }
    lines = [f"  {name:<18}{count:>19,}" for name, count in parts.items() if count]
    lines.append(f"  {'total':<18}{counts.total:>19,}")
    if counts.idle_experts:
        lines.append(f"  {'active per token':<18}{counts.active:>19,}")
    tied = "" if counts.lm_head else " (LM head tied to the embedding)"
    return ["", f"Parameters{tied}", *lines]


def _weights(sheet: ModelSheet) -> list[str]:
    cells = [f"{name:<6}{size / GIB:>9,.2f}" for name, size in sheet.weights_bytes.items()]
    return ["", "Weights, GiB", *(f"  {'    '.join(cells[i : i + 4])}" for i in range(0, len(cells), 4))]


def _cache(sheet: ModelSheet) -> list[str]:
    lines = ["", f"KV cache, {sheet.kv_dtype}, one sequence", f"  a token {_kib(sheet.kv_bytes_per_token)}"]
    if sheet.kv_bytes_per_token_beyond_windows != sheet.kv_bytes_per_token:
        lines.append(f"  a token once the windows are full {_kib(sheet.kv_bytes_per_token_beyond_windows)}")
    if sheet.kv_bytes_per_input_token:
        lines.append(
            f"  a token of the encoder's input {_kib(sheet.kv_bytes_per_input_token)}, not in the contexts below"
        )
    if sheet.state_bytes:
        lines.append(f"  recurrent state {_kib(sheet.state_bytes)}, whatever the length")
    return lines + [f"  {tokens:>9,} tokens {size / GIB:>9,.3f} GiB" for tokens, size in sheet.sequence_bytes.items()]


def _kib(size_bytes: float) -> str:
    return f"{size_bytes / KIB:,.2f}".rstrip("0").rstrip(".") + " KiB"


def fit_json(found: Fit) -> dict[str, object]:
    """Return the fit for programs, units in the keys; its parts are those of one GPU of the tightest stage."""
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
        "data_parallel_attention": plan.parallelism.data,
        "decode_context_parallel": plan.parallelism.context,
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
        "usable_gib": round(found.usable_bytes / GIB, 3),
        "engine_options": {name: getattr(plan.engine.options, name) for name in sorted(plan.engine.options.given)},
        "weights_gib": _gib(tight.weights_bytes).rounded(3),
        "image_tower_gib": _gib(tight.tower_bytes).rounded(3),
        "drafter_gib": _gib(tight.drafter_bytes).rounded(3),
        "lora_gib": _gib(tight.lora_bytes).rounded(3),
        "activation_gib": _gib(tight.overhead.activation_bytes).rounded(3),
        "non_torch_gib": _gib(tight.overhead.non_torch_bytes).rounded(3),
        "cuda_graphs_gib": _gib(tight.overhead.graph_bytes).rounded(3),
        "kv_pool_gib": _gib(tight.pool_bytes).rounded(3),
        "pool_tokens": found.pool_tokens.rounded(0),
        "requests_at_once": dict(zip(("low", "best", "high"), found.requests_at_once, strict=True)),
        "max_concurrency": found.concurrency.rounded(2),
        "max_context_tokens": found.max_context_tokens,
        "would_make_it_fit": remedies(found),
        "command": engine_flags(found),
        "notes": fit_notes(found),
    }


def fit_text(found: Fit) -> str:
    """Return the fit for people, at most 80 columns wide except for the command line."""
    plan, tight = found.deployment, found.tightest
    load, *formats = fit_terms(found)
    copies = f", {plan.copies} copies" if plan.copies > 1 else ""
    gpus = plan.parallelism.gpus * plan.copies
    product = f"{plan.gpu.usable_gib:.2f} x {plan.engine.utilization:g}"
    lines = [
        f"{plan.model.name} on {gpus} x {plan.gpu.name}: {found.verdict.upper()}",
        f"  for {load}; {plan.parallelism.text}{copies},",
        f"  {', '.join(formats)}",
        "",
        f"{'GiB on each GPU':<28}{'low':>11}{'best':>11}{'high':>11}",
        f"  {'usable':<26}{'':>11}{found.usable_bytes / GIB:>11.2f}   {product}",
        _row("weights", _gib(tight.weights_bytes), 2),
    ]
    beside = {
        "tower for images": tight.tower_bytes,
        "drafter": tight.drafter_bytes,
        "LoRA slots": tight.lora_bytes,
        "activations": tight.overhead.activation_bytes,
        "CUDA, NCCL, libraries": tight.overhead.non_torch_bytes,
        "CUDA graphs": tight.overhead.graph_bytes,
    }
    lines += [_row(name, _gib(part), 2) for name, part in beside.items() if part.high]
    lines += [
        _row("left for the KV cache", _gib(tight.pool_bytes), 2),
        "",
        *memory_picture(found),
        "",
        _row("KV cache, tokens", found.pool_tokens, 0),
        _row("requests at once", Estimate(*found.requests_at_once), 0),
        f"  {'longest single request':<26}{'':>11}{found.max_context_tokens:>11,}",
    ]
    if changes := remedies(found):
        lines += ["", "Any one of these would make it fit:", *(f"  - {change}" for change in changes)]
    elif found.verdict == "does not fit":
        lines += ["", "No single change that llmload knows would make it fit."]
    if notes := fit_notes(found):
        lines += ["", *(f"Note: {note}" for note in notes)]
    if found.verdict != "does not fit":
        lines += ["", command_line(engine_flags(found))]
    return "\n".join(lines)


def fit_terms(found: Fit) -> list[str]:
    """Return what was asked: the load, then the formats of weights and cache."""
    plan = found.deployment
    load = f"{found.wanted:,} requests" if found.wanted > 1 else "one request"
    cache = plan.engine.options.cache_type or plan.kv_dtype
    return [f"{load} of {plan.context_tokens:,} tokens", f"weights {plan.weight_format}", f"KV cache {cache}"]


def fit_notes(found: Fit) -> list[str]:
    """Return what the figures leave out or rest on, a sentence each."""
    plan = found.deployment
    notes = _engine_notes(plan) + _gpu_notes(plan)
    if plan.model.uncounted:
        names = ", ".join(plan.model.uncounted)
        notes.append(f"not counted: {names}; up to {UNCOUNTED_GIB:g} GiB are subtracted in the low estimate.")
    limit = plan.model.max_position_tokens
    if limit is not None and plan.context_tokens > limit:
        notes.append(f"the model was made for {limit:,} tokens of context.")
    if plan.users and plan.users > plan.engine.max_num_seqs * plan.cache_groups:
        flag = FLAGS[plan.engine.name]["max_num_seqs"]
        notes.append(f"the engine admits {plan.engine.max_num_seqs} requests a copy at once: raise {flag}.")
    notes += in_flight_notes(found)
    if KvCache(model=plan.model).state_bytes:
        notes.append("recurrent states share blocks in other ways from version to version.")
    return notes


def in_flight_notes(found: Fit) -> list[str]:
    """Return the sentence that says so where vLLM reserves most of a request's blocks for tokens in flight."""
    pool = found.tightest.pool
    if not isinstance(pool, VllmPool):
        return []
    share = pool.in_flight_share(found.deployment.context_tokens)
    if share < _MUCH_IN_FLIGHT:
        return []
    flag = FLAGS["vllm"]["max_num_batched_tokens"]
    return [f"{share:.0%} of a request is for tokens in flight: lower {flag}."]


def _gpu_notes(plan: Deployment) -> list[str]:
    """What is not known of the card, and what lies between the GPUs that share a model."""
    notes = []
    if plan.gpu.vendor not in ("NVIDIA", None):
        notes.append(f"activations and libraries are those of NVIDIA's cards, not measured on {plan.gpu.vendor}'s.")
    if plan.parallelism.data > 1:
        notes.append("DP attention was not measured: the buffers that exchange tokens between experts are not counted.")
    if plan.gpu.total_gib is None:
        notes.append(f"the memory that {plan.gpu.name} reports is not known: 97 % of its name's is taken.")
    if plan.parallelism.tensor > plan.gpus_per_node:
        notes.append(
            f"tensor parallelism over nodes of {plan.gpus_per_node} GPUs is bound by the network between them."
        )
    elif plan.parallelism.tensor > 1 and plan.gpu.nvlink_gb_per_s == 0:
        notes.append(f"{plan.gpu.name} has no NVLink: tensor parallelism will be bound by PCIe.")
    return notes


def _engine_notes(plan: Deployment) -> list[str]:
    if plan.engine.name == "sglang":
        return ["SGLang's utilization is for weights and cache alone; activations and graphs have the rest."]
    if plan.engine.name == "llama.cpp":
        slots = (
            "its slots share one cache" if plan.engine.options.kv_unified else "each request has a slot of that context"
        )
        return [f"llama.cpp splits layers among GPUs, and {slots} from the start."]
    if plan.engine.version < (0, 11):
        return ["vLLM before 0.11 was not measured; its warm-up took other amounts."]
    return [] if "H100" in plan.gpu.name else ["the overhead was measured on H100 only."]


def _row(name: str, estimate: Estimate, digits: int) -> str:
    cells = "".join(f"{value:>11,.{digits}f}" for value in (estimate.low, estimate.best, estimate.high))
    return f"  {name:<26}{cells}"


def _gib(estimate: Estimate) -> Estimate:
    return Estimate(estimate.low / GIB, estimate.best / GIB, estimate.high / GIB)


def bound_json(found: SpeedBounds) -> dict[str, object]:
    """Return the bounds for programs, units in the keys."""
    request = found.request
    content: dict[str, object] = {
        "model": request.model.name,
        "gpu": request.gpu.name,
        "gpus": request.count,
        "precision": found.weight_format,
        "kv_dtype": found.kv_dtype,
        "context_tokens": request.context_tokens,
        "decode": [asdict(row) for row in found.decode],
        "prefill_bound_tokens_per_s": found.prefill_bound_tokens_per_s,
    }
    if found.mbu is not None:
        measured = request.measured_tokens_per_s
        content |= {"measured_tokens_per_s": measured, "mbu": found.mbu, "implausible": found.implausible}
    return content


def bound_text(found: SpeedBounds) -> str:
    """Return the bounds for people."""
    request = found.request
    lines = [
        f"{request.model.name} on {request.count} x {request.gpu.name}: at best",
        f"  weights {found.weight_format}, KV cache {found.kv_dtype}, {request.context_tokens:,} tokens of context",
        "",
        f"{'sequences':>11}{'GiB a step':>12}{'tokens/s':>12}{'each':>10}",
    ]
    for row in found.decode:
        bound = row.bound_tokens_per_s
        lines.append(f"{row.batch:>11,}{row.step_gib:>12.2f}{bound:>12,.1f}{bound / row.batch:>10,.1f}")
    if found.prefill_bound_tokens_per_s is not None:
        lines += ["", f"prompt tokens, at most {found.prefill_bound_tokens_per_s:,.0f} a second"]
    if found.mbu is not None:
        lines += ["", f"measured {request.measured_tokens_per_s:,.2f} tokens/s: MBU {found.mbu:.1%}"]
        lines += [f"implausible: {found.implausible}"] if found.implausible else []
    return "\n".join(lines)


def reference_speed_markdown(rows: Sequence[SpeedRow]) -> str:
    """Return the rows in Markdown: tokens/s (MBU), implausible cells marked and explained below."""
    engines = list(rows[0].cells)
    lines = [
        (row.model, str(row.gpus), f"{row.bound_tokens_per_s:.1f}", *(_cell(row.cells[engine]) for engine in engines))
        for row in rows
    ]
    reasons = [
        rf"\* {row.model} on {engine}: {cell.implausible}"
        for row in rows
        for engine, cell in row.cells.items()
        if cell and cell.implausible
    ]
    return "\n".join([markdown_table(("Model", "GPUs", "bound, tokens/s", *engines), lines, padded=True), "", *reasons])


def _cell(cell: SpeedCell | None) -> str:
    if cell is None:
        return ""
    return f"{cell.tokens_per_s:.2f} ({cell.mbu:.1%})" + (" *" if cell.implausible else "")


def comparison_text(facts: EngineFacts, rows: list[Comparison]) -> str:
    """Return an engine's figures beside the estimates for people, a line a figure; a dash: the log has none."""
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


def gpus_text(gpus: Sequence[Gpu]) -> str:
    """Return GPU models as a table for people, by vendor, MIG slices below their card; a dash is unknown."""
    lines = []
    for vendor, cards in groupby(gpus, key=lambda gpu: gpu.vendor):
        lines.append(f"{vendor or 'GPU':<23}{'memory GiB':>12}{'GB/s':>8}{'TFLOPS':>8}{'link GB/s':>13}")
        lines += [line for gpu in cards for line in _gpu_lines(gpu)]
    return "\n".join(lines)


def _gpu_lines(gpu: Gpu) -> list[str]:
    memory = "-" if gpu.total_gib is None else f"{gpu.total_gib:.2f}"
    figures = (gpu.bandwidth_gb_per_s, gpu.tensor_16bit_tflops, gpu.nvlink_gb_per_s)
    bandwidth, speed, link = ("-" if value is None else f"{value:g}" for value in figures)
    slices = ", ".join(f"{profile} {gib:.2f}" for profile, gib in gpu.mig.items())
    line = f"{gpu.name:<23}{memory:>12}{bandwidth:>8}{speed:>8}{link:>13}"
    return [line, f"  MIG: {slices}"] if slices else [line]


def local_gpus_text(gpus: Sequence[LocalGpu]) -> str:
    """Return this machine's GPUs for people, a line each."""
    if not gpus:
        return "No NVIDIA GPU is reported on this machine (nvidia-ml-py and a driver are needed to see one)."
    lines = [f"{'#':<3}{'GPU':<34}{'GiB':>9}{'used':>9}{'NVLinks':>9}"]
    lines += [f"{gpu.index:<3}{gpu.name:<34}{gpu.total_gib:>9.2f}{gpu.used_gib:>9.2f}{gpu.nvlinks:>9}" for gpu in gpus]
    return "\n".join([*lines, f"driver {gpus[0].driver}"])
