"""Runs a suite: one deployment after the other, in each one cell after the other; a failed cell does not end it."""

import shlex
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from llmload.client.said import listed
from llmload.errors import MEASURED, EngineError, RunFolderError
from llmload.metrics.validity import Level
from llmload.report.checks import failed
from llmload.report.conclusion import found
from llmload.runs.folder import SUMMARY, RunFolder
from llmload.runs.summary import Summary
from llmload.scenario.reading import find_scenario, locust_arguments, locust_command, toml_value
from llmload.sizing.cards import local_gpus
from llmload.suite.launch import POLL_S, RunningDeployment, deployed, launch, log_excerpt, wait_until_memory_is_free
from llmload.suite.plan import Cell, DeploymentPlan, SuitePlan
from llmload.suite.state import Status, SuiteProgress, SuiteState, time_left_s
from llmload.units import S_PER_MIN

PROGRESS_S: Final = 5
"""Between two lines in which a run says how far it is."""
RUN_GRACE_S: Final = 5.0
"""A run that is stopped early is discarded, so it is not drained."""
WARMUP_MAX_TOKENS: Final = 32
WARMUP_PROMPTS: Final = (
    "Name a colour.",
    "Count from one to twenty in words.",
    "What is a tide?",
    "Write two sentences about a ship.",
    "Say good morning in three languages.",
    "Which animals sleep in winter?",
)
"""Not from any prompt set, so that no measured prompt is in the engine's prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The result of one measurement."""

    status: Status
    reason: str | None
    folder: Path | None


def run_arguments(cell: Cell, url: str, out: Path, command: str | None) -> list[str]:
    """Return the arguments of the Locust command that measures the cell."""
    settings = list(cell.settings)
    if command is not None and cell.scenario.deployment.command is None:
        settings.append(f"deployment.command={orjson.dumps(command).decode()}")
    changes = {"host": url, "out": str(out), "processes": cell.processes, "progress": PROGRESS_S}
    return locust_arguments(cell.scenario_file, changes, settings)


def warmup_arguments(plan: DeploymentPlan, url: str, out: Path, prompts: Path, requests: int) -> list[str]:
    """Return the arguments of the Locust command that warms a deployment up: few requests, one at a time."""
    scenario = plan.cells[0].scenario
    values = {
        "engine.name": scenario.engine.name,
        "engine.api": scenario.engine.api,
        "engine.api_key_env": scenario.engine.api_key_env,
        "engine.headers": scenario.engine.model_dump(include={"headers"})["headers"] or None,
        "client.request_id_header": scenario.client.request_id_header,
        "engine.ca_file": scenario.engine.ca_file,
        "engine.verify_tls": scenario.engine.verify_tls,
        "model.name": scenario.model.name,
        "model.served_as": scenario.model.request_name,
        "prompts.source": str(prompts.resolve()),
        "prompts.repeat": True,
        "prompts.count": min(requests, len(WARMUP_PROMPTS)),
        "request.max_tokens": min(WARMUP_MAX_TOKENS, scenario.request.max_tokens or WARMUP_MAX_TOKENS),
    }
    settings = [f"{key}={toml_value(value)}" for key, value in values.items() if value is not None]
    changes: dict[str, str | int | None] = {"host": url, "out": str(out), "requests": requests}
    return locust_arguments(find_scenario("lima-speed"), changes, settings)


def warm_up(plan: DeploymentPlan, running: RunningDeployment, folder: Path, requests: int) -> None:
    """Send a few requests and discard their figures; EngineError if none was answered."""
    if not requests:
        return
    out = folder / "warm-up" / plan.engine / plan.model
    prompts = folder / "warm-up" / "prompts.jsonl"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"messages": [{"role": "user", "content": text}]} for text in WARMUP_PROMPTS]
    prompts.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    shutil.rmtree(out, ignore_errors=True)
    arguments = warmup_arguments(plan, running.url, out, prompts, requests)
    ended = _run(arguments, running, out, folder / "logs" / plan.engine / plan.model / "warm-up.log")
    shutil.rmtree(out, ignore_errors=True)
    if ended.status is Status.FAILED:
        raise EngineError(f"warm-up: {ended.reason}")


def measure(
    plan: DeploymentPlan, cell: Cell, running: RunningDeployment, folder: Path, said: Callable[[Sequence[str]], None]
) -> Measurement:
    """
    Measure the cell with the Locust command that `llmload run` would start; a failure is in the result.

    `said` gets the last lines that the run has written, again and again.
    """
    out = folder / "runs" / cell.name
    _remove_unfinished_runs(out)
    log = folder / "logs" / plan.engine / plan.model / f"{cell.protocol}.log"
    return _run(run_arguments(cell, running.url, out, running.command), running, out, log, said)


def _run(
    arguments: list[str],
    running: RunningDeployment,
    out: Path,
    log: Path,
    said: Callable[[Sequence[str]], None] = lambda _: None,
) -> Measurement:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(['locust', *arguments])}\n")
    before = _folders(out)
    with launch(locust_command(arguments), log=log, grace_s=RUN_GRACE_S, secrets=running.secrets) as locust:
        while not locust.wait(POLL_S):
            if running.describe_end() is not None:
                locust.stop()
            said(locust.last_lines())
        died = running.describe_end()
        if died is None:
            time.sleep(POLL_S / 2)  # its death may have ended the run before it was noticed
            died = running.describe_end()
        made = sorted(_folders(out) - before)
        folder = made[-1] if made else None
        if died is not None:
            return Measurement(status=Status.FAILED, reason=f"while it was measured, {died}", folder=None)
        if locust.exit_code not in MEASURED or folder is None:
            return Measurement(
                status=Status.FAILED, reason=f"Locust {locust.describe_end()}{log_excerpt(locust)}", folder=None
            )
    return judge_run(folder)


def judge_run(folder: Path) -> Measurement:
    """Return the result of a finished run, in the order of its exit codes: INVALID, good, failed."""
    try:
        summary = RunFolder(folder).summary()
    except RunFolderError as error:
        return Measurement(status=Status.FAILED, reason=str(error), folder=None)
    verdict, completed = summary.verdict, summary.requests.completed
    if completed and verdict.level is Level.INVALID:
        reasons = [reason.text for reason in verdict.reasons if reason.level is Level.INVALID]
        return Measurement(status=Status.INVALID, reason="; ".join(reasons), folder=folder)
    if completed and not failed(summary):
        return Measurement(status=Status.GOOD, reason=None, folder=folder)
    return Measurement(status=Status.FAILED, reason=_failures(summary), folder=folder if completed else None)


def _failures(summary: Summary) -> str:
    requests = summary.requests
    failed_gates = [gate.text for gate in summary.gates if gate.passed is False]
    if not requests.failed and failed_gates:
        return f"gates failed: {'; '.join(failed_gates)}"
    errors = ", ".join(f"{name} {count}" for name, count in requests.errors.items())
    parts = [
        f"{requests.failed} of {requests.started} requests failed" + (f": {errors}" if errors else ""),
        *([f"{requests.censored} were cut at the end of the drain"] if requests.censored else []),
        *(f"the most frequent: {each.cells[-1]}" for each in requests.failures[:1]),
        *([f"gates failed: {', '.join(failed_gates)}"] if failed_gates else []),
    ]
    return "; ".join(parts)


def _folders(out: Path) -> set[Path]:
    return set(out.iterdir()) if out.is_dir() else set()


def _remove_unfinished_runs(out: Path) -> None:
    """Remove runs of this cell without a summary, left by a killed suite."""
    for folder in _folders(out):
        if not (folder / SUMMARY).is_file():
            shutil.rmtree(folder, ignore_errors=True)


STYLES: Final = {Status.GOOD: "green", Status.FAILED: "red", Status.INVALID: "yellow"}


@dataclass(slots=True)
class SuiteRun:
    """Measures the pending cells of a plan."""

    plan: SuitePlan
    state: SuiteState
    progress: SuiteProgress
    selected: Collection[str]
    """Names of the cells to measure; the others are left alone."""
    _pending: set[str] = field(default_factory=set)
    _running: str | None = None

    def pending(self) -> list[Cell]:
        """Return the cells that a run would measure, in order."""
        return [cell for deployment in self.plan.deployments for cell in self._pending_of(deployment)]

    def run(self) -> None:
        """Measure the pending cells; a failed cell gets its reason in the state, and the next one begins."""
        todo = [(deployment, self._pending_of(deployment)) for deployment in self.plan.deployments]
        self._pending = {cell.name for _, cells in todo for cell in cells}
        self._report_done()
        with self.progress:
            for deployment, cells in todo:
                self._measure_deployment(deployment, cells)

    def _pending_of(self, deployment: DeploymentPlan) -> list[Cell]:
        return [
            cell
            for cell in deployment.cells
            if cell.name in self.selected and not self.state.done(cell.name, self.plan.fingerprint(deployment, cell))
        ]

    def _report_done(self) -> None:
        if there := len(self.selected) - len(self._pending):
            self.progress.line(f"{there} of {len(self.selected)} cells are done already, {len(self._pending)} to go")

    def _measure_deployment(self, deployment: DeploymentPlan, cells: Sequence[Cell]) -> None:
        """Measure the cells; if the engine dies, start it again for the remaining ones."""
        left = list(cells)
        while left:
            memory_before = [] if deployment.entry.kind == "running" else local_gpus()
            try:
                self._measure_while_running(deployment, left)
            except (EngineError, OSError) as error:
                reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
                for cell in left:
                    self.state.begin(cell.name, self.plan.fingerprint(deployment, cell))
                    self._end(cell, Measurement(status=Status.FAILED, reason=reason, folder=None))
                left.clear()
            finally:
                self._running = None
            if not wait_until_memory_is_free(memory_before):
                text = "its GPU memory is still in use; the next deployment may lack it"
                self.progress.line(f"{deployment.name}: {text}", STYLES[Status.INVALID])

    def _measure_while_running(self, deployment: DeploymentPlan, left: list[Cell]) -> None:
        """Start the deployment, take cells from `left` while its engine runs; EngineError if it measured none."""
        begun, before = time.monotonic(), len(left)
        self._show(f"{deployment.name}: starting, {deployment.entry.ready_timeout_s:g} s at most")
        with deployed(deployment, self._log_of(deployment)) as running:
            ready_s = time.monotonic() - begun
            if deployment.entry.kind != "running":
                self.state.ready_s[deployment.name] = ready_s
            self._report_start(deployment, running, ready_s)
            self._show(f"{deployment.name}: warming up")
            warm_up(deployment, running, self.plan.folder, self.plan.suite.suite.warmup_requests)
            self.state.starts_s[deployment.name] = time.monotonic() - begun
            self._running = deployment.name
            while left and (ended := running.describe_end()) is None:
                self._measure(deployment, left[0], running)
                left.pop(0)
            if len(left) == before:
                raise EngineError(f"before anything was measured, {ended}")
            self._show(f"{deployment.name}: stopping")

    def _measure(self, deployment: DeploymentPlan, cell: Cell, running: RunningDeployment) -> None:
        begun = time.monotonic()
        self.state.begin(cell.name, self.plan.fingerprint(deployment, cell))
        self._show(f"{cell.name}: measuring")

        def said(lines: Sequence[str]) -> None:
            begin = f"{cell.scenario.scenario.name}: "
            if progress := [line.removeprefix(begin) for line in lines if line.startswith(begin)]:
                self._show(f"{cell.name}: {progress[-1]}", every_s=S_PER_MIN)

        measured = measure(deployment, cell, running, self.plan.folder, said)
        state = self.state.cells[cell.name]
        state.engine_version = running.info.version
        if measured.status is not Status.FAILED:
            state.measured_s = time.monotonic() - begun
        if measured.folder is not None:
            state.run_folder = str(measured.folder.relative_to(self.plan.folder))
        self._end(cell, measured)

    def _end(self, cell: Cell, measured: Measurement) -> None:
        self.state.end(cell.name, measured.status, measured.reason)
        self._pending.discard(cell.name)
        figure = headline(measured.folder, cell)
        what = f"{cell.name}: {measured.status}" + (f", {figure}" if figure else "")
        self.progress.line(what + (f": {measured.reason}" if measured.reason else ""), STYLES[measured.status])

    def _report_start(self, deployment: DeploymentPlan, running: RunningDeployment, ready_s: float) -> None:
        info = running.info
        version = f"version {info.version}" if info.version else "reports no version"
        models = f"serves {listed(info.models, info.hide)}" if info.models else "lists no models"
        self.progress.line(f"{deployment.name}: ready at {running.url} after {ready_s:.1f} s; {version}, {models}")

    def _show(self, text: str, *, every_s: float = 0.0) -> None:
        total = len(self.selected)
        left_s = time_left_s(self.plan, self.state, self._pending, self._running)
        self.progress.show(text, total - len(self._pending), total, left_s, every_s=every_s)

    def _log_of(self, deployment: DeploymentPlan) -> Path:
        return self.plan.folder / "logs" / deployment.engine / deployment.model / "engine.log"


def headline(folder: Path | None, cell: Cell) -> str | None:
    """Return the cell's figure with its unit; None if nothing was measured."""
    if folder is None:
        return None
    summary = RunFolder(folder).summary()
    if summary.sweep is not None:
        return found(summary)
    if cell.scenario.scenario.protocol == "throughput":
        per_min = summary.requests_per_min
        return None if per_min is None else f"{per_min:.1f} requests/min"
    speed = summary.value("request_output_tokens_per_s", "mean")
    return None if speed is None else f"{speed:.2f} tok/s"
