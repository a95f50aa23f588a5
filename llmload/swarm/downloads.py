"""What can be fetched of the run that goes on, or of the last one: its summary, and every request."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final

import gevent
import orjson
from flask import Blueprint, Response, abort, send_file

from llmload.report.run_folder import SUMMARY
from llmload.swarm.steering import Steering

LINKS: Final = [
    {"href": "./llm/download/summary.json", "title": "Download LLM summary (JSON)"},
    {"href": "./llm/download/requests.csv", "title": "Download LLM requests (CSV)"},
    {"href": "./llm/download/requests.jsonl", "title": "Download LLM requests (JSON lines)"},
]
_LINES_AT_A_TIME: Final = 200
_NOT_SINGLE: Final = {"error", "chunk_gaps_ns", "chunk_tokens", "textless_gaps_ns"}


def add(pages: Blueprint, guarded: Callable[..., Any], steering: Callable[[], Steering | None]) -> None:
    """Add the routes to the pages; each answers 404 with a reason while it has nothing to give."""

    def the_run() -> Steering:
        return steering() or abort(404, "no run has been started yet")

    @pages.route("/llm/download/summary.json")
    @guarded
    def llm_summary() -> Response:
        run = the_run()
        if run.summary is None:
            abort(404, "the run goes on; its summary is written when it ends")
        file = (run.folder.path / SUMMARY).absolute()
        return send_file(file, as_attachment=True, download_name=f"{run.run_id}-summary.json", max_age=0)

    @pages.route("/llm/download/requests.jsonl")
    @guarded
    def llm_requests_jsonl() -> Response:
        run = the_run()
        lines = (orjson.dumps(line).decode() + "\n" for line in run.folder.requests())
        return _attachment(lines, f"{run.run_id}-requests.jsonl", "application/jsonl")

    @pages.route("/llm/download/requests.csv")
    @guarded
    def llm_requests_csv() -> Response:
        run = the_run()
        return _attachment(csv_lines(run.folder.requests()), f"{run.run_id}-requests.csv", "text/csv")

    @pages.errorhandler(404)
    def llm_nothing(error: Any) -> Response:
        return Response(f"{error.description}\n", status=404, mimetype="text/plain")


def csv_lines(requests: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield the requests as CSV, the error in columns of its own, what has no single value left out."""
    text = io.StringIO()
    writer: Any = csv.writer(text)
    columns: list[str] | None = None
    for each in requests:
        flat = _flat(each)
        if columns is None:
            columns = list(flat)
            writer.writerow(columns)
        writer.writerow([flat.get(column) for column in columns])
        yield text.getvalue()
        text.seek(0)
        text.truncate()


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    error = request.get("error") or {}
    single = {key: value for key, value in request.items() if key not in _NOT_SINGLE}
    return single | {f"error_{key}": error.get(key) for key in ("type", "message", "http_status", "retry_after_s")}


def _attachment(lines: Iterator[str], name: str, mimetype: str) -> Response:
    def pieces() -> Iterator[str]:
        while piece := "".join(islice(lines, _LINES_AT_A_TIME)):
            yield piece
            gevent.sleep()  # a long download must not hold up what this process measures

    return Response(pieces(), mimetype=mimetype, headers={"Content-Disposition": f'attachment; filename="{name}"'})
