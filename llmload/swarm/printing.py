"""What a headless run shows at its end: tables or JSON, and files for CI systems."""

import logging
import sys
from pathlib import Path
from typing import Any

import orjson

from llmload.report.gates import run_checks
from llmload.report.job_summary import job_summary, write_page
from llmload.report.junit import write_junit
from llmload.report.tables import console, run_report
from llmload.swarm.report_page import told
from llmload.swarm.steering import Steering


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


def show_report(steering: Steering, form: str) -> None:
    """Leave the report in the run's folder, and say so beside the tables."""
    if steering.summary is None:
        return
    text = told(steering)
    if form == "table":
        console().print(text, soft_wrap=True)
