"""One run of one client against a new truth engine."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from click import ClickException

from benchmarks.tools.cpu_time import MachineTime
from benchmarks.tools.load_client import LoadClient, Reported, Task
from benchmarks.tools.pinned import Usage, last_lines, run_pinned
from benchmarks.tools.truth_engine.engine import TruthEngine
from benchmarks.tools.truth_engine.log import TruthLog
from benchmarks.tools.work import Work
from llmload.errors import ExitCode

PATIENCE: Final = 8.0
"""A run may take this multiple of its ideal duration."""
START_UP_S: Final = 60.0
MEASURED_CODES: Final = {ExitCode.GOOD, ExitCode.INVALID}
"""Exit codes of a run that was measured: INVALID means that its figures cannot be trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """The client's core and the engine's core; the rest of the benchmark runs on the engine's."""

    client: int
    engine: int

    @classmethod
    def of_this_machine(cls) -> "Cores":
        """Return the last two usable cores; ClickException if there is only one."""
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise ClickException("client and engine need a core each, and there is only one")
        return cls(client=usable[-1], engine=usable[-2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where and how clients run."""

    cores: Cores
    folder: Path
    repeat: int
    keep: bool
    """Whether the files of runs stay when they have been read."""
    say: Callable[[str], None]
    idle_cores: float = 0.0
    """How many cores the machine uses without the benchmark: not counted as a client's cost."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClientRun:
    """One run: what its client used, what it reported, and what was true."""

    client: str
    work: Work
    requests: int
    usage: Usage
    machine_cpu_s: float
    """Of client, engine and kernel together, without what an idle machine uses and the engine's spinning."""
    engine_cpu_s: float
    """Of the engine's process, without its spinning."""
    reported: Reported
    truth: TruthLog
    connections: int
    max_streams: int
    folder: Path


def run_client(
    client: LoadClient, work: Work, requests: int, *, bench: Bench, subfolder: str, patience: float = 1.0
) -> ClientRun:
    """
    Run the client once, its files in `subfolder`; ClickException if it fails or omits requests.

    `patience` multiplies the time that it may take.
    """
    cores, folder = bench.cores, bench.folder / subfolder
    folder.mkdir(parents=True)
    with TruthEngine(work.schedule, folder, cpu=cores.engine, tls=work.tls) as engine:
        task = Task(
            work=work,
            requests=requests,
            base_url=engine.base_url,
            ca_file=engine.ca_file,
            model=engine.model,
            folder=folder,
        )
        command = client.command(task)
        before = MachineTime.now()
        usage = run_pinned(
            command.arguments,
            cpu=cores.client,
            folder=folder,
            environment=command.environment,
            timeout_s=patience * (START_UP_S + PATIENCE * work.answer_s * requests / work.streams),
        )
        machine = MachineTime.now().since(before)
    if usage.exit_code not in MEASURED_CODES:
        raise ClickException(f"{client.name}: exit code {usage.exit_code}\n{last_lines(usage.output)}")
    truth, reported = engine.log, client.reported(task)
    if len(truth.complete) < requests:
        raise ClickException(
            f"{client.name}: {requests} requests wanted, {len(truth.complete)} answered\n{last_lines(usage.output)}"
        )
    return ClientRun(
        client=client.name,
        work=work,
        requests=requests,
        usage=usage,
        machine_cpu_s=machine.busy_s - bench.idle_cores * usage.wall_s - engine.spun_s,
        engine_cpu_s=engine.cpu_s - engine.spun_s,
        reported=reported,
        truth=truth,
        connections=engine.connections,
        max_streams=engine.max_streams,
        folder=folder,
    )
