"""What a headless run shows: its progress on standard error, its result and files for CI systems at the end."""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gevent
import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmload.errors import ConfigError, RunFolderError
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.live import RECENT_S, LivePoint, LiveView, RunSource, rates
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import check_in_words
from llmload.report.checks import run_suite, write_junit
from llmload.report.html.page import render
from llmload.report.markdown import job_summary, write_page
from llmload.report.terminal import STYLES, console, run_report
from llmload.runs.folder import REPORT
from llmload.runs.loaded_run import load_run, request_bytes
from llmload.runs.summary import Summary
from llmload.runs.writing import why_of
from llmload.scenario.load_protocol import Load
from llmload.units import S_PER_MIN, milliseconds, number

# How far a headless run is, on standard error: lines redrawn in place on a terminal, or a line now and then.

REDRAW_S: Final = 0.5
BAR_COLUMNS: Final = 24
STEPS_SHOWN: Final = 8
"""Points of a sweep above what is redrawn: as many as leave room on a small terminal."""
AUTO, OFF = "auto", "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Requests/min, output tokens/s and the 95th percentile of TTFT; None is not known."""

    requests_per_min: float | None = None
    output_tokens_per_s: float | None = None
    ttft_p95_s: float | None = None

    @property
    def cells(self) -> tuple[str, str, str]:
        """The figures as text."""
        return number(self.requests_per_min, 1), number(self.output_tokens_per_s, 1), milliseconds(self.ttft_p95_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """How far a run is."""

    scenario: str
    stage: str
    elapsed_s: float
    left_s: float | None
    """How long it will still take; None if that is not known."""
    left_is_guess: bool
    in_flight: int
    completed: int
    failed: int
    recent: Rates
    """Of the last seconds."""
    so_far: Rates
    """Of the window, or of the current stage's or step's."""
    level: str | None
    """The verdict so far; None before the first answer."""
    checks: tuple[str, ...]
    """The checks that did not pass."""
    failure: str | None = None
    """The most frequent failure, in words; None before the first."""
    steps: tuple[str, ...] = ()
    """A line for each point of a sweep that has been measured."""

    @property
    def share(self) -> float | None:
        """How much of the run is over, from 0 to 1; None if its end is not known."""
        whole = None if self.left_s is None else self.elapsed_s + self.left_s
        return self.elapsed_s / whole if whole else None

    @property
    def left(self) -> str:
        """The time left, in words."""
        if self.left_s is None:
            return "time left unknown"
        return f"{'about ' if self.left_is_guess else ''}{format_elapsed(self.left_s)} left"

    @property
    def verdict(self) -> str:
        """The verdict so far, in words."""
        if self.level is None:
            return "no verdict yet"
        return f"{self.level} so far{': ' if self.checks else ''}{', '.join(map(check_in_words, self.checks))}"


def format_elapsed(seconds: float) -> str:
    """Return a length of time as minutes and seconds, and hours if there are any."""
    whole = math.ceil(max(0.0, seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def read_moment(coordinator: RunCoordinator, live: LiveView, source: RunSource) -> Moment:
    """Return how far a run is."""
    totals, point = source.totals(), live.latest_point(RECENT_S)
    left_s, is_guess = _left(coordinator, totals, point)
    judged = coordinator.headline_so_far(totals, source.stages)
    verdict = coordinator.verdict_so_far(judged) if totals.completed or totals.failed else None
    return Moment(
        scenario=coordinator.scenario.scenario.name,
        stage=coordinator.stage,
        elapsed_s=coordinator.elapsed_s,
        left_s=left_s,
        left_is_guess=is_guess,
        in_flight=totals.in_flight,
        completed=totals.completed,
        failed=totals.failed,
        recent=_recent(point),
        so_far=_so_far(coordinator, totals, source),
        level=None if verdict is None else verdict.level.value,
        checks=() if verdict is None else tuple(reason.check for reason in verdict.reasons),
        failure=next((f"{each.count} {each}" for each in totals.failures.most_common(1)), None),
        steps=() if coordinator.driver is None else tuple(coordinator.driver.measured),
    )


def _recent(point: LivePoint | None) -> Rates:
    if point is None:
        return Rates()
    return Rates(
        requests_per_min=point.requests_per_min,
        output_tokens_per_s=point.output_tokens_per_s,
        ttft_p95_s=None if point.ttft_s is None else point.ttft_s.p95,
    )


def _so_far(coordinator: RunCoordinator, totals: RunTotals, source: RunSource) -> Rates:
    timeline, window_s = coordinator.timeline, coordinator.span.length_s(totals)
    if timeline is not None:
        name = timeline.name_of(timeline.index)
        totals, window_s = source.step_totals(name), timeline.measured_s(name)
    return Rates(**rates(totals, window_s), ttft_p95_s=totals.distributions["ttft_s"].quantile(0.95))


def _left(coordinator: RunCoordinator, totals: RunTotals, point: LivePoint | None) -> tuple[float | None, bool]:
    """Return how long the run will still take, and whether that is a guess; a drain's length is not known."""
    load = coordinator.scenario.load
    if coordinator.stage == "draining":
        return None, True
    ends_s = load.ends_after_s
    by_time_s = None if ends_s is None else max(0.0, coordinator.span.left_s(ends_s))
    guess_s = coordinator.driver.left_s if coordinator.driver is not None else _left_by_count(load, totals, point)
    if guess_s is None or (by_time_s is not None and by_time_s <= guess_s):
        return by_time_s, False
    return guess_s, True


def _left_by_count(load: Load, totals: RunTotals, point: LivePoint | None) -> float | None:
    asked = load.ends_after_requests
    per_min = None if point is None else point.requests_per_min
    return max(0, asked - totals.ended) / per_min * S_PER_MIN if asked and per_min else None


def log_line(moment: Moment) -> str:
    """Return how far a run is in one line, for logs."""
    per_min, tokens_per_s, ttft = moment.recent.cells
    return (
        f"{moment.scenario}: {moment.stage}, {format_elapsed(moment.elapsed_s)}, {moment.left}; "
        f"in flight {moment.in_flight}, completed {moment.completed}, failed {moment.failed}; "
        f"{per_min} requests/min, {tokens_per_s} tok/s, TTFT p95 {ttft} ms (last {RECENT_S:g} s); {moment.verdict}"
        + (f"; failed: {moment.failure}" if moment.failure else "")
    )


def drawn(moment: Moment) -> RenderableType:
    """Return how far a run is as a few lines of a terminal."""
    head = Table.grid(padding=(0, 2, 0, 0))
    head.add_row(
        Text(moment.scenario, style="bold"),
        Text(moment.stage, no_wrap=True, overflow="ellipsis"),
        Text(format_elapsed(moment.elapsed_s)),
        "" if moment.share is None else ProgressBar(total=1.0, completed=moment.share, width=BAR_COLUMNS),
        Text(moment.left, style="dim"),
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("", "requests/min", "output tok/s", "TTFT p95, ms", "in flight", "completed", "failed"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    failed = Text(str(moment.failed), style="bold red" if moment.failed else "")
    table.add_row(f"last {RECENT_S:g} s", *moment.recent.cells, str(moment.in_flight), str(moment.completed), failed)
    table.add_row("judged so far", *moment.so_far.cells)
    style = "" if moment.level is None else STYLES[moment.level]
    lines = [Text(moment.verdict, style=style, no_wrap=True, overflow="ellipsis")]
    if moment.failure:
        lines.append(Text(f"failed: {moment.failure}", style="red", no_wrap=True, overflow="ellipsis"))
    return Group(head, *(Text(step, style="dim", no_wrap=True) for step in moment.steps[-STEPS_SHOWN:]), table, *lines)


def interval_s(mode: str) -> float | None:
    """Return the seconds between lines of `--progress`; None for `auto` and `off`; ConfigError for anything else."""
    if mode in (AUTO, OFF):
        return None
    try:
        seconds = float(mode)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"command line: --progress {mode}: is neither auto nor off nor a number of seconds above 0")
    return seconds


def show(coordinator: RunCoordinator, live: LiveView, source: RunSource, mode: str) -> None:
    """
    Show how far the run is, until killed.

    `auto` redraws lines on a terminal and is quiet elsewhere, `off` is quiet, a number is the seconds between lines.
    """

    def now() -> Moment:
        return read_moment(coordinator, live, source)

    every_s, said = interval_s(mode), 0
    while every_s is not None:
        gevent.sleep(every_s)
        moment = now()
        lines = [*(f"{moment.scenario}: {step}" for step in moment.steps[said:]), log_line(moment)]
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
        said = len(moment.steps)
    console = Console(stderr=True, highlight=False)
    if mode == AUTO and console.is_terminal and not console.is_dumb_terminal:
        _redraw(console, now)


def _redraw(console: Console, now: Callable[[], Moment]) -> None:
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as display, _logs_above():
        while True:
            gevent.sleep(REDRAW_S)
            display.update(drawn(now()), refresh=True)


@contextmanager
def _logs_above() -> Iterator[None]:
    """Write log lines above what is redrawn: handlers hold the stream that Live has replaced."""
    handlers = {
        handler
        for name in (None, *logging.root.manager.loggerDict)
        for handler in logging.getLogger(name).handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stderr__
    }
    for handler in handlers:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler in handlers:
            handler.setStream(sys.__stderr__)


QUICK_BYTES: Final = 64_000_000
"""About 70,000 requests with 32 chunks each: some two seconds of work. A longer report is made by `llmload report`."""


def show_summary(coordinator: RunCoordinator, form: str) -> None:
    """
    Print the run's summary as `table` or `json`, and where its folder is; nothing for `none`.

    A summary that could not be written to the folder goes to standard error, as JSON.
    """
    if coordinator.summary is None:
        return
    if not coordinator.summary_is_written:
        sys.stderr.write(f"llmload: summary.json of {coordinator.run_id} could not be written, so here it is:\n")
        sys.stderr.write(_json(coordinator.summary))
        sys.stderr.flush()
    if form == "json":
        sys.stdout.write(_json(coordinator.summary))
        sys.stdout.flush()
    elif form == "table":
        terminal = console()
        terminal.print(run_report(coordinator.summary))
        terminal.print(f"run folder: {coordinator.folder.path}", soft_wrap=True)


def _json(summary: Summary) -> str:
    return orjson.dumps(summary.model_dump(mode="json"), option=orjson.OPT_INDENT_2).decode() + "\n"


def show_report(coordinator: RunCoordinator, form: str) -> None:
    """Write the report into the run's folder if that is quick, and say so below the tables."""
    if coordinator.summary is not None:
        show_line(report_line(coordinator), form)


def show_line(text: str, form: str) -> None:
    """Print a line below the tables, where there are any."""
    if form == "table":
        console().print(text, soft_wrap=True)


def report_line(coordinator: RunCoordinator) -> str:
    """Return where the report of a run that has ended is, or the command that writes it."""
    page = write_report(coordinator)
    if page is not None:
        return f"report: {page}"
    if REPORT in coordinator.folder.faults.unwritten:
        return "report: not written"
    return f"report: not written by itself for a run of this length: llmload report {coordinator.folder.path} --html"


def write_report(coordinator: RunCoordinator) -> Path | None:
    """Return the report of a run that has ended, written now if need be; None if that takes long or fails."""
    folder = coordinator.folder
    folder.look()
    page = folder.path / REPORT
    if page.is_file():
        return page
    if request_bytes(folder) > QUICK_BYTES:
        return None
    try:
        run = load_run(folder, lambda _: gevent.sleep())  # lets workers and the web UI work meanwhile
        folder.write_whole(REPORT, render([run]).encode())
        folder.faults.mended(page)
    except (RunFolderError, OSError) as error:
        why = folder.place.gone() or (why_of(error) if isinstance(error, OSError) else str(error))
        folder.faults.note(page, why, "the run ends without its report")
    coordinator.note_unwritten()
    return None if REPORT in folder.faults.unwritten else page


def write_for_ci(coordinator: RunCoordinator, junit: str | None, markdown: str | None) -> None:
    """Write JUnit XML and Markdown to the given files; one that cannot be written is noted for the verdict."""
    summary = coordinator.summary
    if summary is None:
        return
    faults = coordinator.folder.faults
    if junit is not None:
        with faults.tolerated(Path(junit), "it"):
            write_junit(Path(junit), [run_suite(summary.scenario, summary, coordinator.manifest)])
    if markdown is not None:
        with faults.tolerated(Path(markdown), "it"):
            write_page(Path(markdown), job_summary(summary))
    coordinator.note_unwritten()
