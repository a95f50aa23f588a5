"""Runs as Markdown: figures side by side, the page of a CI job, the two tables of the reference document."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from llmload.errors import RunFolderError
from llmload.metrics.doubts import marks
from llmload.metrics.requests import FIELD
from llmload.metrics.validity import Verdict
from llmload.report.by_name import NAME_COLUMNS, name_rows
from llmload.report.checks import Judgement, run_checks
from llmload.report.figures import (
    COLUMNS,
    doubt_lines,
    engine_rows,
    figure_text,
    latencies_of,
    length_rows,
    reasoning_rows,
    tenths,
)
from llmload.report.network import NETWORK_FIGURES, network_rows
from llmload.report.sweep import shown_columns, sweep_notes, sweep_rows
from llmload.report.terminal import prefix_cache_rows
from llmload.runs.costs import cost_rows
from llmload.runs.folder import RunFolder
from llmload.runs.summary import Summary
from llmload.runs.summary_parts import BandwidthUse
from llmload.units import UNKNOWN, Markdown, bold, code, escaped, markdown_table, milliseconds, number, percent

# The two measured tables of the reference document: engines as columns, models as rows, the best in bold.

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
    engines = list(dict.fromkeys((*FIRST_COLUMNS, *(f.engine for f in figures))))
    models = list(dict.fromkeys(f.model for f in figures))
    rows = [[model, *_cells(figures, model, engines, digits)] for model in models]
    return markdown_table(["Engine", *engines], rows, padded=True, outer=False)


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


# What each figure means: README's table and the report page's are generated from it.


@dataclass(frozen=True, slots=True)
class Definition:
    """A metric's name, its formula in words, and its unit."""

    name: str
    formula: str
    unit: str


DEFINITIONS_OF_REASONING: Final = (
    Definition("time to first answer", FIELD["ttfa_s"].meaning, "s"),
    Definition("thinking time", FIELD["thinking_s"].meaning, "s"),
    Definition("TPOT of the answer", FIELD["answer_tpot_s"].meaning, "s"),
)
DEFINITIONS: Final = (
    Definition("TTFT", FIELD["ttft_s"].meaning, "s"),
    *DEFINITIONS_OF_REASONING,
    Definition("ITL", "every gap between neighbouring chunks with text: a distribution over chunks, not tokens", "s"),
    Definition("TPOT", FIELD["tpot_s"].meaning, "s"),
    Definition("e2e latency", "last byte of the answer - start", "s"),
    Definition(
        "output tokens/s of a request",
        "output tokens / e2e latency: full round trip, completion tokens only; the headline is the mean over requests",
        "tok/s",
    ),
    Definition("system output tokens/s", "tokens that arrived inside the window / window", "tok/s"),
    Definition("requests/min", "answers that ended inside the window / window x 60", "1/min"),
    Definition("goodput", "the same, of answers that met every limit of `[slo]`", "1/min"),
)


def markdown() -> str:
    """Return the table as the README has it."""
    rows = [[Markdown(each.name), Markdown(each.formula), Markdown(each.unit)] for each in DEFINITIONS]
    return markdown_table(["name", "formula", "unit"], rows) + "\n"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure: its name with unit, and its text for each run."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together."""

    title: str
    rows: tuple[Row, ...]


def groups(summaries: Sequence[Summary]) -> list[Group]:
    """Return every figure of the runs; one that a run has not measured is n/a."""
    return [
        Group("Run", _rows(summaries, _RUN)),
        Group("Throughput", _rows(summaries, _THROUGHPUT)),
        *(
            Group(
                f"{name}, ms", tuple(_row(summaries, column, _latency(key, column)) for column in (*COLUMNS, "count"))
            )
            for name, key in latencies_of(*summaries).items()
        ),
        Group("Requests", _rows(summaries, _REQUESTS)),
        *([Group("Network", _rows(summaries, NETWORK_FIGURES))] if any(each.network for each in summaries) else []),
    ]


def as_markdown(summaries: Sequence[Summary]) -> str:
    """Return a table of the figures that any run has, a column per run, and the reasons of their verdicts below."""
    rows = []
    for group in groups(summaries):
        shown = [row for row in group.rows if any(cell != UNKNOWN for cell in row.cells)]
        prefix = f"{group.title.partition(',')[0]} " if group.title.endswith(", ms") else ""
        unit = ", ms" if prefix else ""
        rows += [[f"{prefix}{row.name}{unit if row.name != 'count' else ''}", *row.cells] for row in shown]
    points = [part for summary in summaries if summary.sweep for part in ("", _points(summary.run_id, summary))]
    notes = [
        f"- {escaped(summary.run_id)}: {marks(reason)}{reason.level}: {escaped(reason.text)}"
        for summary in summaries
        for reason in summary.verdict.reasons
    ]
    notes += [
        f"- {escaped(summary.run_id)}: failed requests: {escaped(each.text)}"
        for summary in summaries
        for each in summary.requests.failures
    ]
    notes += [f"- {escaped(f'{summary.run_id}: {line}')}" for summary in summaries for line in doubt_lines(summary)]
    simulated = ["- Simulated engine: figures of llmload's own simulation, not of any real engine."]
    notes += simulated if any(summary.simulated for summary in summaries) else []
    header = ["", *(summary.run_id for summary in summaries)]
    table = markdown_table(header, rows, right=range(1, len(header)))
    return "\n".join([table, *points, *(["", *notes] if notes else [])]) + "\n"


def _points(title: str, summary: Summary) -> str:
    """Return the points of a sweep as a table, and what one has to know of them; nothing of another run."""
    if summary.sweep is None:
        return ""
    columns = shown_columns(summary)
    header = [title, *(column.name for column in columns)]
    rows = [[name.strip(), *cells] for name, cells in sweep_rows(summary, columns)]
    notes = [f"- {escaped(note)}" for note in sweep_notes(summary.sweep)]
    return "\n".join([markdown_table(header, rows, right=range(2, len(header))), "", *notes])


def _rows(summaries: Sequence[Summary], of: Mapping[str, Callable[[Summary], str]]) -> tuple[Row, ...]:
    return tuple(_row(summaries, name, text) for name, text in of.items())


def _row(summaries: Sequence[Summary], name: str, text: Callable[[Summary], str]) -> Row:
    return Row(name, tuple(text(summary) for summary in summaries))


def _latency(key: str, column: str) -> Callable[[Summary], str]:
    def text(summary: Summary) -> str:
        if column == "count":
            return number(summary.value(key, column), 0)
        return figure_text(summary, key, column, milliseconds)

    return text


def _mean(key: str, digits: int = 2) -> Callable[[Summary], str]:
    return lambda summary: figure_text(summary, key, "mean", lambda value: number(value, digits))


def _plain(key: str, digits: int) -> Callable[[Summary], str]:
    return lambda summary: figure_text(summary, key, None, lambda value: number(value, digits))


def _count(key: str) -> Callable[[Summary], str]:
    return lambda summary: number(getattr(summary.requests, key), 0)


def _engine(summary: Summary) -> str:
    """The engine's name, marked as simulated if the name does not say so."""
    engine = summary.engine
    return f"{engine} (simulated engine)" if summary.simulated and "simulated" not in engine else engine


def _errors(summary: Summary) -> str:
    return ", ".join(f"{name} {count}" for name, count in summary.requests.errors.items()) or "none"


_RUN: Final[Mapping[str, Callable[[Summary], str]]] = {
    "verdict": lambda summary: str(summary.verdict.level),
    "scenario": lambda summary: summary.scenario,
    "model": lambda summary: summary.model,
    "engine": lambda summary: _engine(summary),
    "load": lambda summary: summary.load.text,
    "load edited": lambda summary: UNKNOWN if summary.edited is None else summary.edited.text,
    "window, s": _plain("window_s", 1),
}
_THROUGHPUT: Final[Mapping[str, Callable[[Summary], str]]] = {
    "output tokens/s of a request (mean)": _mean("request_output_tokens_per_s"),
    "requests/min": _plain("requests_per_min", 1),
    "goodput, requests/min": _plain("goodput_per_min", 1),
    "system output tokens/s": _plain("output_tokens_per_s", 1),
    "limited by": lambda summary: UNKNOWN if summary.limited_by is None else summary.limited_by.name,
    "memory bandwidth use (MBU)": lambda summary: percent(
        None if summary.bandwidth is None else summary.bandwidth.mbu, 2
    ),
}
_REQUESTS: Final[Mapping[str, Callable[[Summary], str]]] = {
    "started": _count("started"),
    "completed": _count("completed"),
    "failed": _count("failed"),
    "censored": _count("censored"),
    "dropped": _count("dropped"),
    "errors": _errors,
    "prompt tokens a request (mean)": _mean("request_prompt_tokens", 1),
    "output tokens a request (mean)": _mean("request_output_tokens", 1),
    "output tokens": _plain("output_tokens", 0),
    "reasoning tokens": lambda summary: UNKNOWN if summary.reasoning is None else number(summary.reasoning.tokens, 0),
    "tokens counted by": lambda summary: summary.token_source or UNKNOWN,
    "time stamps by": lambda summary: summary.stamp_source or UNKNOWN,
}


JUDGEMENT_TEXTS: Final = {
    Judgement.PASSED: "passed",
    Judgement.FAILED: bold("FAILED"),
    Judgement.UNDECIDED: bold("INVALID"),
    Judgement.SKIPPED: "not judged",
}


def job_summary(summary: Summary) -> str:
    """Return the page of one run: checks, figures and latencies."""
    checks = run_checks(summary)
    bad = [check for check in checks if check.judgement in {Judgement.FAILED, Judgement.UNDECIDED}]
    simulated = " Simulated engine: no real engine was measured." if summary.simulated else ""
    names = name_rows(summary)
    return "\n\n".join(
        [
            f"## llmload {summary.scenario}: {'failed' if bad else 'good'}",
            f"{summary.model} on {summary.engine}, {summary.load.text}.{simulated}",
            markdown_table(
                ["", "check", "result"], [[JUDGEMENT_TEXTS[c.judgement], code(c.name), c.text] for c in checks]
            ),
            markdown_table(["figure", ""], _figures(summary)),
            markdown_table(
                ["latency, ms", *COLUMNS],
                [
                    [name, *(figure_text(summary, key, column, milliseconds) for column in COLUMNS)]
                    for name, key in latencies_of(summary).items()
                ],
            ),
            *([_points("point", summary)] if summary.sweep else []),
            *([markdown_table(NAME_COLUMNS, names, right=range(1, len(NAME_COLUMNS)))] if names else []),
            *(escaped(line) for line in doubt_lines(summary)),
            f"Run `{summary.run_id}`\n",
        ]
    )


def write_page(file: Path, text: str) -> None:
    """Write a page, or append it if the file is GitHub's job summary; RunFolderError if it cannot be written."""
    named = os.environ.get("GITHUB_STEP_SUMMARY")
    try:
        with file.open("a" if named and Path(named) == file else "w", encoding="utf-8") as page:
            page.write(text)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None


def _figures(summary: Summary) -> list[list[str]]:
    requests = summary.requests
    counts = f"{requests.completed} completed, {requests.failed} failed, {requests.censored} censored"
    return [
        ["output tokens/s of a request (mean)", figure_text(summary, "request_output_tokens_per_s", "mean", number)],
        ["requests/min", figure_text(summary, "requests_per_min", None, tenths)],
        ["system output tokens/s", figure_text(summary, "output_tokens_per_s", None, tenths)],
        ["requests", counts],
        *(
            [title, text]
            for title, text in (
                *engine_rows(summary),
                *length_rows(summary),
                *reasoning_rows(summary),
                *prefix_cache_rows(summary),
                *cost_rows(summary.cost),
                *network_rows(summary),
            )
        ),
        ["window", f"{number(summary.window_s, 1)} s"],
        *([] if summary.edited is None else [["load", summary.edited.text]]),
    ]
