"""The two measured tables of the reference document: engines as columns, models as rows, the best in bold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from llmload.formatting import bold, markdown_table
from llmload.metrics.validity import Verdict
from llmload.runs.folder import RunFolder
from llmload.runs.summary_parts import BandwidthUse

FIRST_COLUMNS: Final = ("Transformers", "vLLM", "TGI")
SPEED, THROUGHPUT = "speed", "throughput"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One run's figure for a cell; `value` is None if the run measured none."""

    run_id: str
    protocol: str | None
    engine: str
    model: str
    value: float | None
    simulated: bool
    verdict: Verdict | None
    """None if nothing was measured."""
    bandwidth: BandwidthUse | None = None
    """The use of the GPUs' memory bandwidth, if model and GPU are known."""
    failed: bool = False
    """Whether the measurement was tried and gave no figure; the suite reports the reason."""


def read_figure(folder: RunFolder) -> Figure:
    """Read a run folder's figure; RunFolderError if the run is not finished."""
    summary, manifest = folder.summary(), folder.manifest()
    protocol, engine = manifest.scenario.scenario.protocol, summary.engine
    value = summary.value("request_output_tokens_per_s", "mean")
    if manifest.simulated and "simulated" not in engine:
        engine = f"{engine} (simulated engine)"
    return Figure(
        run_id=summary.run_id,
        protocol=protocol,
        engine=engine,
        model=summary.model,
        value=summary.requests_per_min if protocol == THROUGHPUT else value,
        simulated=manifest.simulated,
        verdict=summary.verdict,
        bandwidth=summary.bandwidth,
    )


def reference_tables(figures: Sequence[Figure]) -> str:
    """Return both tables and their notes as Markdown; an unmeasured cell is empty, several runs give their median."""
    parts = [
        "## Generative Inference Speed",
        "Mean output tokens/s of a single request, full round trip. Bigger is better.",
        _table([f for f in figures if f.protocol == SPEED], digits=2),
        "## Generative Inference Throughput",
        "Requests/min that the deployment answered in the window. Bigger is better.",
        _table([f for f in figures if f.protocol == THROUGHPUT], digits=1),
    ]
    notes = list(_notes(figures))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)] if notes else parts) + "\n"


def _table(figures: Sequence[Figure], digits: int) -> str:
    if not figures:
        return "(not measured)"
    engines = sorted({f.engine for f in figures} | set(FIRST_COLUMNS), key=_column_order)
    models = list(dict.fromkeys(f.model for f in figures))
    rows = [[model, *_cells(figures, model, engines, digits)] for model in models]
    return markdown_table(["Engine", *engines], rows, padded=True, outer=False)


def _column_order(engine: str) -> tuple[int, str]:
    return (FIRST_COLUMNS.index(engine) if engine in FIRST_COLUMNS else len(FIRST_COLUMNS), engine)


def _cells(figures: Sequence[Figure], model: str, engines: Sequence[str], digits: int) -> list[str]:
    values = {
        engine: [f.value for f in figures if (f.model, f.engine) == (model, engine) and f.value is not None]
        for engine in engines
    }
    cells = {engine: round(median(of), digits) for engine, of in values.items() if of}
    best = max(cells.values(), default=None) if len(cells) > 1 else None
    texts = {engine: f"{value:.{digits}f}" for engine, value in cells.items()}
    failed = {f.engine for f in figures if f.model == model and f.failed}
    unmeasured = {engine: "failed" if engine in failed else "" for engine in engines}
    return [bold(texts[e]) if e in cells and cells[e] == best else texts.get(e, unmeasured[e]) for e in engines]


def _notes(figures: Sequence[Figure]) -> Iterator[str]:
    for figure in figures:
        cell = f"{figure.model} on {figure.engine} ({figure.run_id})"
        if figure.protocol is None:
            yield f"{cell}: in no table, since its scenario has no protocol (scenario.protocol)."
        elif figure.value is None and not figure.failed:
            yield f"{cell}: nothing was measured."
        if figure.bandwidth is not None:
            doubt = figure.bandwidth.implausible
            yield f"{cell}: MBU {figure.bandwidth.mbu:.1%}{f'; implausible: {doubt}' if doubt else ''}."
        for reason in () if figure.verdict is None else figure.verdict.reasons:
            yield f"{cell}: {reason.level}: {reason.text}."
    if any(figure.simulated for figure in figures):
        yield "Simulated engine: figures of llmload's own simulation, not of any real engine."
