"""llmload in Locust's web UI: a tab with the live table, a page of live charts, downloads, and a checked start form."""

from locust.util.timespan import parse_timespan
from locust.web import WebUI

import argparse
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from flask import Blueprint, Response, request, send_from_directory

from llmload.errors import LlmloadError
from llmload.loadgen import live, locust_compat
from llmload.loadgen.coordinating import CoordinatingNode
from llmload.loadgen.live import LivePoints, LiveState
from llmload.loadgen.options import refuse_changes
from llmload.loadgen.web import downloads, login
from llmload.report.html.assets import PAGE, SHARED, UPLOT

ASSETS: Final = Path(__file__).with_name("assets")
TAB: Final = "llm"
CHARTS: Final = "llmload-charts"
"""The element that Locust puts into the second tab, and that `assets/tab.js` fills."""
_OWN_PAGE: Final = {"Content-Security-Policy": "default-src 'self'; frame-ancestors 'self'"}


def install(web_ui: WebUI, node: CoordinatingNode) -> None:
    """Add llmload's tabs, pages, downloads and checks to a web UI that does not serve yet."""
    app, guard = locust_compat.app_of(web_ui), locust_compat.guard_of(web_ui)
    pages = Blueprint("llmload", __name__, url_prefix=locust_compat.base_path(web_ui))
    _add_pages(pages, guard)
    _add_data(pages, guard, node)
    downloads.add(pages, guard, lambda: node.coordinator)
    if web_ui.web_login:
        login.install(web_ui, pages)
    app.register_blueprint(pages)
    app.before_request(_form_check(guard, node))
    app.after_request(_Additions(node))
    locust_compat.show_current_options(web_ui)
    locust_compat.add_to_page(
        web_ui,
        tabs=[{"title": "LLM", "key": TAB}, {"title": "LLM charts", "key": CHARTS, "component": CHARTS}],
        tables=[{"key": TAB, "structure": live.COLUMNS}],
        links=downloads.LINKS,
    )


def _add_pages(pages: Blueprint, guard: Callable[..., Any]) -> None:
    @pages.route("/llm")
    @guard
    def llm_page() -> Response:
        page = send_from_directory(ASSETS, "llm.html")
        page.headers.update(_OWN_PAGE)
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


def _json(content: str | bytes) -> Response:
    return Response(content, mimetype="application/json", headers={"Cache-Control": "no-store"})


def _state_of(node: CoordinatingNode) -> LiveState | None:
    """Return the state of the current or last run; None before the first."""
    return None if node.live is None or node.coordinator is None else node.live.state()


class _Additions:
    """Adds to Locust's responses: our rows to its figures, our script to its page."""

    def __init__(self, node: CoordinatingNode) -> None:
        self._node = node

    def __call__(self, response: Response) -> Response:
        if response.status_code != 200:
            return response
        if request.endpoint == locust_compat.STATS and response.is_json:
            figures = response.get_json()
            self._extend(figures)
            response.set_data(orjson.dumps(figures))
        elif request.endpoint == locust_compat.INDEX:
            page = response.get_data(as_text=True)
            response.set_data(locust_compat.add_script(page, "./llm/assets/tab.js"))
        return response

    def _extend(self, figures: dict[str, Any]) -> None:
        state = _state_of(self._node)
        running = state is not None and state.stage != "ended"
        point = self._node.live.latest_point(live.FRESH_S) if running and self._node.live is not None else None
        locust_compat.extend_stats(figures, TAB, live.rows(state, point), running=running)


def _form_check(guard: Callable[..., Any], node: CoordinatingNode) -> Callable[[], Any]:
    """Return the check that answers a start form that cannot be run, so that the form itself says why."""

    @guard
    def refusal() -> Response | None:
        try:
            asked = as_options(request.form, node.options)
        except ValueError:
            return None  # Locust itself answers to a number that does not parse
        try:
            _check_form(node, asked)
        except LlmloadError as error:
            message = str(error).removeprefix("command line: ")  # a form's fields are the same options
            answer = {"success": False, "message": message, "host": node.environment.host}
            return _json(orjson.dumps(answer))
        return None

    return lambda: refusal() if request.endpoint == locust_compat.START else None


def _check_form(node: CoordinatingNode, asked: argparse.Namespace) -> None:
    scenario = node.preparation.scenario(asked)
    if not locust_compat.has_a_run(node.runner):
        node.preparation.meet_engine(scenario)
    elif node.coordinator is not None:
        refuse_changes(node.coordinator.scenario, scenario)


def as_options(form: Mapping[str, str], parsed: argparse.Namespace) -> argparse.Namespace:
    """Return the options as Locust will have them once it takes the form; ValueError for a number that is none."""
    asked = copy.copy(parsed)
    for name, text in form.items():
        if name == "user_count":
            asked.num_users = int(text)
        elif name == "run_time":
            asked.run_time = parse_timespan(text) if text else asked.run_time
        elif isinstance(getattr(parsed, name, None), str):
            setattr(asked, name, text)
    return asked
