"""What the web UI offers of the current or last run: its summary, its report, and every request."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import gevent
import orjson
from flask import Blueprint, Response, abort, send_file

from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.results import report_line, write_report
from llmload.runs.export import csv_lines
from llmload.runs.folder import SUMMARY

LINKS: Final = [
    {"href": "./llm/download/report.html", "title": "LLM report (HTML)"},
    {"href": "./llm/download/summary.json", "title": "Download LLM summary (JSON)"},
    {"href": "./llm/download/requests.csv", "title": "Download LLM requests (CSV)"},
    {"href": "./llm/download/requests.jsonl", "title": "Download LLM requests (JSON lines)"},
]
_LINES_PER_PIECE: Final = 200


def add(pages: Blueprint, guard: Callable[..., Any], coordinator: Callable[[], RunCoordinator | None]) -> None:
    """Add the routes to the pages; each answers 404 with a reason while it has nothing to give."""

    def the_run() -> RunCoordinator:
        return coordinator() or abort(404, "no run has been started yet")

    @pages.route("/llm/download/summary.json")
    @guard
    def llm_summary() -> Response:
        run = the_run()
        if run.summary is None:
            abort(404, "the run has not ended; its summary is written at the end")
        file = (run.folder.path / SUMMARY).absolute()
        return send_file(file, as_attachment=True, download_name=f"{run.run_id}-summary.json", max_age=0)

    @pages.route("/llm/download/report.html")
    @guard
    def llm_report() -> Response:
        run = the_run()
        if run.summary is None:
            abort(404, "the run has not ended; its report is written at the end")
        page = write_report(run) or abort(404, report_line(run))
        return send_file(page.absolute(), download_name=f"{run.run_id}.html", max_age=0)

    @pages.route("/llm/download/requests.jsonl")
    @guard
    def llm_requests_jsonl() -> Response:
        run = the_run()
        lines = (orjson.dumps(line).decode() + "\n" for line in run.folder.requests())
        return _attachment(lines, f"{run.run_id}-requests.jsonl", "application/jsonl")

    @pages.route("/llm/download/requests.csv")
    @guard
    def llm_requests_csv() -> Response:
        run = the_run()
        return _attachment(csv_lines(run.folder.requests(), run.run_id), f"{run.run_id}-requests.csv", "text/csv")

    @pages.errorhandler(404)
    def llm_nothing(error: Any) -> Response:
        return Response(f"{error.description}\n", status=404, mimetype="text/plain")


def _attachment(lines: Iterator[str], name: str, mimetype: str) -> Response:
    def pieces() -> Iterator[str]:
        while piece := "".join(islice(lines, _LINES_PER_PIECE)):
            yield piece
            gevent.sleep()  # a long download must not delay what this process measures

    return Response(pieces(), mimetype=mimetype, headers={"Content-Disposition": f'attachment; filename="{name}"'})
