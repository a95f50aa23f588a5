"""The settings of a run: one process, several processes, several hosts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from click import ClickException

from benchmarks.tools.hosts import LOOPBACK, Host
from llmload.scenario.reading import free_port

SCENARIO: Final = "scenario.toml"
RUNS: Final = "runs"
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A running test: its processes, the master first, and each host's folder."""

    processes: "list[subprocess.Popen[bytes]]"
    folders: list[Path]
    master_host: Host
    web_url: str

    def interrupt(self) -> None:
        """Press Ctrl-C in the master's terminal: send SIGINT to its process group."""
        os.killpg(self.processes[0].pid, signal.SIGINT)

    def wait(self, timeout_s: float) -> int:
        """Return the master's exit code when all processes have ended; ClickException if they do not."""
        end_s = time.monotonic() + timeout_s
        for process in self.processes:
            try:
                process.wait(max(0.0, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill()
                raise ClickException(f"Locust's process had not ended after {timeout_s:.0f} s") from None
        return self.processes[0].returncode

    def kill(self) -> None:
        """Kill the processes that are left."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def workers(self) -> list[int]:
        """Return the process ids of the workers: the master's forks, or the other hosts' programs."""
        if len(self.processes) > 1:
            return [process.pid for process in self.processes[1:]]
        children = Path(f"/proc/{self.processes[0].pid}/task/{self.processes[0].pid}/children")
        return [int(pid) for pid in children.read_text(encoding="ascii").split()]

    def state(self) -> dict[str, Any]:
        """Return the live state from the web UI; CalledProcessError while there is none."""
        state: dict[str, Any] = json.loads(self.master_host.fetch(f"{self.web_url}/llm/state"))
        return state

    def request_files(self) -> list[Path]:
        """Return the request files of all hosts."""
        return sorted(file for folder in self.folders for file in folder.glob(f"{RUNS}/*/requests*.jsonl"))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the request lines of all hosts."""
        for file in self.request_files():
            yield from map(json.loads, file.read_bytes().splitlines())

    def summary(self) -> dict[str, Any]:
        """Return the run's summary; ClickException if there is not exactly one."""
        found = list(self.folders[0].glob(f"{RUNS}/*/summary.json"))
        if len(found) != 1:
            raise ClickException(f"{self.folders[0]}: {len(found)} summaries, expected one")
        summary: dict[str, Any] = json.loads(found[0].read_text(encoding="utf-8"))
        return summary


class Setting(Protocol):
    """A setting: where the engine is, and how Locust is started."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    @property
    def engine_host(self) -> Host:
        """Where the engine runs."""

    def start(self, folder: Path, scenario: str, arguments: Sequence[str]) -> StartedRun:
        """Start Locust with a scenario, in one process or several."""


@dataclass(frozen=True, slots=True)
class Local:
    """One process."""

    name: str = "local"
    engine_host: Host = field(default_factory=lambda: Host(name="here"))
    workers: int = 0

    def start(self, folder: Path, scenario: str, arguments: Sequence[str]) -> StartedRun:
        """Start Locust, and its workers as forks where there are any."""
        web_port = str(free_port())
        options = [] if "--headless" in arguments else ["--web-port", web_port]
        if self.workers:
            options += ["--processes", str(self.workers)]
        process = start_locust(self.engine_host, folder, scenario, [*arguments, *options])
        return StartedRun(
            processes=[process],
            folders=[folder],
            master_host=self.engine_host,
            web_url=f"http://{LOOPBACK}:{web_port}",
        )


@dataclass(frozen=True, slots=True)
class Hosts:
    """A master and its workers, each on a separate host with separate files."""

    engine_host: Host
    master: Host
    workers: Sequence[Host]
    name: str = "hosts"

    def start(self, folder: Path, scenario: str, arguments: Sequence[str]) -> StartedRun:
        """Start the master, and a worker on each of the other hosts."""
        folders = [folder / host.name for host in (self.master, *self.workers)]
        as_master = ["--master", "--master-bind-host", self.master.address, "--expect-workers", str(len(self.workers))]
        processes = [start_locust(self.master, folders[0], scenario, [*arguments, *as_master])]
        as_worker = ["--worker", "--master-host", self.master.address]
        for host, own in zip(self.workers, folders[1:], strict=True):
            processes.append(start_locust(host, own, scenario, as_worker))
        return StartedRun(
            processes=processes, folders=folders, master_host=self.master, web_url=f"http://{LOOPBACK}:8089"
        )


def start_locust(host: Host, folder: Path, scenario: str, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Write the scenario into the host's folder and start Locust there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCENARIO).write_text(scenario, encoding="utf-8")
    command = [sys.executable, "-m", "locust", "--config", SCENARIO, *arguments]
    return host.start(command, folder=folder, output=folder / "locust.txt")
