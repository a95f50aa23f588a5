"""What a run shows at its end on a terminal: verdict, figures, latencies, gates, failures."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich.console import Console, ConsoleDimensions, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from llmload.capacity.result import capacity_report
from llmload.metrics.doubts import marks
from llmload.report.by_name import NAME_COLUMNS, name_rows
from llmload.report.conclusion import conclusion
from llmload.report.figures import (
    COLUMNS,
    LATENCIES,
    ROW_COLUMNS,
    doubt_lines,
    engine_rows,
    figure_text,
    latencies_of,
    length_rows,
    limits_of,
    reasoning_rows,
    row_cells,
    tenths,
)
from llmload.report.network import network_rows
from llmload.report.sweep import FRONT, Column, shown_columns, sweep_notes, sweep_rows
from llmload.runs.costs import cost_rows
from llmload.runs.summary import Summary
from llmload.runs.summary_parts import EngineMetrics, GpuMetrics
from llmload.units import GB, MS_PER_S, UNKNOWN, amount, milliseconds, number, percent

PICTURE_WIDTH: Final = 120
_NO_WIDTH, _HEIGHT = 100_000, 25
STYLES: Final = {"VALID": "bold green", "DEGRADED": "bold yellow", "INVALID": "bold red"}


class _Whole(Console):
    """A console that shortens no figure: a table is as wide as its figures are, and a pipe has no width at all."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print the objects one by one; into a pipe without the spaces that fill the last column of a table."""
        screen = self.width if self.is_terminal else _NO_WIDTH
        for part in (part for each in objects for part in (each.renderables if isinstance(each, Group) else (each,))):
            self.size = ConsoleDimensions(max(screen, self._least(part)), _HEIGHT)
            if self.is_terminal:
                super().print(part, **options)
            else:
                with self.capture() as captured:
                    super().print(part, **options)
                lines = re.sub(r" +$", "", captured.get(), flags=re.MULTILINE)
                super().print(Text(lines), end="", no_wrap=True, overflow="ignore", crop=False)
        self.size = ConsoleDimensions(screen, _HEIGHT)

    def _least(self, part: Any) -> int:
        if not isinstance(part, Table | PointTable):
            return 0
        least, most = Measurement.get(self, self.options.update(max_width=_NO_WIDTH), part)
        return most if isinstance(part, Table) and all(column.no_wrap for column in part.columns) else least


def console(*, record: bool = False) -> Console:
    """Return a console as wide as the terminal, or as its lines if there is no terminal; recorded for a picture."""
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}  # names are data, whatever is in them
    return Console(**plain, record=True, width=PICTURE_WIDTH) if record else _Whole(**plain)


def run_report(summary: Summary) -> RenderableType:
    """Return the verdict, the figures and the latencies of a run, and what it found as the last line."""
    found = (
        []
        if summary.capacity is None
        else capacity_report(summary.capacity, {stage.name: stage.doubts for stage in summary.stages})
    )
    shown: list[RenderableType] = [_title(summary)]
    for table in (
        *_stages(summary),
        *_points(summary),
        _figures(summary),
        *_latencies(summary),
        *_by_name(summary),
        *found,
        *sampled_tables(summary),
    ):
        shown += [table, ""]
    shown += [*_verdict(summary), *_gates(summary), *_failures(summary), ""]
    return Group(*shown, Text(conclusion(summary), style=STYLES[summary.verdict.level]))


def _title(summary: Summary) -> Text:
    text = Text(f"\n{summary.scenario}", style="bold")
    text.append(f"  {summary.model} on {summary.engine}", style="default")
    if summary.simulated:
        text.append("  simulated engine: no real engine was measured", style="bold magenta")
    return text


def _stages(summary: Summary) -> list[Table]:
    """Return a table with a row for each stage, step or phase; none of a run of one load."""
    if not summary.stages or summary.capacity is not None or summary.sweep is not None:  # these have their own tables
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("\nstage", no_wrap=True)
    table.add_column("\nload", no_wrap=True)
    for column in ROW_COLUMNS:
        table.add_column(column.header, justify="right", no_wrap=True)
    limits = limits_of(summary.stages)
    if limits:
        table.add_column("\nlimited by", no_wrap=True)
    for index, stage in enumerate(summary.stages):
        table.add_row(Text(stage.name), stage.load_text, *row_cells(stage, stage.doubts), *limits[index : index + 1])
    return [table]


def _points(summary: Summary) -> list[RenderableType]:
    """Return a table with a row for each point of a sweep, and what one has to know of them."""
    if summary.sweep is None:
        return []
    return [PointTable(summary), Text("\n".join(f"  {note}" for note in sweep_notes(summary.sweep)), style="dim")]


class PointTable:
    """The points of a sweep, in as many columns as there is room for; those that matter most are always there."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._columns = shown_columns(summary)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the width of the columns that are never left out, and that of all."""
        least = self._table([column for column in self._columns if not column.spare])
        widths = (Measurement.get(console, options, each).maximum for each in (least, self._table(self._columns)))
        return Measurement(*widths)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, and the columns that are left out."""
        kept, wide = list(self._columns), options.update(max_width=_NO_WIDTH)
        while any(column.spare for column in kept):
            if Measurement.get(console, wide, self._table(kept)).maximum <= options.max_width:
                break
            kept.remove(max(kept, key=lambda column: column.spare))
        yield self._table(kept)
        if names := [column.name for column in self._columns if column not in kept]:
            yield Text(f"  for want of room without {', '.join(names)}: see report.html, or --markdown", style="dim")

    def _table(self, columns: Sequence[Column]) -> Table:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("\npoint", no_wrap=True)
        for column in columns:
            table.add_column(column.header, justify="right", no_wrap=True)
        points = () if self._summary.sweep is None else self._summary.sweep.points
        for (name, cells), point in zip(sweep_rows(self._summary, columns), points, strict=True):
            verdict, *figures = cells
            level = Text(verdict, style=STYLES[point.verdict.level])
            table.add_row(Text(name, style="bold" if name.startswith(FRONT) else "dim"), level, *figures)
        return table


def _figures(summary: Summary) -> Table:
    requests = summary.requests
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    speed = figure_text(summary, "request_output_tokens_per_s", "mean", number)
    table.add_row("output tokens/s of a request (mean)", speed)
    if bandwidth := summary.bandwidth:
        used = f"{percent(bandwidth.mbu)} of the {number(bandwidth.bound_tokens_per_s)} tok/s that it allows"
        table.add_row("memory bandwidth", f"{used}{'; implausible' if bandwidth.implausible else ''}")
    table.add_row("requests/min", figure_text(summary, "requests_per_min", None, tenths))
    table.add_row("system output tokens/s", figure_text(summary, "output_tokens_per_s", None, tenths))
    counts = f"{requests.started} started = {requests.completed} completed + {requests.failed} failed"
    table.add_row("requests", f"{counts} + {requests.censored} censored")
    if requests.errors:
        table.add_row("errors", ", ".join(f"{name} {count}" for name, count in requests.errors.items()))
    if summary.other_users is not None:
        table.add_row("other users", summary.other_users.summed_up)
    if summary.output_tokens is not None:
        tokens = number(summary.output_tokens, 0)
        table.add_row("output tokens", f"{tokens}, counted by {summary.token_source or UNKNOWN}")
    if summary.finish_reasons:
        reasons = ", ".join(f"{name} {count}" for name, count in summary.finish_reasons.items())
        table.add_row("finish reasons", reasons)
    for title, text in (
        *engine_rows(summary),
        *length_rows(summary),
        *reasoning_rows(summary),
        *prefix_cache_rows(summary),
        *cost_rows(summary.cost),
        *network_rows(summary),
    ):
        table.add_row(title, text)
    table.add_row("window", f"{number(summary.window_s, 1)} s, {summary.load.text}")
    if edited := summary.edited:
        table.add_row("load", edited.text)
    return table


SALTED: Final = {
    "request": "salted, so that the prefix cache has none of them: one salt per request",
    "run": "salted, so that the prefix cache has none of them: one salt per run",
    "repeats": "salted where they are sent again, so that the prefix cache does not have them",
}


def prefix_cache_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return title and text of what is known of cached prompt tokens, by the engine's answers and by its metrics."""
    rows = []
    if salt := summary.prompt_salt:
        rows.append(("prompts", SALTED[salt]))
    reported = summary.cached_token_share
    own = None if summary.engine_metrics is None else summary.engine_metrics.prefix_cache_hit_share
    if reported is not None or own is not None:
        rows.append(
            (
                "prefix cache",
                f"{percent(reported)} of prompt tokens by the answers, {percent(own)} by the engine's metrics",
            )
        )
    return rows


def _latencies(summary: Summary) -> list[Table]:
    """Return a row for each latency; no table where nothing was measured."""
    if not any(summary.distribution(key) for key in LATENCIES.values()):
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("latency, ms")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for name, key in latencies_of(summary).items():
        table.add_row(name, *(figure_text(summary, key, column, milliseconds) for column in COLUMNS))
    return [table]


def _by_name(summary: Summary) -> list[Table]:
    rows = name_rows(summary)
    if not rows:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(NAME_COLUMNS):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return [table]


STAMPS: Final = {
    "packet": "the kernel's packet ring",
    "kernel": "the kernel",
    "user": "the process",
    "mixed": "several sources: see docs/stamps.md",
}


def _verdict(summary: Summary) -> list[Text]:
    verdict = summary.verdict
    head = Text("verdict ", style="default")
    head.append(verdict.level, style=STYLES[verdict.level])
    stamps = STAMPS.get(summary.stamp_source or "")
    head.append("" if stamps is None else f"  time stamps by {stamps}", style="dim")
    reasons = [Text(f"  {marks(reason)}{reason.level}: {reason.text}") for reason in verdict.reasons]
    return [head, *reasons, *(Text(f"  {line}", style="dim") for line in doubt_lines(summary))]


FAILURE_COLUMNS: Final = ("failed requests", "count", "share", "in the engine's or system's words")


def _failures(summary: Summary) -> list[Table]:
    """Return a table of the most frequent failures; none where no request failed."""
    if not summary.requests.failures:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(FAILURE_COLUMNS):
        table.add_column(column, justify="right" if index in (1, 2) else "left", overflow="fold")
    for each in summary.requests.failures:
        table.add_row(*map(Text, each.cells))
    return [table]


_GATE_STYLES: Final = {True: ("passed", "bold green"), False: ("FAILED", "bold red"), None: ("skipped", "yellow")}


def _gates(summary: Summary) -> list[Text]:
    """A line for each gate; a red one sets the exit code 1."""
    return [Text.assemble("gate ", _GATE_STYLES[gate.passed], f"  {gate.text}") for gate in summary.gates]


# The engine's and the GPUs' own metrics


def sampled_tables(summary: Summary) -> Iterator[RenderableType]:
    """Yield a table for the engine and one for the GPUs, if the run has read their metrics."""
    if engine := summary.engine_metrics:
        yield _engine(engine)
    if gpus := summary.gpu_metrics:
        yield _gpus(gpus)


def _engine(engine: EngineMetrics) -> Table:
    table = _table("engine's metrics, whole run")
    if not engine.samples:
        table.add_row("", f"none: {_failed(engine)}, as for an engine that serves no metrics")
        return table
    for name, own, client, gap in (
        ("TTFT", engine.ttft_mean_s, engine.client_ttft_mean_s, engine.ttft_gap_s),
        ("ITL", engine.itl_mean_s, engine.client_itl_mean_s, engine.itl_gap_s),
    ):
        table.add_row(f"{name}, mean", f"{_ms(own)}, client's {_ms(client)}, gap {_ms(gap)}")
    table.add_row("running, waiting", f"{amount(engine.running_max)}, {amount(engine.waiting_max)} at most")
    table.add_row("KV cache in use", f"{percent(engine.kv_cache_usage_max)} at most")
    table.add_row("preemptions", amount(engine.preemptions))
    table.add_row("prefix cache hits", percent(engine.prefix_cache_hit_share))
    counted = f"{amount(engine.output_tokens)}, client's {amount(engine.client_output_tokens)}"
    table.add_row("output tokens", f"{counted}, gap {amount(engine.output_tokens_gap)}")
    table.add_row("read", f"{engine.samples:,} times, {_failed(engine)}")
    return table


def _gpus(gpus: GpuMetrics) -> Table:
    table = _table("GPUs' metrics, whole run")
    if not gpus.samples:
        table.add_row("", f"none: {_failed(gpus)}")
        return table
    table.add_row("GPUs", amount(gpus.gpus))
    used, needed = amount(gpus.memory_used_max_gib, " GiB"), gpus.memory_estimate_gib
    filled = amount(gpus.memory_estimate_with_kv_cache_gib, " GiB")
    sized = "" if needed is None else f"; sizing expects {amount(needed, ' GiB')}, and {filled} with the KV cache"
    table.add_row("memory in use", f"{used} at most{sized}")
    table.add_row("power", f"{amount(gpus.power_max_w, ' W')} at most")
    energy = amount(gpus.energy_j_per_output_token, " J")
    table.add_row("energy", f"{amount(gpus.energy_j, ' J')}, {energy} an output token")
    table.add_row("tensor cores active", f"{percent(gpus.tensor_active_max)} at most")
    for name, most, whole in (
        ("NVLink, sent", gpus.nvlink_tx_max_bytes_per_s, gpus.nvlink_tx_bytes),
        ("NVLink, received", gpus.nvlink_rx_max_bytes_per_s, gpus.nvlink_rx_bytes),
    ):
        if most is not None or whole is not None:  # many exporters do not have these
            table.add_row(name, f"{_gigabytes(most)}/s at most, {_gigabytes(whole)} in all")
    table.add_row("read", f"{gpus.samples:,} times, {_failed(gpus)}")
    return table


def _table(name: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column(name, min_width=35)
    table.add_column("")
    return table


def _failed(figures: EngineMetrics | GpuMetrics) -> str:
    return f"{figures.failed_reads:,} reads failed"


def _ms(value_s: float | None) -> str:
    return number(None if value_s is None else value_s * MS_PER_S, 2, " ms")


def _gigabytes(value: float | None) -> str:
    return number(None if value is None else value / GB, 2, " GB")
