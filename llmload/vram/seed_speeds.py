"""The seed document's speed table beside what its GPUs' memory allows: MBU by cell, and the cell that stands out."""

from dataclasses import dataclass

from llmload.vram.catalogue import load_model, read_data
from llmload.vram.gpus import find_gpu
from llmload.vram.roofline import decode_bound_tokens_per_s, implausible, mbu


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedCell:
    """One measured speed, its share of the bound, and why that cannot be believed, if so."""

    tokens_per_s: float
    mbu: float
    implausible: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRow:
    """One model: its bound at batch 1 without context, and a cell by engine; None was not measured."""

    model: str
    gpus: int
    bound_tokens_per_s: float
    cells: dict[str, SpeedCell | None]


def seed_speed_rows() -> list[SpeedRow]:
    """The seed's six models in 16 bits on A100s; a cell's peers are the other models under its engine."""
    data = read_data("seed_speeds.json")
    gpu, engines = find_gpu(data["gpu"]), data["engines"]
    bounds = [
        decode_bound_tokens_per_s(load_model(row["catalogue"]), gpu, gpus=row["gpus"], weight_format="bf16")
        for row in data["rows"]
    ]
    shares = [
        [None if speed is None else mbu(speed, bound) for speed in row["tokens_per_s"]]
        for row, bound in zip(data["rows"], bounds, strict=True)
    ]
    rows = []
    for i, (row, bound) in enumerate(zip(data["rows"], bounds, strict=True)):
        cells: dict[str, SpeedCell | None] = {}
        for j, engine in enumerate(engines):
            share, speed = shares[i][j], row["tokens_per_s"][j]
            peers = [value for k, other in enumerate(shares) if k != i and (value := other[j]) is not None]
            cells[engine] = (
                None
                if share is None
                else SpeedCell(tokens_per_s=speed, mbu=share, implausible=implausible(share, peers))
            )
        rows.append(SpeedRow(model=row["model"], gpus=row["gpus"], bound_tokens_per_s=bound, cells=cells))
    return rows


def seed_speed_markdown(rows: list[SpeedRow]) -> str:
    """The rows in Markdown: tokens a second (MBU), implausible cells marked and explained below."""
    engines = list(rows[0].cells)
    lines = [("Model", "GPUs", "bound, tokens/s", *engines)]
    lines += [
        (row.model, str(row.gpus), f"{row.bound_tokens_per_s:.1f}", *(_cell(row.cells[engine]) for engine in engines))
        for row in rows
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    reasons = [
        rf"\* {row.model} on {engine}: {cell.implausible}"
        for row in rows
        for engine, cell in row.cells.items()
        if cell and cell.implausible
    ]
    return "\n".join([*text, "", *reasons])


def _cell(cell: SpeedCell | None) -> str:
    if cell is None:
        return ""
    mark = r" \*" if cell.implausible else ""
    return f"{cell.tokens_per_s:.2f} ({cell.mbu:.1%}){mark}"
