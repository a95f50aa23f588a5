"""llmload in Locust's web UI: a tab with the live table, a page of live charts, downloads, and a form that answers."""

from locust.runners import STATE_CLEANUP, STATE_INIT, STATE_RUNNING, STATE_STOPPED, STATE_STOPPING
from locust.util.timespan import parse_timespan
from locust.web import WebUI

import argparse
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
from flask import Blueprint, Response, request, send_from_directory

from llmload.errors import LlmloadError
from llmload.loadgen import live as live_table
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.live import LiveView
from llmload.loadgen.options import refuse_changes
from llmload.loadgen.preparation import Preparation
from llmload.loadgen.web import downloads
from llmload.loadgen.web import login as web_login
from llmload.report.html.assets import PAGE, SHARED, UPLOT

ASSETS: Final = Path(__file__).with_name("assets")
TAB: Final = "llm"
CHARTS: Final = "llmload-charts"
"""The element that Locust puts into the second tab, and that `web/tab.js` fills."""
_OWN_PAGE: Final = {"Content-Security-Policy": "default-src 'self'; frame-ancestors 'self'"}


class RunView(Protocol):
    """What is looked at: the run that goes on, or the last one; both are None before the first."""

    live: LiveView | None

    @property
    def coordinator(self) -> RunCoordinator | None:
        """What is kept of the run."""


def install(web_ui: WebUI, run: RunView, preparation: Preparation) -> None:
    """Add llmload's tabs, pages, downloads and checks to a web UI that does not serve yet."""
    if web_ui.app is None:
        raise RuntimeError("llmload's pages need Locust's Flask application")
    base: str | None = web_ui.app.blueprints["locust"].url_prefix
    pages = Blueprint("llmload", __name__, url_prefix=base)
    guarded: Callable[..., Any] = web_ui.auth_required_if_enabled
    _add_pages(pages, guarded, run)
    downloads.add(pages, guarded, lambda: run.coordinator)
    if web_ui.web_login:
        web_login.install(web_ui, pages)
    web_ui.app.register_blueprint(pages)
    web_ui.app.before_request(_form_check(web_ui, guarded, preparation, run))
    web_ui.app.after_request(Additions(run))
    _show_current_options(web_ui)
    web_ui.template_args |= {
        "extended_tabs": [{"title": "LLM", "key": TAB}, {"title": "LLM charts", "key": CHARTS, "component": CHARTS}],
        "extended_tables": [{"key": TAB, "structure": live_table.COLUMNS}],
        "extended_csv_files": downloads.LINKS,
    }


def _show_current_options(web_ui: WebUI) -> None:
    """Let a page that is opened anew show each option as it is now: an edit sends all fields back as it shows them."""
    environment: Any = web_ui.environment
    by_locust: Callable[[], None] = web_ui.update_template_args

    def update_template_args() -> None:
        by_locust()
        for name, option in web_ui.template_args["extra_options"].items():
            option["default_value"] = getattr(environment.parsed_options, name, option["default_value"])

    web_ui.update_template_args = update_template_args  # type: ignore[method-assign]  # Locust has no hook for it


def snapshot(run: RunView) -> dict[str, Any]:
    """Return where the run stands; its `stage` is None before the first run, its `verdict` until there is one."""
    if run.live is None or run.coordinator is None:
        return {"run_id": None, "stage": None}
    state = run.live.state()
    if state["stage"] != "ended" and not state["completed"] and not state["failed"]:
        state["verdict"] = None  # nothing can have been measured yet, which is no fault
    return state


def _add_pages(pages: Blueprint, guarded: Callable[..., Any], run: RunView) -> None:
    @pages.route("/llm")
    @guarded
    def llm_page() -> Response:
        page = send_from_directory(ASSETS, "llm.html")
        page.headers.update(_OWN_PAGE)
        return page

    @pages.route("/llm/assets/<path:name>")
    @guarded
    def llm_asset(name: str) -> Response:
        return send_from_directory(PAGE if name in SHARED else ASSETS, name)

    @pages.route("/llm/assets/uplot/<path:name>")
    @guarded
    def llm_uplot(name: str) -> Response:
        return send_from_directory(UPLOT, name)

    @pages.route("/llm/state")
    @guarded
    def llm_state() -> Response:
        return _json(snapshot(run))

    @pages.route("/llm/points")
    @guarded
    def llm_points() -> Response:
        after_s = request.args.get("after", default=-1.0, type=float)
        if run.live is None or run.coordinator is None:
            return _json({"run_id": None, "points": []})
        return _json({"run_id": run.coordinator.run_id, "points": run.live.points(after_s)})


def _json(content: object) -> Response:
    return Response(orjson.dumps(content), mimetype="application/json", headers={"Cache-Control": "no-store"})


class Additions:
    """Adds to what Locust answers: our rows to its figures, our script to its page."""

    def __init__(self, run: RunView) -> None:
        self._run = run

    def __call__(self, response: Response) -> Response:
        """Return the response with what belongs to it."""
        if response.status_code != 200:
            return response
        if request.endpoint == "locust.request_stats" and response.is_json:
            response.set_data(orjson.dumps(self._stats(response.get_json())))
        elif request.endpoint == "locust.index":
            script = '<script type="module" src="./llm/assets/tab.js"></script></body>'
            response.set_data(response.get_data(as_text=True).replace("</body>", script, 1))
        return response

    def _stats(self, stats: dict[str, Any]) -> dict[str, Any]:
        state = snapshot(self._run)
        if state["stage"] not in (None, "ended") and stats["state"] in (STATE_CLEANUP, STATE_STOPPING, STATE_STOPPED):
            stats["state"] = STATE_RUNNING  # at any other, Locust's page asks no more and keeps the drain's figures
        stats["extended_stats"] = [{"key": TAB, "data": live_table.rows(state, self._fresh_point(state))}]
        return stats

    def _fresh_point(self, state: dict[str, Any]) -> dict[str, Any] | None:
        if self._run.live is None or state["stage"] in (None, "ended"):
            return None
        points = self._run.live.points(state["elapsed_s"] - live_table.FRESH_S)
        return points[-1] if points else None


def _form_check(
    web_ui: WebUI, guarded: Callable[..., Any], preparation: Preparation, run: RunView
) -> Callable[[], Any]:
    """Refuse a start form that describes no possible run, so that the form itself says why."""
    environment: Any = web_ui.environment

    @guarded
    def refusal() -> Response | None:
        try:
            asked = as_options(request.form, environment.parsed_options)
        except ValueError:
            return None  # Locust has an answer of its own to what is no number
        try:
            scenario = preparation.scenario(asked)
            if environment.runner.state in (STATE_INIT, STATE_STOPPED):
                preparation.meet_engine(scenario)
            elif run.coordinator is not None:
                refuse_changes(run.coordinator.scenario, scenario)
        except LlmloadError as error:
            message = str(error).removeprefix("command line: ")  # the form is another place to write the same
            return _json({"success": False, "message": message, "host": environment.host})
        return None

    return lambda: refusal() if request.endpoint == "locust.swarm" else None


def as_options(form: Mapping[str, str], parsed: argparse.Namespace) -> argparse.Namespace:
    """Return the options as Locust will have them once it takes the form; ValueError for what is no number."""
    asked = copy.copy(parsed)
    for name, text in form.items():
        if name == "user_count":
            asked.num_users = int(text)
        elif name == "run_time":
            asked.run_time = parse_timespan(text) if text else asked.run_time
        elif isinstance(getattr(parsed, name, None), str):
            setattr(asked, name, text)
    return asked
