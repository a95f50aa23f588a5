"""The sizing table: 1.2 times the weights, as the seed document computes it, for its models and any other."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby

from llmload.vram.catalogue import load_model, read_data
from llmload.vram.model import ModelSpec
from llmload.vram.parameters import count_parameters

SEED_RULE = "1.2 x bytes x (P + R) / 2^30, rounded half up to 0.01"
PRECISION_BYTES: Mapping[str, Decimal] = {
    "FP32": Decimal(4),
    "FP16/BF16": Decimal(2),
    "INT8": Decimal(1),
    "INT4": Decimal("0.5"),
}
_FACTOR = Decimal("1.2")
_GIB = Decimal(2**30)
_CENT = Decimal("0.01")
_HEADERS = ("Model", "Parameters", *PRECISION_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRow:
    """One model of the table: what the rule counts, and the memory it gives for each precision, in GiB."""

    model: str
    parameters: str
    backbone_params: int
    rotary_cache_elements: int

    @property
    def memory_gib(self) -> dict[str, Decimal]:
        """GiB by precision, rounded once: rounding FP32 first and halving it gives other cents."""
        elements = self.backbone_params + self.rotary_cache_elements
        return {
            precision: (_FACTOR * size * elements / _GIB).quantize(_CENT, ROUND_HALF_UP)
            for precision, size in PRECISION_BYTES.items()
        }


def seed_row(model: ModelSpec, family: str | None = None, size: str | None = None) -> SeedRow:
    """
    A model under the seed's rule: P is the backbone that AutoModel loads, R the rotary caches.

    R = 2 x max_position x rotary_dim elements a layer, what LLaMA registered in Transformers 4.31; a rotary model that
    4.31 did not know is counted as its LLaMA would have been. Rule: EleutherAI, Transformer Math 101 (1.2 x weights).
    """
    counts = count_parameters(model)
    positions = model.max_position_tokens or 0
    return SeedRow(
        model=family or model.name,
        parameters=size or short_count(counts.total),
        backbone_params=counts.backbone,
        rotary_cache_elements=2 * positions * model.rotary_dim * len(model.decoder),
    )


def seed_rows() -> list[SeedRow]:
    """The eleven models of the seed's own table, computed from their configs as they were when it was made."""
    return [_seed_row_of(entry) for entry in read_data("seed_rows.json")["rows"]]


def seed_models() -> list[ModelSpec]:
    """The models of the seed's own table, as their configs were when it was made."""
    return [_seed_model_of(entry) for entry in read_data("seed_rows.json")["rows"]]


def seed_markdown(rows: Iterable[SeedRow]) -> str:
    """The rows as the seed's Markdown: one line a family, its sizes joined by <br/>; its "GB" is GiB."""
    lines = [_family_cells(name, list(group)) for name, group in groupby(rows, key=lambda row: row.model)]
    widths = [max(len(cell) for cell in column) for column in zip(_HEADERS, *lines, strict=True)]
    header = "|".join(f"{title:^{width}}" for title, width in zip(_HEADERS, widths, strict=True))
    rule = "|".join("-" * width for width in widths)
    body = ["|".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(f"|{line}|" for line in (header, rule, *body))


def seed_json(rows: Iterable[SeedRow]) -> dict[str, object]:
    """The rows for programs: the rule, and for each model P, R and GiB by precision."""
    return {
        "rule": SEED_RULE,
        "unit": "GiB",
        "rows": [
            {
                "model": row.model,
                "parameters": row.parameters,
                "backbone_params": row.backbone_params,
                "rotary_cache_elements": row.rotary_cache_elements,
                "memory_gib": {precision: float(gib) for precision, gib in row.memory_gib.items()},
            }
            for row in rows
        ],
    }


def _seed_row_of(entry: Mapping[str, str | int]) -> SeedRow:
    return seed_row(_seed_model_of(entry), str(entry["model"]), str(entry["parameters"]))


def _seed_model_of(entry: Mapping[str, str | int]) -> ModelSpec:
    model = load_model(str(entry["catalogue"]))
    positions = entry.get("max_position_embeddings")
    return model if positions is None else replace(model, max_position_tokens=int(positions))


def _family_cells(family: str, rows: Sequence[SeedRow]) -> list[str]:
    memory = ["<br/>".join(_gb(row.memory_gib[precision]) for row in rows) for precision in PRECISION_BYTES]
    return [family, "<br/>".join(row.parameters for row in rows), *memory]


def _gb(gib: Decimal) -> str:
    digits = f"{gib:f}".rstrip("0").rstrip(".")
    return f"{digits} GB"


def short_count(params: int) -> str:
    """A count as model names write it: 6738415616 is 6.74b, 494032768 is 494m."""
    divisor, unit = (10**9, "b") if params >= 10**9 else (10**6, "m")
    scaled = Decimal(params) / divisor
    digits = scaled.quantize(Decimal(1) if scaled >= 100 else _CENT, ROUND_HALF_UP)
    return f"{digits:f}".rstrip("0").rstrip(".") + unit if "." in str(digits) else f"{digits}{unit}"
