"""The metrics of a run for Prometheus: on their own port, and as a page of the web UI."""

from locust.web import WebUI

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from flask import Blueprint, Response, request

from llmload.loadgen import locust_compat
from llmload.loadgen.coordinator import RunCoordinator
from llmload.loadgen.locust_compat import PER_CENT, Runner
from llmload.loadgen.ports import metrics_port
from llmload.loadgen.web.guard import AllowedHosts, OriginGuard
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Verdict
from llmload.prometheus.export import PATH, MetricsServer, wsgi_app
from llmload.prometheus.families import Snapshot
from llmload.scenario import Scenario

logger = logging.getLogger(__name__)


class MetricsSource(Protocol):
    """The node whose runs are exported."""

    runner: Runner

    @property
    def coordinator(self) -> RunCoordinator | None:
        """Of the current or last run; None before the first."""

    def totals(self) -> RunTotals:
        """Return the totals of the run so far."""

    def stages(self) -> dict[str, RunTotals]:
        """Return the totals of each stage, step or phase so far."""

    def names(self) -> Mapping[str, RunTotals]:
        """Return the totals of each name so far, where requests have names."""

    def worker_states(self) -> list[str]:
        """Return Locust's state of each worker."""

    def process_cpu_usage(self) -> dict[str, float]:
        """Return the CPU use of each process, in per cent of one core."""


class MetricsEndpoint:
    """Serves the metrics of one process's runs."""

    def __init__(self, source: MetricsSource, scenario: Scenario) -> None:
        self._source, self._scenario = source, scenario
        self._app = wsgi_app(self.snapshot)
        self._server: MetricsServer | None = None

    def serve(self, host: str, port: str, names: str) -> None:
        """
        Listen, unless the port is `off` or 0; `names` are those that a request may use beside its address.

        ConfigError for a wrong port or names, a warning for a port that is taken.
        """
        number, hosts = metrics_port(port), AllowedHosts(host, names)
        if number is None:
            return
        try:
            self._server = MetricsServer(
                self._app, host, number, ended=self._ended, before=lambda app: OriginGuard(app, hosts)
            )
        except OSError as error:
            logger.warning(
                "metrics are not served: %s:%s %s; --metrics-port takes another", host, number, error.strerror or error
            )

    def add_page(self, web_ui: WebUI) -> None:
        """Add `/metrics` to the web UI, behind its login if it has one."""
        guard = locust_compat.guard_of(web_ui)
        page = Blueprint("llmload_metrics", __name__, url_prefix=locust_compat.base_path(web_ui))

        @page.route(PATH)
        @guard
        def llmload_metrics() -> Any:
            return Response.from_app(self._app, request.environ, buffered=True)

        locust_compat.app_of(web_ui).register_blueprint(page)

    def linger(self, at_most_s: float) -> None:
        """After a headless run, keep serving until Prometheus has seen its end or the time is over."""
        if self._server is None or at_most_s <= 0:
            return
        try:
            if not self._server.linger(at_most_s):
                logger.warning("no scrape came in the %g s after the run: its last figures were not seen", at_most_s)
        except KeyboardInterrupt:  # the run is over, so the wait may be cut short
            return

    def _ended(self) -> bool:
        return self._source.coordinator is not None and self._source.coordinator.summary is not None

    def snapshot(self) -> Snapshot:
        """Return the figures of this moment."""
        coordinator, runner = self._source.coordinator, self._source.runner
        scenario = self._scenario if coordinator is None else coordinator.scenario
        totals = self._source.totals()
        judged = coordinator is not None and totals.ended > 0
        return Snapshot(
            labels={
                "engine": scenario.engine.display_name,
                "model": scenario.model.name,
                "scenario": scenario.scenario.name,
            },
            totals=totals,
            names=self._source.names(),
            slo=scenario.slo_limits(),
            info=None if coordinator is None else info_of(coordinator),
            running=coordinator is not None and coordinator.summary is None,
            started_unix_s=None if coordinator is None else coordinator.started_unix_s,
            ended_unix_s=None if coordinator is None else coordinator.ended_unix_s,
            users={"running": runner.user_count, "target": runner.target_user_count},
            workers=Counter(self._source.worker_states()),
            cpu_ratio={name: usage / PER_CENT for name, usage in self._source.process_cpu_usage().items()},
            memory_estimate_bytes=(None if coordinator is None else coordinator.memory_estimate) or {},
            verdict=self._verdict(coordinator, totals) if coordinator is not None and judged else None,
        )

    def _verdict(self, coordinator: RunCoordinator, totals: RunTotals) -> Verdict:
        return coordinator.verdict_so_far(coordinator.headline_so_far(totals, self._source.stages))


def info_of(coordinator: RunCoordinator) -> dict[str, str]:
    """Return what is measured, as labels; an unknown value is empty."""
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
