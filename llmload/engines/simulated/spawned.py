"""An engine as a process of its own, for programs that gevent has patched and for tests."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from llmload.engines.simulated.settings import SimulationSettings
from llmload.errors import EngineError

READY = "simulated engine ready at "
STOP_TIMEOUT_S = 5.0


class SpawnedEngine:
    """A running engine process; leaving its context stops it, and it stops by itself when this process ends."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def spawn(settings: SimulationSettings) -> SpawnedEngine:
    """Start an engine and wait until it listens. Raises EngineError where it does not."""
    command = [sys.executable, "-m", "llmload.engines.simulated"]
    process = subprocess.Popen(  # noqa: S603 - this very interpreter
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None  # noqa: S101 - both were asked for
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(to_line(settings) + "\n")
    process.stdin.flush()
    said = process.stdout.readline().strip()
    if not said.startswith(READY):
        SpawnedEngine(process, ":0").stop()
        raise EngineError(said or f"the simulated engine ended with status {process.returncode} before it listened")
    return SpawnedEngine(process, said.removeprefix(READY))


def to_line(settings: SimulationSettings) -> str:
    """The settings as one line of JSON; they travel on standard input, so that no key shows in a process list."""
    return orjson.dumps(dataclasses.asdict(settings), default=str).decode()


def from_line(line: str) -> SimulationSettings:
    """The settings that `to_line` wrote."""
    fields: dict[str, Any] = orjson.loads(line)
    return SimulationSettings(**{**fields, "log": None if fields["log"] is None else Path(fields["log"])})
