"""The report that a run leaves in its folder without being asked, where that is quick."""

import logging
from pathlib import Path
from typing import Final

import gevent

from llmload.errors import RunFolderError
from llmload.report.digest import request_bytes
from llmload.report.html import write_html
from llmload.report.run_folder import REPORT
from llmload.swarm.steering import Steering

QUICK_BYTES: Final = 64_000_000
"""About 70,000 requests with 32 chunks each: some two seconds of work. More is for whoever asks."""
logger = logging.getLogger(__name__)


def report_of(steering: Steering) -> Path | None:
    """Return the report of a run that has ended, written now if need be; None where that takes long or cannot be."""
    page = steering.folder.path / REPORT
    if page.is_file():
        return page
    if request_bytes(steering.folder) > QUICK_BYTES:
        return None
    try:
        write_html(page, [steering.folder], lambda _: gevent.sleep())  # workers and the web UI go on meanwhile
    except RunFolderError as error:
        logger.warning("no %s: %s", REPORT, error)
        return None
    return page


def told(steering: Steering) -> str:
    """Return in a line where the report of a run that has ended lies, or what writes one."""
    page = report_of(steering)
    if page is not None:
        return f"report: {page}"
    return f"report: not written by itself for a run of this length: llmload report {steering.folder.path} --html"
