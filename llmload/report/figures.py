"""A run's figures as text: which ones its tables have, and the mark of those in doubt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from llmload.metrics.checks import OF_REASONING
from llmload.metrics.doubts import lines_of, marked
from llmload.metrics.objective import LABELS
from llmload.metrics.validity import Doubt
from llmload.runs.summary import AskedLengths, Figures, LengthsSummary, StageSummary, Summary
from llmload.runs.summary_parts import Limit
from llmload.units import UNKNOWN, milliseconds, number, percent

LATENCIES: Final = {LABELS[key]: key for key in ("ttft_s", "itl_s", "tpot_s", "e2e_s")}
_BY_THE_ENGINE: Final = ("engine_queue_s", "engine_prefill_s", "ttft_rest_s")
_LATENCY_ROWS: Final = ("ttft_s", *_BY_THE_ENGINE, "ttfa_s", "thinking_s", "itl_s", "tpot_s", "answer_tpot_s", "e2e_s")
COLUMNS: Final = ("mean", "p50", "p90", "p95", "p99", "max")

SHOWN: Final = ("request_output_tokens_per_s mean", "requests_per_min", "output_tokens_per_s", *LATENCIES.values())
"""The figures of which the tables of a run's end have statistics."""


def latencies_of(*summaries: Summary) -> dict[str, str]:
    """
    Return name and key of each latency that these runs' tables have.

    Those of reasoning only where a run has some, the parts of TTFT only where an engine says them.
    """
    reasoning = any(each.reasoning for each in summaries)
    said = {name for name in _BY_THE_ENGINE if any(each.distribution(name) for each in summaries)}
    keys = {*LATENCIES.values(), *(OF_REASONING if reasoning else ()), *said}
    return {LABELS[key]: key for key in _LATENCY_ROWS if key in keys}


def reasoning_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return title and text of what was thought; nothing where nothing was."""
    thought = summary.reasoning
    if thought is None:
        return []
    tokens = f"{'about ' if thought.estimated else ''}{number(thought.tokens, 0)}"
    said = [f"{tokens} tokens, {percent(thought.share)} of the output, in {number(thought.answers, 0)} answers"]
    said += [f"hidden in {number(thought.hidden, 0)}: TTFT has its time, or the text has it"] if thought.hidden else []
    said += [f"{number(thought.without_answer, 0)} ended without an answer"] if thought.without_answer else []
    return [("reasoning", "; ".join(said))]


def limit_text(limit: Limit | None) -> str:
    """Return what limited a load, in words, with what moves it; empty where it is not known."""
    return "" if limit is None else f"{limit.name}: {limit.text}: {limit.remedy}"


def engine_rows(summary: Summary) -> list[tuple[str, str]]:
    """
    Return title and text of what limited the load, of speculative decoding, and of a GPU whose name tells no card.

    Of stages, each limit once, where it came first; nothing of what is not known.
    """
    swept = () if summary.sweep is None else summary.sweep.points
    points = {stage: point.name for point in swept for stage in point.stages}
    limits = [
        ("limited by", summary.limited_by),
        *((f"{points.get(each.name, each.name)}, limited by", each.limited_by) for each in summary.stages),
    ]
    shown: dict[str, tuple[str, str]] = {}
    for title, limit in limits:
        if limit is not None and (limit.limit != "nothing" or not summary.stages):
            shown.setdefault(limit.limit, (title, limit_text(limit)))
    rows = [*shown.values()]
    if found := summary.speculation:
        length = "" if found.accept_length is None else f", {number(found.accept_length)} tokens a step"
        by = "".join(f", {percent(share, 0)} at {place}" for place, share in enumerate(found.by_position, start=1))
        said = {"requests": "the answers", "engine": "the engine's counters"}[found.source]
        rows.append(("speculative decoding", f"{percent(found.acceptance_rate)} accepted{by}{length}, by {said}"))
    if summary.gpu_warning is not None:
        rows.append(("GPU", summary.gpu_warning))
    return rows


def length_rows(summary: Summary) -> list[tuple[str, str]]:
    """
    Return title and text of asked and counted lengths; nothing where none were requested.

    Where several names have some, each has its own too.
    """
    named = [(each.name, _kept(each.lengths)) for each in summary.by_name or () if each.lengths is not None]
    rows = [(f"{part} lengths", _length_text(kept)) for part, kept in _kept(summary.lengths).items()]
    if summary.lengths is not None and summary.lengths.template == "excluded" and summary.lengths.input is not None:
        rows[0] = (rows[0][0], f"{rows[0][1]}, the chat template included")
    for name, parts in named if len(named) > 1 else []:
        rows.append((f"{name}: lengths", "; ".join(f"{part} {_length_text(kept)}" for part, kept in parts.items())))
    return rows


def _kept(lengths: LengthsSummary | None) -> dict[str, AskedLengths]:
    parts = {} if lengths is None else {"input": lengths.input, "output": lengths.output}
    return {part: kept for part, kept in parts.items() if kept is not None}


def _length_text(kept: AskedLengths) -> str:
    asked, counted = tenths(kept.asked_mean), tenths(kept.counted_mean)
    text = f"{asked} tokens requested, {counted} counted (mean), exact in {percent(kept.exact_share)}"
    return text if not kept.deviation_max else f"{text}, at most {number(kept.deviation_max, 0)} off"


def figure_text(summary: Summary, key: str, statistic: str | None, text: Callable[[float | None], str]) -> str:
    """Return a figure's text, marked where it is in doubt."""
    return marked(text(summary.value(key, statistic)), summary.verdict.doubts, key, statistic)


def tenths(value: float | None) -> str:
    """Return a number with one decimal."""
    return number(value, 1)


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a row for a stage: the header on two lines, the figure's key and statistic, and how it is written."""

    header: str
    key: str
    statistic: str | None
    text: Callable[[float | None], str]


ROW_COLUMNS: Final = (
    Column("requests\n/min", "requests_per_min", None, tenths),
    Column("output\ntok/s", "output_tokens_per_s", None, tenths),
    Column("tok/s of\na request", "request_output_tokens_per_s", "mean", tenths),
    Column("TTFT\np50, ms", "ttft_s", "p50", milliseconds),
    Column("TTFT\np95, ms", "ttft_s", "p95", milliseconds),
    Column("TPOT\np50, ms", "tpot_s", "p50", milliseconds),
    Column("\nfailed", "error_share", None, percent),
)


def limits_of(stages: Sequence[StageSummary]) -> list[str]:
    """Return the last column of a table of stages, what limited each; nothing where no stage's limit is known."""
    if not any(stage.limited_by for stage in stages):
        return []
    return [UNKNOWN if stage.limited_by is None else stage.limited_by.name for stage in stages]


def row_cells(figures: Figures, doubts: Sequence[Doubt]) -> list[str]:
    """Return a row's figures as text, marked where they are in doubt."""
    return [
        marked(column.text(figures.value(column.key, column.statistic)), doubts, column.key, column.statistic)
        for column in ROW_COLUMNS
    ]


def doubt_lines(summary: Summary) -> list[str]:
    """Return a line for each check that doubts a figure of the tables, with the mark that these have."""
    return lines_of(summary.verdict, (*SHOWN, *latencies_of(summary).values()))
