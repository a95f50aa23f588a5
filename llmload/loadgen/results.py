"""What a run shows when it ends: tables or JSON, its report, and files for CI systems."""

import logging
import sys
from pathlib import Path
from typing import Final

import gevent
import orjson

from llmload.errors import RunFolderError
from llmload.loadgen.coordinator import RunCoordinator
from llmload.report.checks import run_checks, write_junit
from llmload.report.html.page import write_html
from llmload.report.markdown import job_summary, write_page
from llmload.report.terminal import console, run_report
from llmload.runs.folder import REPORT
from llmload.runs.loaded_run import request_bytes

QUICK_BYTES: Final = 64_000_000
"""About 70,000 requests with 32 chunks each: some two seconds of work. A longer report is made by `llmload report`."""

logger = logging.getLogger(__name__)


def show_summary(coordinator: RunCoordinator, form: str) -> None:
    """Print the run's summary as `table` or `json`, and where its folder is; nothing for `none`."""
    if coordinator.summary is None or form == "none":
        return
    if form == "json":
        sys.stdout.write(
            orjson.dumps(coordinator.summary.model_dump(mode="json"), option=orjson.OPT_INDENT_2).decode() + "\n"
        )
        sys.stdout.flush()
        return
    terminal = console()
    terminal.print(run_report(coordinator.summary))
    terminal.print(f"run folder: {coordinator.folder.path}", soft_wrap=True)


def show_report(coordinator: RunCoordinator, form: str) -> None:
    """Write the report into the run's folder if that is quick, and say so below the tables."""
    if coordinator.summary is not None:
        text = report_line(coordinator)
        if form == "table":
            console().print(text, soft_wrap=True)


def report_line(coordinator: RunCoordinator) -> str:
    """Return where the report of a run that has ended is, or the command that writes it."""
    page = write_report(coordinator)
    if page is not None:
        return f"report: {page}"
    return f"report: not written by itself for a run of this length: llmload report {coordinator.folder.path} --html"


def write_report(coordinator: RunCoordinator) -> Path | None:
    """Return the report of a run that has ended, written now if need be; None if that takes long or fails."""
    page = coordinator.folder.path / REPORT
    if page.is_file():
        return page
    if request_bytes(coordinator.folder) > QUICK_BYTES:
        return None
    try:
        write_html(page, [coordinator.folder], lambda _: gevent.sleep())  # lets workers and the web UI work meanwhile
    except RunFolderError as error:
        logger.warning("no %s: %s", REPORT, error)
        return None
    return page


def write_for_ci(coordinator: RunCoordinator, junit: str | None, markdown: str | None) -> None:
    """Write JUnit XML and Markdown to the given files; RunFolderError if one cannot be written."""
    if coordinator.summary is None:
        return
    if junit is not None:
        write_junit(Path(junit), [(coordinator.scenario.scenario.name, run_checks(coordinator.summary))])
    if markdown is not None:
        write_page(Path(markdown), job_summary(coordinator.summary))
