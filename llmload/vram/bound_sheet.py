"""Speed bounds laid out: what memory bandwidth allows, beside what was measured."""

from collections.abc import Sequence

from llmload.vram.gpus import Gpu
from llmload.vram.model import ModelSpec
from llmload.vram.roofline import (
    decode_bound_tokens_per_s,
    decode_step_bytes,
    implausible,
    mbu,
    prefill_bound_tokens_per_s,
)

_GIB = 2**30


def bound_json(
    model: ModelSpec,
    gpu: Gpu,
    *,
    gpus: int,
    weight_format: str,
    kv_dtype: str,
    context_tokens: int,
    batches: Sequence[int],
    measured_tokens_per_s: float | None = None,
) -> dict[str, object]:
    """The bounds by batch size, every unit in its key; a measured speed is that of the first batch, all together."""
    rows = []
    for batch in batches:
        step_bytes = decode_step_bytes(
            model, weight_format=weight_format, kv_dtype=kv_dtype, context_tokens=context_tokens, batch=batch
        )
        bound = decode_bound_tokens_per_s(
            model,
            gpu,
            gpus=gpus,
            weight_format=weight_format,
            kv_dtype=kv_dtype,
            context_tokens=context_tokens,
            batch=batch,
        )
        rows.append({"batch": batch, "step_gib": step_bytes / _GIB, "bound_tokens_per_s": bound})
    prefill = prefill_bound_tokens_per_s(model, gpu, gpus=gpus)
    found: dict[str, object] = {
        "model": model.name,
        "gpu": gpu.name,
        "gpus": gpus,
        "precision": weight_format,
        "kv_dtype": kv_dtype,
        "context_tokens": context_tokens,
        "decode": rows,
        "prefill_bound_tokens_per_s": prefill,
    }
    if measured_tokens_per_s is not None:
        share = mbu(measured_tokens_per_s, float(rows[0]["bound_tokens_per_s"]))
        found |= {"measured_tokens_per_s": measured_tokens_per_s, "mbu": share, "implausible": implausible(share)}
    return found


def bound_text(found: dict[str, object]) -> str:
    """The bounds for people."""
    lines = [
        f"{found['model']} on {found['gpus']} x {found['gpu']}: at best",
        f"  weights {found['precision']}, KV cache {found['kv_dtype']}, {found['context_tokens']:,} tokens of context",
        "",
        f"{'sequences':>11}{'GiB a step':>12}{'tokens/s':>12}{'each':>10}",
    ]
    rows = found["decode"]
    for row in rows if isinstance(rows, list) else []:
        bound, batch = row["bound_tokens_per_s"], row["batch"]
        lines.append(f"{batch:>11,}{row['step_gib']:>12.2f}{bound:>12,.1f}{bound / batch:>10,.1f}")
    prefill = found["prefill_bound_tokens_per_s"]
    if isinstance(prefill, float):
        lines += ["", f"prompt tokens, at most {prefill:,.0f} a second"]
    if "mbu" in found:
        lines += ["", f"measured {found['measured_tokens_per_s']:,.2f} tokens/s: MBU {found['mbu']:.1%}"]
        lines += [f"implausible: {found['implausible']}"] if found["implausible"] else []
    return "\n".join(lines)
