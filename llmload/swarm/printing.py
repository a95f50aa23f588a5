"""What a headless run shows: one line that moves while it goes on, tables at its end."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
import orjson

from llmload.measure.totals import RunTotals
from llmload.report.gates import run_checks
from llmload.report.job_summary import job_summary, write_page
from llmload.report.junit import write_junit
from llmload.report.tables import console, number, run_report
from llmload.scenario.loads import Staged
from llmload.swarm.steering import Steering

PERIOD_S: Final = 0.5
CLEAR_LINE: Final = "\r\x1b[2K"


def show_progress(steering: Steering, totals: Callable[[], RunTotals]) -> None:
    """Rewrite one line on a terminal until killed; say nothing where there is none."""
    if not sys.stderr.isatty():
        return
    try:
        while True:
            gevent.sleep(PERIOD_S)
            sys.stderr.write(CLEAR_LINE + _line(steering, totals()))
            sys.stderr.flush()
    finally:
        sys.stderr.write(CLEAR_LINE)
        sys.stderr.flush()


def _line(steering: Steering, totals: RunTotals) -> str:
    window_s = steering.span.length_s(totals)
    per_min = totals.completed_in_window / window_s * 60 if window_s else None
    tokens_per_s = totals.window_tokens / window_s if window_s else None
    load = steering.scenario.load
    ends = f"/{load.duration_s:g}" if load.duration_s else ""
    asked = None if isinstance(load, Staged) else load.requests
    of = f"/{asked}" if asked else ""
    return (
        f"{steering.elapsed_s:.0f}{ends} s  in flight {totals.in_flight}  completed {totals.completed}{of}  "
        f"failed {totals.failed}  {number(per_min, 1)} requests/min  {number(tokens_per_s, 1)} tok/s"
    )


def silence_locust_tables() -> None:
    """Keep Locust from printing its tables, whose figures ours replace."""
    logging.getLogger("locust.stats_logger").setLevel(logging.WARNING)


def write_for_ci(steering: Steering, junit: str | None, markdown: str | None) -> None:
    """Write what CI systems read; RunFolderError if a file cannot be written."""
    if steering.summary is None:
        return
    if junit is not None:
        write_junit(Path(junit), [(steering.scenario.scenario.name, run_checks(steering.summary))])
    if markdown is not None:
        write_page(Path(markdown), job_summary(steering.summary))


def show_summary(steering: Steering, form: str) -> None:
    """Print the run's summary as tables or JSON, and where its folder lies."""
    summary: dict[str, Any] | None = steering.summary
    if summary is None or form == "none":
        return
    if form == "json":
        sys.stdout.write(orjson.dumps(summary, option=orjson.OPT_INDENT_2).decode() + "\n")
        sys.stdout.flush()
        return
    terminal = console()
    terminal.print(run_report(summary))
    terminal.print(f"run folder: {steering.folder.path}", soft_wrap=True)
