"""What monitors a run: its state for the exporter, and the exporter's place in the process that steers."""

from locust.runners import STATE_MISSING, MasterRunner
from locust.web import WebUI

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from flask import Blueprint, Response, request

from llmload.errors import ConfigError
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.workers import PER_CENT
from llmload.metrics.totals import RunTotals
from llmload.prometheus.families import Snapshot
from llmload.prometheus.server import PATH, MetricsServer, wsgi_app
from llmload.scenario import Scenario

logger = logging.getLogger(__name__)


class MetricsSource(Protocol):
    """The run that goes on, or the last one."""

    @property
    def coordinator(self) -> RunCoordinator | None:
        """What is kept of it; None before the first."""

    def totals(self) -> RunTotals:
        """What it has come to so far."""


class MetricsEndpoint:
    """Serves the series of one process's runs, on a port of its own and as a page of the web UI."""

    def __init__(self, run: MetricsSource, runner: Any, scenario: Scenario) -> None:
        self._run, self._runner, self._scenario = run, runner, scenario
        self._app = wsgi_app(self.snapshot)
        self._server: MetricsServer | None = None

    def serve(self, host: str, port: str) -> None:
        """Listen, unless the port is `off` or 0; ConfigError for no port, a warning for a port that is taken."""
        number = port_number(port)
        if number is None:
            return
        try:
            self._server = MetricsServer(self._app, host, number, ended=self._ended)
        except OSError as error:
            logger.warning(
                "metrics are not served: %s:%s %s; --metrics-port takes another", host, number, error.strerror or error
            )

    def add_page(self, web_ui: WebUI) -> None:
        """Add `/metrics` to the web UI, behind its login where it has one."""
        if web_ui.app is None:
            raise RuntimeError("the metrics page needs Locust's Flask application")
        guarded: Callable[..., Any] = web_ui.auth_required_if_enabled
        page = Blueprint("llmload_metrics", __name__, url_prefix=web_ui.app.blueprints["locust"].url_prefix)

        @page.route(PATH)
        @guarded
        def llmload_metrics() -> Any:
            return Response.from_app(self._app, request.environ, buffered=True)

        web_ui.app.register_blueprint(page)

    def linger(self, at_most_s: float) -> None:
        """After a headless run, keep serving until Prometheus has seen its end or the time is over."""
        if self._server is None or at_most_s <= 0:
            return
        try:
            if not self._server.linger(at_most_s):
                logger.warning("no scrape came in the %g s after the run: its last figures were not seen", at_most_s)
        except KeyboardInterrupt:  # the run is over; whoever does not want to wait need not
            return

    def _ended(self) -> bool:
        return self._run.coordinator is not None and self._run.coordinator.summary is not None

    def snapshot(self) -> Snapshot:
        """Return where the run stands."""
        coordinator, runner = self._run.coordinator, self._runner
        scenario = self._scenario if coordinator is None else coordinator.scenario
        totals = self._run.totals()
        judged = coordinator is not None and totals.ended > 0
        return Snapshot(
            labels={
                "engine": scenario.engine.display_name,
                "model": scenario.model.name,
                "scenario": scenario.scenario.name,
            },
            totals=totals,
            slo=scenario.slo_limits(),
            info=None if coordinator is None else info_of(coordinator),
            running=coordinator is not None and coordinator.summary is None,
            started_unix_s=None if coordinator is None else coordinator.started_unix_s,
            ended_unix_s=None if coordinator is None else coordinator.ended_unix_s,
            users={"running": runner.user_count, "target": runner.target_user_count},
            workers=_workers(runner),
            cpu_ratio=_cpu_ratio(runner),
            memory_estimate_bytes=(None if coordinator is None else coordinator.memory_estimate) or {},
            level=coordinator.verdict(totals).level if coordinator is not None and judged else None,
        )


def port_number(text: str) -> int | None:
    """Return the port that an option names, None for `off` and 0; ConfigError for anything else."""
    if text.strip().lower() in {"off", "0", ""}:
        return None
    if not text.isdigit() or int(text) > 65_535:
        raise ConfigError(f"command line: --metrics-port {text}: is no port; 1 to 65535, or off")
    return int(text)


def info_of(coordinator: RunCoordinator) -> dict[str, str]:
    """Return what is measured, as labels; what is not known is empty."""
    scenario, deployment = coordinator.scenario, coordinator.scenario.deployment
    known = {
        "run_id": coordinator.run_id,
        "scenario": scenario.scenario.name,
        "engine": scenario.engine.display_name,
        "engine_version": coordinator.engine_version,
        "model": scenario.model.name,
        "gpus": deployment.gpus,
        "tensor_parallel": deployment.tensor_parallel,
        "precision": deployment.precision,
    }
    return {name: "" if value is None else str(value) for name, value in known.items()}


def _workers(runner: Any) -> dict[str, int]:
    return Counter(client.state for client in runner.clients.all) if isinstance(runner, MasterRunner) else {}


def _cpu_ratio(runner: Any) -> dict[str, float]:
    if not isinstance(runner, MasterRunner):
        return {"local": runner.current_cpu_usage / PER_CENT}
    present = sorted((client.id, client.cpu_usage) for client in runner.clients.all if client.state != STATE_MISSING)
    workers = {str(index): usage / PER_CENT for index, (_, usage) in enumerate(present)}
    return {"master": runner.current_cpu_usage / PER_CENT, **workers}
