"""One run of one tool with one fault."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from click import ClickException

from benchmarks.comparisons.trust.faults import BUSY, REQUESTS, STEP_S, WORK, Fault, Means
from benchmarks.comparisons.trust.tools import Tool
from benchmarks.tools.bench_run import Cores
from benchmarks.tools.faulty_engine import FaultyEngine, Served
from benchmarks.tools.load_client import Command, Task
from benchmarks.tools.pinned import run_pinned
from llmload.units import NS_PER_S

MIDDLE_S: Final = 2.0
"""After the first request; a run takes about six seconds."""
TIMEOUT_S: Final = 180.0
BUSY_LOOP: Final = "while True: pass"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustRun:
    """What a tool did and left behind, and what the engine did; without `exit_code` it had to be killed."""

    command: Command
    task: Task
    exit_code: int | None
    output: Path
    served: Sequence[Served]


def run_tool(tool: Tool, fault: Fault, cores: Cores, folder: Path) -> TrustRun:
    """Run the tool in a new folder against a new engine with the fault."""
    first, last = WORK.ttft_s, 1 / WORK.tokens_per_s
    with FaultyEngine(fault.faults, tokens=WORK.tokens, ttft_s=first, gap_s=last) as engine:
        if fault.means is Means.TWICE:
            _run_once(tool, fault, engine, cores, folder / "before")
            engine.forget()
        with Injection(fault, lambda: engine.served, cores.client) as injection:
            return _run_once(tool, fault, engine, cores, folder / "run", injection.meanwhile)


def _run_once(
    tool: Tool,
    fault: Fault,
    engine: FaultyEngine,
    cores: Cores,
    folder: Path,
    meanwhile: Callable[[int], None] | None = None,
) -> TrustRun:
    folder.mkdir(parents=True)
    task = Task(work=WORK, requests=REQUESTS, base_url=engine.base_url, ca_file=None, model=engine.model, folder=folder)
    command = command_for(tool, fault, task)
    code: int | None
    try:
        code = run_pinned(
            command.arguments,
            cpu=cores.client,
            folder=folder,
            environment=command.environment,
            timeout_s=TIMEOUT_S,
            meanwhile=meanwhile,
        ).exit_code
    except ClickException:  # it did not end, and was killed
        code = None
    served = list(engine.served)
    return TrustRun(command=command, task=task, exit_code=code, output=folder / "output.txt", served=served)


def command_for(tool: Tool, fault: Fault, task: Task) -> Command:
    """Return how the tool is run with this fault."""
    if fault.means is not Means.WARM_UP or tool.warm_up is None:
        return tool.adapt(tool.client.command(task))
    if callable(tool.warm_up):
        return tool.warm_up(tool.adapt(tool.client.command(task)))
    return tool.adapt(tool.warm_up.command(task))


class Injection:
    """Does what a fault needs besides the engine, during a run: `meanwhile` is called while the tool runs."""

    def __init__(self, fault: Fault, served: Callable[[], Sequence[Served]], cpu: int) -> None:
        self._means, self._served, self._cpu = fault.means, served, cpu
        self._busy: list[subprocess.Popen[bytes]] = []
        self._done = False
        self._stepped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()
        if self._stepped:
            step_clock(-STEP_S)

    def meanwhile(self, pid: int) -> None:
        """Inject the fault when its moment has come."""
        served = list(self._served())
        if not served:
            return
        if self._means is Means.STARVE:
            self._starve(served)
        elif not self._done and time.monotonic_ns() - served[0].received_ns > MIDDLE_S * NS_PER_S:
            self._done = True
            if self._means is Means.SIGTERM:
                os.kill(pid, signal.SIGTERM)
            elif self._means is Means.CLOCK:
                step_clock(STEP_S)
                self._stepped = True

    def _starve(self, served: Sequence[Served]) -> None:
        if len(served) >= REQUESTS and all(request.done_ns for request in served):
            self._let_go()
            self._done = True
        elif not self._busy and not self._done:
            command = [sys.executable, "-c", BUSY_LOOP]
            self._busy = [subprocess.Popen(command) for _ in range(BUSY)]
            for process in self._busy:
                os.sched_setaffinity(process.pid, {self._cpu})

    def _let_go(self) -> None:
        for process in self._busy:
            process.kill()
            process.wait()
        self._busy = []


def step_clock(seconds: float) -> None:
    """Set the machine's clock forward, or back; PermissionError where that is not allowed."""
    time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME) + seconds)
