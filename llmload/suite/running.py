"""A suite at work: one deployment after the other, one cell after the other, whatever fails on the way."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from llmload.errors import EngineError
from llmload.report.run_folder import SUMMARY, RunFolder
from llmload.suite.deploying import RunningDeployment, deployed, wait_until_freed
from llmload.suite.deployment_plan import Cell, DeploymentPlan
from llmload.suite.measuring import Measured, measure, warm_up
from llmload.suite.plan import SuitePlan
from llmload.suite.progress import SuiteProgress, time_left_s
from llmload.suite.state import Status, SuiteState
from llmload.vram.local_gpus import local_gpus

STYLES: Final = {Status.GOOD: "green", Status.FAILED: "red", Status.INVALID: "yellow"}


@dataclass(slots=True)
class SuiteRun:
    """The cells of a plan that are still to be done, and the doing."""

    plan: SuitePlan
    state: SuiteState
    progress: SuiteProgress
    asked_for: Collection[str]
    """Names of the cells that are to be done at all."""
    _pending: set[str] = field(default_factory=set)
    _running: str | None = None

    def pending(self) -> list[Cell]:
        """Return the cells that a run would measure, in order."""
        return [cell for deployment in self.plan.deployments for cell in self._pending_of(deployment)]

    def run(self) -> None:
        """Measure what is pending; a cell that fails has its reason in the state, and the next one begins."""
        todo = [(deployment, self._pending_of(deployment)) for deployment in self.plan.deployments]
        self._pending = {cell.name for _, cells in todo for cell in cells}
        self._tell_what_is_there()
        with self.progress:
            for deployment, cells in todo:
                self._run_deployment(deployment, cells)

    def _pending_of(self, deployment: DeploymentPlan) -> list[Cell]:
        return [
            cell
            for cell in deployment.cells
            if cell.name in self.asked_for and not self.state.done(cell.name, self.plan.fingerprint(deployment, cell))
        ]

    def _tell_what_is_there(self) -> None:
        if there := len(self.asked_for) - len(self._pending):
            self.progress.line(f"{there} of {len(self.asked_for)} cells are done already, {len(self._pending)} to go")

    def _run_deployment(self, deployment: DeploymentPlan, cells: Sequence[Cell]) -> None:
        """Measure the cells; an engine that dies is started anew for what is left."""
        left = list(cells)
        while left:
            memory_before = [] if deployment.entry.kind == "running" else local_gpus()
            try:
                self._measure_while_it_lives(deployment, left)
            except EngineError as error:
                for cell in left:
                    self.state.begin(cell.name, self.plan.fingerprint(deployment, cell))
                    self._end(cell, Measured(status=Status.FAILED, reason=str(error), folder=None))
                left.clear()
            finally:
                self._running = None
            if not wait_until_freed(memory_before):
                text = "its GPU memory is still not free; what is measured next may lack it"
                self.progress.line(f"{deployment.name}: {text}", STYLES[Status.INVALID])

    def _measure_while_it_lives(self, deployment: DeploymentPlan, left: list[Cell]) -> None:
        """Start the deployment, take cells from `left` while its engine lives; EngineError if it came to none."""
        begun, before = time.monotonic(), len(left)
        self._show(f"{deployment.name}: starting")
        with deployed(deployment, self._log_of(deployment)) as running:
            self._show(f"{deployment.name}: warming up")
            warm_up(deployment, running, self.plan.folder, self.plan.suite.suite.warmup_requests)
            self.state.starts_s[deployment.name] = time.monotonic() - begun
            self._tell_start(deployment, running, time.monotonic() - begun)
            self._running = deployment.name
            while left and (ended := running.end_text()) is None:
                self._measure(deployment, left[0], running)
                left.pop(0)
            if len(left) == before:
                raise EngineError(f"before anything was measured, {ended}")
            self._show(f"{deployment.name}: stopping")

    def _measure(self, deployment: DeploymentPlan, cell: Cell, running: RunningDeployment) -> None:
        begun = time.monotonic()
        self.state.begin(cell.name, self.plan.fingerprint(deployment, cell))
        self._show(f"{cell.name}: measuring")
        measured = measure(deployment, cell, running, self.plan.folder)
        state = self.state.cells[cell.name]
        state.engine_version = running.answers.version
        if measured.status is not Status.FAILED:
            state.measured_s = time.monotonic() - begun
        if measured.folder is not None:
            state.run_folder = str(measured.folder.relative_to(self.plan.folder))
        self._end(cell, measured)

    def _end(self, cell: Cell, measured: Measured) -> None:
        self.state.end(cell.name, measured.status, measured.reason)
        self._pending.discard(cell.name)
        figure = headline(measured.folder, cell)
        what = f"{cell.name}: {measured.status}" + (f", {figure}" if figure else "")
        self.progress.line(what + (f": {measured.reason}" if measured.reason else ""), STYLES[measured.status])

    def _tell_start(self, deployment: DeploymentPlan, running: RunningDeployment, took_s: float) -> None:
        said = running.answers
        version = f"version {said.version}" if said.version else "tells no version"
        models = f"serves {', '.join(said.models)}" if said.models else "lists no models"
        self.progress.line(f"{deployment.name}: ready at {running.url} after {took_s:.1f} s; {version}, {models}")

    def _show(self, text: str) -> None:
        total = len(self.asked_for)
        left_s = time_left_s(self.plan, self.state, self._pending, self._running)
        self.progress.show(text, total - len(self._pending), total, left_s)

    def _log_of(self, deployment: DeploymentPlan) -> Path:
        return self.plan.folder / "logs" / deployment.engine / deployment.model / "engine.log"


def headline(folder: Path | None, cell: Cell) -> str | None:
    """Return the cell's figure with its unit; None where nothing was measured."""
    if folder is None:
        return None
    summary = RunFolder(folder).read(SUMMARY)
    if cell.scenario.scenario.protocol == "throughput":
        per_min = summary["requests_per_min"]
        return None if per_min is None else f"{per_min:.1f} requests/min"
    speed = summary["request_output_tokens_per_s"]
    return None if speed is None else f"{speed['mean']:.2f} tok/s"
