"""What a headless run shows at its end: tables or JSON, and files for CI systems."""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gevent
import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llmload.errors import ConfigError
from llmload.formatting import milliseconds, number
from llmload.loadgen.coordinator import RunCoordinator, told
from llmload.loadgen.live import SPAN_S, LiveView
from llmload.metrics.totals import RunTotals
from llmload.report.checks import run_checks, write_junit
from llmload.report.markdown import job_summary, write_page
from llmload.report.terminal import STYLES, console, run_report
from llmload.scenario.load_protocol import Load
from llmload.units import S_PER_MIN

# How far a headless run has come: lines redrawn in place on a terminal, or one line now and then for a log.

PERIOD_S: Final = 0.5
BAR_COLUMNS: Final = 24
AUTO, OFF = "auto", "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Requests/min, output tokens/s and TTFT's 95th percentile of some span; None is not known."""

    requests_per_min: float | None
    output_tokens_per_s: float | None
    ttft_p95_s: float | None

    @property
    def cells(self) -> tuple[str, str, str]:
        """The figures as people read them."""
        return number(self.requests_per_min, 1), number(self.output_tokens_per_s, 1), milliseconds(self.ttft_p95_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where a run stands."""

    scenario: str
    stage: str
    elapsed_s: float
    left_s: float | None
    """How long it will still take; None where nobody knows."""
    left_is_guess: bool
    in_flight: int
    completed: int
    failed: int
    recent: Rates
    """Of the last seconds."""
    so_far: Rates
    """Of the judged window, of the stage's or step's where there are such."""
    level: str | None
    """The verdict so far; None while there is none."""
    checks: tuple[str, ...]
    """Which checks spoil it."""

    @property
    def share(self) -> float | None:
        """How much of the run is over, from 0 to 1; None where its end is not known."""
        whole = None if self.left_s is None else self.elapsed_s + self.left_s
        return self.elapsed_s / whole if whole else None

    @property
    def left(self) -> str:
        """The time left in words."""
        if self.left_s is None:
            return "time left unknown"
        return f"{'about ' if self.left_is_guess else ''}{clock(self.left_s)} left"

    @property
    def verdict(self) -> str:
        """The verdict so far in words."""
        if self.level is None:
            return "no verdict yet"
        return f"{self.level} so far{': ' if self.checks else ''}{', '.join(self.checks)}"


def clock(seconds: float) -> str:
    """Return a length of time as minutes and seconds, with hours where there are any."""
    whole = math.ceil(max(0.0, seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def read_moment(
    coordinator: RunCoordinator,
    totals: RunTotals,
    point: dict[str, Any] | None,
    part_totals: Callable[[str], RunTotals],
) -> Moment:
    """Return where a run stands; `point` is the live view's latest, `part_totals` what a stage or step has come to."""
    left_s, is_guess = _left(coordinator, totals, point)
    verdict = coordinator.verdict(totals) if totals.completed or totals.failed else None
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
        so_far=_so_far(coordinator, totals, part_totals),
        level=None if verdict is None else verdict.level.value,
        checks=() if verdict is None else tuple(reason.check for reason in verdict.reasons),
    )


def _recent(point: dict[str, Any] | None) -> Rates:
    if point is None:
        return Rates(requests_per_min=None, output_tokens_per_s=None, ttft_p95_s=None)
    ttft = point["ttft_s"]
    return Rates(
        requests_per_min=point["requests_per_min"],
        output_tokens_per_s=point["output_tokens_per_s"],
        ttft_p95_s=None if ttft is None else ttft["p95"],
    )


def _so_far(coordinator: RunCoordinator, totals: RunTotals, part_totals: Callable[[str], RunTotals]) -> Rates:
    phase, window_s, phases = totals, coordinator.span.length_s(totals), coordinator.timeline
    if phases is not None:
        phase, window_s = part_totals(name := phases.name_of(phases.index)), phases.measured_s(name)
    return Rates(
        requests_per_min=phase.completed_in_window / window_s * S_PER_MIN if window_s else None,
        output_tokens_per_s=phase.window_tokens / window_s if window_s else None,
        ttft_p95_s=phase.distributions["ttft_s"].quantile(0.95),
    )


def _left(coordinator: RunCoordinator, totals: RunTotals, point: dict[str, Any] | None) -> tuple[float | None, bool]:
    """Return how long the run will still take, and whether that is a guess; a drain is not foreseen."""
    load = coordinator.scenario.load
    if coordinator.stage == "draining":
        return None, True
    ends_s = load.ends_after_s
    by_time_s = None if ends_s is None else max(0.0, ends_s - coordinator.elapsed_s)
    guess_s = coordinator.search.left_s if coordinator.search is not None else _left_by_count(load, totals, point)
    if guess_s is None or (by_time_s is not None and by_time_s <= guess_s):
        return by_time_s, False
    return guess_s, True


def _left_by_count(load: Load, totals: RunTotals, point: dict[str, Any] | None) -> float | None:
    asked = load.ends_after_requests
    per_min = None if point is None else point["requests_per_min"]
    return max(0, asked - totals.ended) / per_min * S_PER_MIN if asked and per_min else None


def plain(moment: Moment) -> str:
    """Return where a run stands in one line, for logs."""
    per_min, tokens_per_s, ttft = moment.recent.cells
    return (
        f"{moment.scenario}: {moment.stage}, {clock(moment.elapsed_s)}, {moment.left}; in flight {moment.in_flight}, "
        f"completed {moment.completed}, failed {moment.failed}; {per_min} requests/min, {tokens_per_s} tok/s, "
        f"TTFT p95 {ttft} ms (last {SPAN_S:g} s); {moment.verdict}"
    )


def drawn(moment: Moment) -> RenderableType:
    """Return where a run stands as a few lines of a terminal."""
    head = Table.grid(padding=(0, 2, 0, 0))
    head.add_row(
        Text(moment.scenario, style="bold"),
        Text(moment.stage, no_wrap=True, overflow="ellipsis"),
        Text(clock(moment.elapsed_s)),
        ProgressBar(total=1.0, completed=moment.share or 0.0, width=BAR_COLUMNS) if moment.share is not None else "",
        Text(moment.left, style="dim"),
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("", "requests/min", "output tok/s", "TTFT p95, ms", "in flight", "completed", "failed"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    failed = Text(str(moment.failed), style="bold red" if moment.failed else "")
    table.add_row(f"last {SPAN_S:g} s", *moment.recent.cells, str(moment.in_flight), str(moment.completed), failed)
    table.add_row("judged so far", *moment.so_far.cells)
    style = "" if moment.level is None else STYLES[moment.level]
    return Group(head, table, Text(moment.verdict, style=style, no_wrap=True, overflow="ellipsis"))


def every_s(text: str) -> float | None:
    """Return the seconds between lines of `--progress`; None for `auto` and `off`; ConfigError for nonsense."""
    if text in (AUTO, OFF):
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"command line: --progress {text}: is neither auto nor off nor a number of seconds above 0")
    return seconds


def show(
    coordinator: RunCoordinator,
    live: LiveView,
    totals: Callable[[], RunTotals],
    phases: Callable[[str], RunTotals],
    how: str,
) -> None:
    """
    Show how the run goes on, on standard error, until killed.

    `auto` redraws lines on a terminal and is quiet elsewhere, `off` is quiet, a number is the seconds between lines.
    """

    def now() -> Moment:
        points = live.points(coordinator.elapsed_s - SPAN_S)
        return read_moment(coordinator, totals(), points[-1] if points else None, phases)

    interval_s = every_s(how)
    if interval_s is not None:
        while True:
            gevent.sleep(interval_s)
            sys.stderr.write(plain(now()) + "\n")
            sys.stderr.flush()
    console = Console(stderr=True, highlight=False)
    if how == AUTO and console.is_terminal and not console.is_dumb_terminal:
        _redraw(console, now)


def _redraw(console: Console, now: Callable[[], Moment]) -> None:
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as display, _logs_above():
        while True:
            gevent.sleep(PERIOD_S)
            display.update(drawn(now()), refresh=True)


@contextmanager
def _logs_above() -> Iterator[None]:
    """Let log lines be written above what is redrawn: handlers keep the stream that Live has put its own before."""
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


def silence_locust_tables() -> None:
    """Keep Locust from printing its tables, whose figures ours replace."""
    logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)


def write_for_ci(coordinator: RunCoordinator, junit: str | None, markdown: str | None) -> None:
    """Write what CI systems read; RunFolderError if a file cannot be written."""
    if coordinator.summary is None:
        return
    if junit is not None:
        write_junit(Path(junit), [(coordinator.scenario.scenario.name, run_checks(coordinator.summary))])
    if markdown is not None:
        write_page(Path(markdown), job_summary(coordinator.summary))


def show_summary(coordinator: RunCoordinator, form: str) -> None:
    """Print the run's summary as tables or JSON, and where its folder lies."""
    summary = coordinator.summary
    if summary is None or form == "none":
        return
    if form == "json":
        sys.stdout.write(orjson.dumps(summary.model_dump(mode="json"), option=orjson.OPT_INDENT_2).decode() + "\n")
        sys.stdout.flush()
        return
    terminal = console()
    terminal.print(run_report(summary))
    terminal.print(f"run folder: {coordinator.folder.path}", soft_wrap=True)


def show_report(coordinator: RunCoordinator, form: str) -> None:
    """Leave the report in the run's folder, and say so beside the tables."""
    if coordinator.summary is None:
        return
    text = told(coordinator)
    if form == "table":
        console().print(text, soft_wrap=True)
