"""llmload in Locust's web UI: a tab, a page of live charts, downloads, and what guards them."""

from locust.web import WebUI

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import gevent
import orjson
from flask import Blueprint, Response, abort, g, request, send_file, send_from_directory

from llmload.loadgen import locust_compat
from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.live import LivePoints, LiveState
from llmload.loadgen.options import form_labels, prompts_of_form
from llmload.loadgen.terminal import report_line, write_report
from llmload.loadgen.web.forms import FormChecks, guarded
from llmload.loadgen.web.guard import AllowedHosts, OriginGuard
from llmload.loadgen.web.login import install_login
from llmload.loadgen.web.policy import OWN_PAGE, add_policy
from llmload.report.html.assets import PAGE, SHARED, UPLOT
from llmload.runs.folder import SUMMARY
from llmload.runs.requests import csv_lines

# What the web UI offers of the current or last run: its summary, its report, and every request.

LINKS: Final = [
    {"href": "./llm/download/report.html", "title": "LLM report (HTML)"},
    {"href": "./llm/download/summary.json", "title": "Download LLM summary (JSON)"},
    {"href": "./llm/download/requests.csv", "title": "Download LLM requests (CSV)"},
    {"href": "./llm/download/requests.jsonl", "title": "Download LLM requests (JSON lines)"},
]
_LINES_PER_PIECE: Final = 200


def add_downloads(
    pages: Blueprint, guard: Callable[..., Any], coordinator: Callable[[], RunCoordinator | None]
) -> None:
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


ASSETS: Final = Path(__file__).with_name("assets")
TAB: Final = "llm"
PAGE_IN_TAB: Final = "llmload-page"
"""The element that Locust puts into the tab, and that `assets/tab.js` fills with the page `/llm`."""
MAX_FORM_BYTES: Final = 1 << 20
LINKED: Final = ("/", "/login", "/llm")
"""The pages that a link on a page of another origin may open."""


def install(web_ui: WebUI, node: CoordinatingNode) -> None:
    """Add llmload's tabs, pages, downloads and checks to a web UI that does not serve yet."""
    app, guard = locust_compat.app_of(web_ui), locust_compat.guard_of(web_ui)
    base = locust_compat.base_path(web_ui)
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_CONTENT_LENGTH"] or MAX_FORM_BYTES
    hosts = AllowedHosts(web_ui.host, node.options.web_allowed_hosts)
    linked = frozenset(f"{base or ''}{path}" for path in LINKED)
    app.wsgi_app = OriginGuard(app.wsgi_app, hosts, linked)  # type: ignore[method-assign] # Flask's own way to wrap it
    pages = Blueprint("llmload", __name__, url_prefix=base)
    _add_pages(pages, guard)
    _add_data(pages, guard, node)
    add_downloads(pages, guard, lambda: node.coordinator)
    if web_ui.web_login:
        install_login(web_ui, pages)
    app.register_blueprint(pages)
    limit = _TimeLimit(web_ui, node)
    app.before_request(limit.note)
    app.before_request(guarded(guard, FormChecks(node, locust_compat.form_options(web_ui))))
    app.before_request(_stop_note(guard, node))
    app.after_request(limit.restore)
    app.after_request(add_policy)  # called after the additions
    app.after_request(_Additions(node))
    locust_compat.arrange_form(web_ui, form_labels(), {"prompts": prompts_of_form(node.scenario, node.options)})
    locust_compat.add_to_page(web_ui, tabs=[{"title": "LLM", "key": TAB, "component": PAGE_IN_TAB}], links=LINKS)


def _add_pages(pages: Blueprint, guard: Callable[..., Any]) -> None:
    @pages.route("/llm")
    @guard
    def llm_page() -> Response:
        page = send_from_directory(ASSETS, "llm.html")
        page.headers["Content-Security-Policy"] = OWN_PAGE
        return page

    @pages.route("/llm/assets/<path:name>")
    @guard
    def llm_asset(name: str) -> Response:
        return send_from_directory(PAGE if name in SHARED else ASSETS, name)

    @pages.route("/llm/assets/uplot/<path:name>")
    @guard
    def llm_uplot(name: str) -> Response:
        return send_from_directory(UPLOT, name)


def _add_data(pages: Blueprint, guard: Callable[..., Any], node: CoordinatingNode) -> None:
    @pages.route("/llm/state")
    @guard
    def llm_state() -> Response:
        state = _state_of(node)
        return _json('{"run_id":null,"stage":null}' if state is None else state.model_dump_json())

    @pages.route("/llm/points")
    @guard
    def llm_points() -> Response:
        after_s = request.args.get("after", default=-1.0, type=float)
        if node.live is None or node.coordinator is None:
            return _json('{"run_id":null,"points":[]}')
        points = LivePoints(run_id=node.coordinator.run_id, points=node.live.points(after_s))
        return _json(points.model_dump_json())

    @pages.route("/llm/options")
    @guard
    def llm_options() -> Response:
        options = node.options
        fields = {"user_count": options.num_users, "spawn_rate": options.spawn_rate, "rate": options.rate}
        return _json(orjson.dumps(fields))


def _json(content: str | bytes) -> Response:
    return Response(content, mimetype="application/json", headers={"Cache-Control": "no-store"})


def _state_of(node: CoordinatingNode) -> LiveState | None:
    """Return the state of the current or last run; None before the first."""
    return None if node.live is None or node.coordinator is None else node.live.state()


class _Additions:
    """Changes Locust's responses: its page gets our script, and polls until the drain is over."""

    def __init__(self, node: CoordinatingNode) -> None:
        self._node = node

    def __call__(self, response: Response) -> Response:
        if response.status_code != 200:
            return response
        if request.endpoint == locust_compat.STATS and response.is_json:
            state = _state_of(self._node)
            if state is not None and state.stage != "ended":
                figures = response.get_json()
                locust_compat.keep_polling(figures)
                response.set_data(orjson.dumps(figures))
        elif request.endpoint == locust_compat.INDEX:
            page = response.get_data(as_text=True)
            response.set_data(locust_compat.add_script(page, "./llm/assets/tab.js"))
        return response


def _stop_note(guard: Callable[..., Any], node: CoordinatingNode) -> Callable[[], Any]:
    """Return what notes that the stop button ends a run, before it does."""

    @guard
    def note() -> None:
        node.note_stop("the stop button")

    return lambda: note() if request.endpoint == locust_compat.STOP else None


class _TimeLimit:
    """
    Keeps a run's time limit over an edit, and gives one to a run whose start form names none: the scenario's.

    Locust drops the limit at each edit, for its form for edits has no such field.
    """

    def __init__(self, web_ui: WebUI, node: CoordinatingNode) -> None:
        self._web_ui, self._node = web_ui, node

    def note(self) -> None:
        """Note what a start form finds: the run that it edits, and its time limit."""
        if request.endpoint == locust_compat.START:
            g.llmload_run, g.llmload_limit_s = self._node.edits.running, self._node.options.run_time
            g.llmload_timed = locust_compat.has_time_limit(self._web_ui)

    def restore(self, response: Response) -> Response:
        """Set the limit again once Locust has taken the form, or refused it."""
        if request.endpoint != locust_compat.START or not response.is_json:
            return response
        run, limit_s = g.llmload_run, self._node.options.run_time
        if run is None:
            if limit_s and response.get_json()["success"] and self._node.environment.shape_class is None:
                locust_compat.stop_after(self._web_ui, limit_s)
        elif limit_s and limit_s != g.llmload_limit_s:
            self._node.edits.note_time(limit_s)
            locust_compat.stop_after(self._web_ui, limit_s)
        elif g.llmload_timed and run.ends_s is not None:
            locust_compat.stop_after(self._web_ui, run.span.left_s(run.ends_s))
        return response
