"""Real Locust processes against a real socket: the simulated engine."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.request import urlopen

import pytest

from llmload.simulator import SimulationSettings, SpawnedEngine, spawn
from tests.loadgen.forked import ROOT, Forked, Zygote


@dataclass(frozen=True)
class Ended:
    """A Locust process that has ended, and the run folder it left; None where it left none."""

    code: int
    out: str
    err: str
    found: Path | None

    @property
    def folder(self) -> Path:
        assert self.found is not None, self.err
        return self.found

    @property
    def summary(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return loaded

    @property
    def manifest(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return loaded

    @property
    def lines(self) -> list[dict[str, Any]]:
        files = sorted(self.folder.glob("requests*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.end()


@dataclass
class Locust:
    """Starts Locust in the repository as a user does, with run folders below the test's folder."""

    out: Path
    zygote: Zygote
    started: list[Forked] = field(default_factory=list)

    def start(self, *arguments: str, env: dict[str, str] | None = None, limits: dict[str, int] | None = None) -> Forked:
        """Start Locust in a separate session, without the second that its imports take."""
        process = self.zygote.start(self._arguments(arguments), self._env(env), limits)
        self.started.append(process)
        return process

    def finish(self, process: Forked, timeout_s: float = 60.0) -> Ended:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"Locust did not end in {timeout_s} s:\n{out}\n{err}")
        return Ended(process.wait(), out, err, self._folder())

    def run(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        timeout_s: float = 60.0,
    ) -> Ended:
        """Run Locust headless to its end."""
        return self.finish(self.start(*arguments, "--headless", env=env, limits=limits), timeout_s)

    def _arguments(self, arguments: tuple[str, ...]) -> list[str]:
        return [*arguments, "--out", str(self.out)]

    def _env(self, env: dict[str, str] | None) -> dict[str, str]:
        return {**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})}

    def _folder(self) -> Path | None:
        folders = sorted(self.out.iterdir()) if self.out.is_dir() else []
        return folders[-1] if folders else None


@pytest.fixture
def locust(tmp_path: Path, zygote: Zygote) -> Iterator[Locust]:
    locust = Locust(tmp_path / "runs", zygote)
    yield locust
    for process in locust.started:  # what a failed test left running
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


class WriteScenario(Protocol):
    """Writes a scenario for the engine at `url`, with these lines in its table `load` and further tables."""

    def __call__(self, url: str, load: str, further: str = "", name: str = "test") -> Path: ...


class StartEngine(Protocol):
    """Starts a simulated engine with these settings."""

    def __call__(self, **settings: Any) -> SpawnedEngine: ...


@pytest.fixture
def write_scenario(tmp_path: Path) -> WriteScenario:
    """Write a scenario of the given tables, with sensible ones for the rest."""

    def write(url: str, load: str, further: str = "", name: str = "test") -> Path:
        file = tmp_path / f"{name}.toml"
        file.write_text(
            f"""
[tool.locust]
locustfile = "{ROOT}/locustfiles/chat.py"
[scenario]
name = "{name}"
protocol = "throughput"
[engine]
name = "simulated"
base_url = "{url}"
[model]
name = "simulated"
[load]
kind = "closed_loop"
{load}
{further}
"""
        )
        return file

    return write


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StartEngine]:
    """Start simulated engines that end with the test."""
    running: list[SpawnedEngine] = []

    def start(**settings: Any) -> SpawnedEngine:
        running.append(spawn(SimulationSettings(**settings)))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def truth(log: Path) -> list[dict[str, Any]]:
    """Return the requests that a simulated engine has in its own log."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def until_log_holds(log: Path, lines: int, timeout_s: float = 30.0) -> None:
    """Wait until an engine has answered this number of requests."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if log.is_file() and log.read_text().count("\n") >= lines:
            return
        time.sleep(0.05)
    pytest.fail(f"the engine answered fewer than {lines} requests in {timeout_s} s")


def until_requests_run(url: str, count: int, timeout_s: float = 30.0) -> None:
    """Wait until an engine answers this number of requests at a time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with urlopen(f"{url}/metrics") as answer:
            running = re.search(r"^vllm:num_requests_running\S* (\S+)$", answer.read().decode(), re.MULTILINE)
        if running is not None and float(running[1]) == count:
            return
        time.sleep(0.05)
    pytest.fail(f"{count} requests never ran at a time")
