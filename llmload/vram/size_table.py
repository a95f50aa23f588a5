"""The sizing table under any rule, for any models and precisions, as Markdown, CSV or JSON."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from llmload.errors import ConfigError
from llmload.vram.model import ModelSpec
from llmload.vram.parameters import count_parameters
from llmload.vram.tables import PRECISION_BYTES, SEED_RULE, SeedRow, short_count
from llmload.vram.weights import WEIGHT_FORMATS, weights_bytes

TOTAL_RULE = "1.2 x bytes x all parameters / 2^30, rounded half up to 0.01"
EXACT_RULE = "the weights as each format stores them, with its scales, nothing added, in GiB"
_EXACT_COLUMNS = ("bf16", "fp8", "int8", "w4a16", "mxfp4", "q4_K")
_FACTOR = Decimal("1.2")
_CENT = Decimal("0.01")


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


def seed_table(rows: Iterable[SeedRow], precisions: Sequence[str] = ()) -> SizeTable:
    """The rows of the seed's rule as a plain table; raises ConfigError for a precision that the rule does not know."""
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
    return SizeTable(rule=SEED_RULE, columns=columns, rows=cells)


def total_table(models: Iterable[ModelSpec], precisions: Sequence[str] = ()) -> SizeTable:
    """
    1.2 times the weights, language-model head included; raises ConfigError for a precision the rule does not know.

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
    """The weights as formats really store them; raises ConfigError for a format that is not known."""
    columns = _columns(precisions or _EXACT_COLUMNS, WEIGHT_FORMATS)
    rows = []
    for model in models:
        counts = count_parameters(model)
        sizes = {column: _gib(Decimal(weights_bytes(counts, WEIGHT_FORMATS[column]))) for column in columns}
        rows.append(_row(model, counts.total, sizes))
    return SizeTable(rule=EXACT_RULE, columns=columns, rows=tuple(rows))


def table_markdown(table: SizeTable) -> str:
    """The table in Markdown, one line a model, columns aligned."""
    lines = [("Model", "Parameters", *table.columns)]
    lines += [(row.model, row.parameters, *(f"{row.memory_gib[c]:f}" for c in table.columns)) for row in table.rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(_cells(line, widths)) + " |" for line in lines]
    rule = "|" + "|".join(f"{'-' * (w + 1)}{'-' if i == 0 else ':'}" for i, w in enumerate(widths)) + "|"
    return "\n".join([text[0], rule, *text[1:]])


def table_csv(table: SizeTable) -> str:
    """The table as CSV, its unit in the header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "parameters", *(f"{column} (GiB)" for column in table.columns)])
    for row in table.rows:
        writer.writerow([row.model, row.counted_params, *(row.memory_gib[column] for column in table.columns)])
    return out.getvalue().rstrip("\n")


def table_json(table: SizeTable) -> dict[str, object]:
    """The table for programs."""
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


def _columns(asked: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    names = {name.lower(): name for name in known}
    aliases = {"fp16": "fp16/bf16", "bf16": "fp16/bf16"} if "fp16/bf16" in names else {}
    columns = []
    for name in asked or names:
        key = aliases.get(name.lower(), name.lower())
        if key not in names:
            raise ConfigError(f"precision {name!r} is not known under this rule; known: {', '.join(names.values())}")
        columns.append(names[key])
    return tuple(dict.fromkeys(columns))


def _row(model: ModelSpec, params: int, sizes: dict[str, Decimal]) -> SizeRow:
    return SizeRow(model=model.name, parameters=short_count(params), counted_params=params, memory_gib=sizes)


def _cells(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]


def _gib(size_bytes: Decimal) -> Decimal:
    return (size_bytes / 2**30).quantize(_CENT, ROUND_HALF_UP)
