"""The three settings in which a run has to be as true as in any other."""

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
class Running:
    """A run that goes on: its processes, the steering one first, and each host's folder."""

    processes: "list[subprocess.Popen[bytes]]"
    folders: list[Path]
    coordinator: Host
    web_url: str

    def interrupt(self) -> None:
        """Press Ctrl-C in the terminal that steers the run; it reaches what was started in that terminal."""
        os.killpg(self.processes[0].pid, signal.SIGINT)

    def wait(self, timeout_s: float) -> int:
        """Return the exit code of the steering process when all have ended; ClickException if they do not."""
        end_s = time.monotonic() + timeout_s
        for process in self.processes:
            try:
                process.wait(max(0.0, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill()
                raise ClickException(f"Locust's process had not ended after {timeout_s:.0f} s") from None
        return self.processes[0].returncode

    def kill(self) -> None:
        """End whatever is left."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def workers(self) -> list[int]:
        """Return the process ids of the workers: what the steering process forked, or the other hosts' programs."""
        if len(self.processes) > 1:
            return [process.pid for process in self.processes[1:]]
        children = Path(f"/proc/{self.processes[0].pid}/task/{self.processes[0].pid}/children")
        return [int(pid) for pid in children.read_text(encoding="ascii").split()]

    def state(self) -> dict[str, Any]:
        """Return what the web UI knows of the run; CalledProcessError while there is none."""
        state: dict[str, Any] = json.loads(self.coordinator.fetch(f"{self.web_url}/llm/state"))
        return state

    def request_files(self) -> list[Path]:
        """Return every file of requests, on whichever host it lies."""
        return sorted(file for folder in self.folders for file in folder.glob(f"{RUNS}/*/requests*.jsonl"))

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the line of every request, from every host."""
        for file in self.request_files():
            yield from map(json.loads, file.read_bytes().splitlines())

    def summary(self) -> dict[str, Any]:
        """Return the run's summary; ClickException where it left none."""
        found = list(self.folders[0].glob(f"{RUNS}/*/summary.json"))
        if len(found) != 1:
            raise ClickException(f"{self.folders[0]}: {len(found)} summaries where there should be one")
        summary: dict[str, Any] = json.loads(found[0].read_text(encoding="utf-8"))
        return summary


class Place(Protocol):
    """A setting: where the engine is, and how Locust is started."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def engine_host(self) -> Host:
        """Where the engine runs."""

    def start(self, folder: Path, scenario: str, arguments: Sequence[str]) -> Running:
        """Start Locust with a scenario, in one process or several."""


@dataclass(frozen=True, slots=True)
class Local:
    """One process."""

    name: str = "local"
    engine_host: Host = field(default_factory=lambda: Host(name="here"))
    workers: int = 0

    def start(self, folder: Path, scenario: str, arguments: Sequence[str]) -> Running:
        """Start Locust, and its workers as forks where there are any."""
        web_port, port = str(free_port()), str(free_port())
        more = [] if "--headless" in arguments else ["--web-port", web_port]
        if self.workers:
            more += ["--processes", str(self.workers), "--master-port", port, "--master-bind-port", port]
        process = start_locust(self.engine_host, folder, scenario, [*arguments, *more])
        return Running(
            processes=[process],
            folders=[folder],
            coordinator=self.engine_host,
            web_url=f"http://{LOOPBACK}:{web_port}",
        )


@dataclass(frozen=True, slots=True)
class Hosts:
    """A master and its workers, each on a host of its own with files of its own."""

    engine_host: Host
    master: Host
    workers: Sequence[Host]
    name: str = "hosts"

    def start(self, folder: Path, scenario: str, arguments: Sequence[str]) -> Running:
        """Start the master, and a worker on each of the other hosts."""
        folders = [folder / host.name for host in (self.master, *self.workers)]
        as_master = ["--master", "--master-bind-host", self.master.address, "--expect-workers", str(len(self.workers))]
        processes = [start_locust(self.master, folders[0], scenario, [*arguments, *as_master])]
        as_worker = ["--worker", "--master-host", self.master.address]
        for host, own in zip(self.workers, folders[1:], strict=True):
            processes.append(start_locust(host, own, scenario, as_worker))
        return Running(processes=processes, folders=folders, coordinator=self.master, web_url=f"http://{LOOPBACK}:8089")


def start_locust(host: Host, folder: Path, scenario: str, arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Write the scenario into the host's folder and start Locust there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SCENARIO).write_text(scenario, encoding="utf-8")
    command = [sys.executable, "-m", "locust", "--config", SCENARIO, *arguments]
    return host.start(command, folder=folder, output=folder / "locust.txt")
