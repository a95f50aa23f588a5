"""The table of model sizes under a rule (the reference document's or the exact one) as Markdown, CSV or JSON."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby

from llmload.errors import ConfigError
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.catalogue import load_model, read_data
from llmload.sizing.parameters import count_parameters
from llmload.sizing.weights import WEIGHT_FORMATS, weights_bytes
from llmload.units import GIB, markdown_table

REFERENCE_RULE = "1.2 x bytes x (P + R) / 2^30, rounded half up to 0.01"
PRECISION_BYTES: Mapping[str, Decimal] = {
    "FP32": Decimal(4),
    "FP16/BF16": Decimal(2),
    "INT8": Decimal(1),
    "INT4": Decimal("0.5"),
}
_FACTOR = Decimal("1.2")
_CENT = Decimal("0.01")
_HEADERS = ("Model", "Parameters", *PRECISION_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """One model of the reference table: what its rule counts, and the GiB of each precision."""

    model: str
    parameters: str
    backbone_params: int
    rotary_cache_elements: int

    @property
    def memory_gib(self) -> dict[str, Decimal]:
        """GiB by precision, rounded once: halving a rounded FP32 gives other cents."""
        elements = self.backbone_params + self.rotary_cache_elements
        return {
            precision: (_FACTOR * size * elements / GIB).quantize(_CENT, ROUND_HALF_UP)
            for precision, size in PRECISION_BYTES.items()
        }


def reference_row(model: ModelSpec, family: str | None = None, size: str | None = None) -> ReferenceRow:
    """
    Return a model under the reference rule: P is the backbone that AutoModel loads, R the rotary caches.

    R = 2 x max_position x rotary_dim elements a layer, what LLaMA registered in Transformers 4.31; a rotary model that
    4.31 did not know is counted as its LLaMA would have been. Rule: EleutherAI, Transformer Math 101 (1.2 x weights).
    """
    counts = count_parameters(model)
    positions = model.max_position_tokens or 0
    return ReferenceRow(
        model=family or model.name,
        parameters=size or short_count(counts.total),
        backbone_params=counts.backbone,
        rotary_cache_elements=2 * positions * model.rotary_dim * len(model.decoder),
    )


def reference_rows() -> list[ReferenceRow]:
    """Return the eleven models of the reference table, from their configs of that time."""
    return [_reference_row_of(entry) for entry in read_data("reference_rows.json")["rows"]]


def reference_models() -> list[ModelSpec]:
    """Return the models of the reference table, as their configs of that time describe them."""
    return [_reference_model_of(entry) for entry in read_data("reference_rows.json")["rows"]]


def reference_markdown(rows: Iterable[ReferenceRow]) -> str:
    """Return the reference table's Markdown: one line a family, its sizes joined by <br/>; its "GB" is GiB."""
    lines = [_family_cells(name, list(group)) for name, group in groupby(rows, key=lambda row: row.model)]
    widths = [max(len(cell) for cell in column) for column in zip(_HEADERS, *lines, strict=True)]
    header = "|".join(f"{title:^{width}}" for title, width in zip(_HEADERS, widths, strict=True))
    rule = "|".join("-" * width for width in widths)
    body = ["|".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(f"|{line}|" for line in (header, rule, *body))


def reference_json(rows: Iterable[ReferenceRow]) -> dict[str, object]:
    """Return the rows for programs: the rule, and for each model P, R and GiB by precision."""
    return {
        "rule": REFERENCE_RULE,
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


def _reference_row_of(entry: Mapping[str, str | int]) -> ReferenceRow:
    return reference_row(_reference_model_of(entry), str(entry["model"]), str(entry["parameters"]))


def _reference_model_of(entry: Mapping[str, str | int]) -> ModelSpec:
    model = load_model(str(entry["catalogue"]))
    positions = entry.get("max_position_embeddings")
    return model if positions is None else replace(model, max_position_tokens=int(positions))


def _family_cells(family: str, rows: Sequence[ReferenceRow]) -> list[str]:
    memory = ["<br/>".join(_gb(row.memory_gib[precision]) for row in rows) for precision in PRECISION_BYTES]
    return [family, "<br/>".join(row.parameters for row in rows), *memory]


def _gb(gib: Decimal) -> str:
    digits = f"{gib:f}".rstrip("0").rstrip(".")
    return f"{digits} GB"


def short_count(params: int) -> str:
    """Return a count as model names write it: 6738415616 is 6.74b, 494032768 is 494m."""
    divisor, unit = (10**9, "b") if params >= 10**9 else (10**6, "m")
    scaled = Decimal(params) / divisor
    digits = scaled.quantize(Decimal(1) if scaled >= 100 else _CENT, ROUND_HALF_UP)
    return f"{digits:f}".rstrip("0").rstrip(".") + unit if "." in str(digits) else f"{digits}{unit}"


TOTAL_RULE = "1.2 x bytes x all parameters / 2^30, rounded half up to 0.01"
EXACT_RULE = "the weights as each format stores them, with its scales, nothing added, in GiB"
_EXACT_COLUMNS = ("bf16", "fp8", "int8", "w4a16", "mxfp4", "q4_K")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRow:
    """One model: what is counted, and GiB by column."""

    model: str
    parameters: str
    counted_params: int
    memory_gib: dict[str, Decimal]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeTable:
    """Models by precisions under one rule; all in GiB."""

    rule: str
    columns: tuple[str, ...]
    rows: tuple[SizeRow, ...]


def reference_table(rows: Iterable[ReferenceRow], precisions: Sequence[str] = ()) -> SizeTable:
    """Return the reference rule's rows as a plain table; ConfigError for a precision that the rule does not know."""
    columns = _columns(precisions, PRECISION_BYTES)
    cells = tuple(
        SizeRow(
            model=row.model,
            parameters=row.parameters,
            counted_params=row.backbone_params,
            memory_gib={column: row.memory_gib[column] for column in columns},
        )
        for row in rows
    )
    return SizeTable(rule=REFERENCE_RULE, columns=columns, rows=cells)


def total_table(models: Iterable[ModelSpec], precisions: Sequence[str] = ()) -> SizeTable:
    """
    Return 1.2 times the weights, language-model head included; ConfigError for a precision that the rule does not know.

    Source: EleutherAI, Transformer Math 101.
    """
    columns = _columns(precisions, PRECISION_BYTES)
    rows = []
    for model in models:
        total = count_parameters(model).total
        sizes = {column: _gib(_FACTOR * PRECISION_BYTES[column] * total) for column in columns}
        rows.append(_row(model, total, sizes))
    return SizeTable(rule=TOTAL_RULE, columns=columns, rows=tuple(rows))


def exact_table(models: Iterable[ModelSpec], precisions: Sequence[str] = ()) -> SizeTable:
    """Return the weights as each format stores them; raises ConfigError for an unknown format."""
    columns = _columns(precisions or _EXACT_COLUMNS, WEIGHT_FORMATS)
    rows = []
    for model in models:
        counts = count_parameters(model)
        sizes = {column: _gib(Decimal(weights_bytes(counts, WEIGHT_FORMATS[column]))) for column in columns}
        rows.append(_row(model, counts.total, sizes))
    return SizeTable(rule=EXACT_RULE, columns=columns, rows=tuple(rows))


def table_markdown(table: SizeTable) -> str:
    """Return the table in Markdown, one line a model, columns aligned."""
    rows = [(row.model, row.parameters, *(f"{row.memory_gib[c]:f}" for c in table.columns)) for row in table.rows]
    header = ("Model", "Parameters", *table.columns)
    return markdown_table(header, rows, right=range(1, len(header)), padded=True)


def table_csv(table: SizeTable) -> str:
    """Return the table as CSV, its unit in the header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "parameters", *(f"{column} (GiB)" for column in table.columns)])
    for row in table.rows:
        writer.writerow([row.model, row.counted_params, *(row.memory_gib[column] for column in table.columns)])
    return out.getvalue().rstrip("\n")


def table_json(table: SizeTable) -> dict[str, object]:
    """Return the table for programs."""
    return {
        "rule": table.rule,
        "unit": "GiB",
        "rows": [
            {
                "model": row.model,
                "counted_params": row.counted_params,
                "memory_gib": {column: float(gib) for column, gib in row.memory_gib.items()},
            }
            for row in table.rows
        ],
    }


def _columns(precisions: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    names = {name.lower(): name for name in known}
    aliases = {"fp16": "fp16/bf16", "bf16": "fp16/bf16"} if "fp16/bf16" in names else {}
    columns = []
    for name in precisions or names:
        key = aliases.get(name.lower(), name.lower())
        if key not in names:
            raise ConfigError(f"precision {name!r} is not known under this rule; known: {', '.join(names.values())}")
        columns.append(names[key])
    return tuple(dict.fromkeys(columns))


def _row(model: ModelSpec, params: int, sizes: dict[str, Decimal]) -> SizeRow:
    return SizeRow(model=model.name, parameters=short_count(params), counted_params=params, memory_gib=sizes)


def _gib(size_bytes: Decimal) -> Decimal:
    return (size_bytes / GIB).quantize(_CENT, ROUND_HALF_UP)
