"""What a suite has done so far, in a file that is whole at any moment; one suite at a time works in a folder."""

import fcntl
import os
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from llmload.errors import ConfigError, RunFolderError
from llmload.report.run_folder import SUMMARY, RunFolder

STATE: Final = "state.json"
LOCK: Final = "suite.lock"


class Status(StrEnum):
    """How a cell stands."""

    RUNNING = "running"  # found at a start: half done, so it is done anew
    GOOD = "good"
    FAILED = "failed"
    INVALID = "invalid"


@dataclass(slots=True, kw_only=True)
class CellState:
    """What became of a cell."""

    status: Status
    fingerprint: str
    started_unix_s: float
    ended_unix_s: float | None = None
    reason: str | None = None
    """Why it failed, or what makes it INVALID."""
    run_folder: str | None = None
    """Relative to the suite's folder; None where nothing was measured."""
    engine_version: str | None = None
    measured_s: float | None = None
    """How long the measurement took, without the engine's start."""


@dataclass(slots=True)
class SuiteState:
    """The cells that were begun, and how long deployments took to start."""

    folder: Path
    cells: dict[str, CellState] = field(default_factory=dict)
    starts_s: dict[str, float] = field(default_factory=dict)
    """By deployment: from its command to the end of its warm-up, in seconds."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Return what stands in the folder, nothing where there is none; ConfigError if it cannot be read."""
        if not (folder / STATE).exists():
            return cls(folder)
        try:
            content = RunFolder(folder).read(STATE)
            cells = {name: _cell_of(values) for name, values in content["cells"].items()}
            return cls(folder, cells, dict(content["starts_s"]))
        except (RunFolderError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{folder / STATE}: cannot be read ({error}); --restart begins anew") from None

    def write(self) -> None:
        """Write the file whole or not at all."""
        cells = {name: asdict(cell) for name, cell in self.cells.items()}
        RunFolder(self.folder).write(STATE, {"cells": cells, "starts_s": self.starts_s})

    def forget(self, names: Collection[str]) -> None:
        """Make these cells undone; their runs stay where they are."""
        self.cells = {name: cell for name, cell in self.cells.items() if name not in names}
        self.write()

    def begin(self, name: str, fingerprint: str) -> CellState:
        """Note that a cell has begun."""
        self.cells[name] = CellState(status=Status.RUNNING, fingerprint=fingerprint, started_unix_s=time.time())
        self.write()
        return self.cells[name]

    def end(self, name: str, status: Status, reason: str | None = None) -> None:
        """Note how a cell has ended."""
        cell = self.cells[name]
        cell.status, cell.reason, cell.ended_unix_s = status, reason, time.time()
        self.write()

    def done(self, name: str, fingerprint: str) -> bool:
        """Say whether a cell has ended, was defined then as it is now, and still has its figures."""
        cell = self.cells.get(name)
        if cell is None or cell.status is Status.RUNNING or cell.fingerprint != fingerprint:
            return False
        return cell.run_folder is None or (self.folder / cell.run_folder / SUMMARY).is_file()


def _cell_of(values: dict[str, Any]) -> CellState:
    return CellState(**{**values, "status": Status(values["status"])})


class FolderLock:
    """Holds a suite's folder while in its context; ConfigError where another process does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1

    def __enter__(self) -> Self:
        RunFolder(self._folder).create()
        self._file = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise ConfigError(
                f"{self._folder}: another llmload suite is at work here; wait for it, or stop it"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)  # and with it the lock, as it would be were this process killed
