"""What a card's memory is spent on, as parts of one whole; and that as a bar of text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmload.sizing.fit import Fit
from llmload.units import GIB

# The sign of each part in a bar, which differ without colours too.
SIGNS: Final = {
    "weights": "█", "additions": "▙", "activations": "▓", "libraries": "▒", "graphs": "▚", "kv_cache": "░", "free": "·",
}  # fmt: skip
_WIDTH: Final = 76
_ROUNDING: Final = 1.001


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPart:
    """One part of a card's memory; `key` is one of SIGNS."""

    key: str
    name: str
    gib: float


def memory_parts(found: Fit) -> tuple[MemoryPart, ...]:
    """
    Return what one GPU of the tightest stage holds, by the best estimate, and what the engine leaves free.

    They add up to the card's memory; to more where weights and engine alone exceed it.
    """
    plan, tight = found.deployment, found.tightest
    extra = tight.overhead
    additions = {
        "tower for images": tight.tower_bytes.best,
        "drafter": tight.drafter_bytes.best,
        "LoRA slots": tight.lora_bytes.best,
    }
    sizes = {
        "weights": ("weights", tight.weights_bytes.best),
        "additions": (", ".join(name for name, size in additions.items() if size), sum(additions.values())),
        "activations": ("activations", extra.activation_bytes.best),
        "libraries": ("CUDA, NCCL, libraries", extra.non_torch_bytes.best),
        "graphs": ("CUDA graphs", extra.graph_bytes.best),
        "kv_cache": ("KV cache", max(0.0, tight.pool_bytes.best)),
    }
    taken = sum(size for _, size in sizes.values())
    sizes["free"] = ("free", max(0.0, plan.gpu.usable_gib * GIB - taken))
    return tuple(MemoryPart(key=key, name=name, gib=size / GIB) for key, (name, size) in sizes.items() if size > 0)


def bar(parts: Sequence[MemoryPart], width: int = _WIDTH) -> str:
    """Return the parts as one line of signs, each part at least one of them."""
    whole = sum(part.gib for part in parts)
    ends, done = [], 0.0
    for part in parts:
        done += part.gib
        ends.append(round(width * done / whole))
    line, start = "", 0
    for part, end in zip(parts, ends, strict=True):
        length = max(1, end - start)
        line += SIGNS[part.key] * length
        start += length
    return line[: max(width, len(parts))]


def memory_picture(found: Fit) -> list[str]:
    """Return the bar of one card and its legend in GiB, at most 80 columns wide."""
    parts = memory_parts(found)
    whole, memory = sum(part.gib for part in parts), found.deployment.gpu.usable_gib
    lines = [f"  {bar(parts)}"]
    if whole > memory * _ROUNDING:
        lines.append(" " * (1 + round(_WIDTH * memory / whole)) + f"^ the card ends here: {memory:,.2f}")
    lines.append(" ")
    for part in parts:
        entry = f" {SIGNS[part.key]} {part.name} {part.gib:,.2f}"
        if len(lines[-1]) + len(entry) + 1 > _WIDTH:
            lines.append(" ")
        lines[-1] += f"{entry} "
    return [line.rstrip() for line in lines]
