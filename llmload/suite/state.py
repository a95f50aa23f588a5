"""What a suite shows while it works: a line for each thing done, and on a terminal a bar with the time left."""

import fcntl
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from llmload.errors import ConfigError, RunFolderError
from llmload.runs.folder import SUMMARY, RunFolder
from llmload.suite.plan import Cell, SuitePlan
from llmload.units import S_PER_H, S_PER_MIN

# What a suite has done so far, in a file that is whole at any moment; one suite at a time works in a folder.

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


class SuiteProgress:
    """Lines on standard error, and while in its context a bar below them where that is a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _TimeLeft())
        self._bar = Progress(*columns, console=self.console, transient=True)
        self._task = self._bar.add_task("", total=None, visible=False)

    def line(self, text: str, style: str = "") -> None:
        """Write a line that stays."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def show(self, text: str, done: int, total: int, left_s: float | None) -> None:
        """Say what goes on now, how many cells are done, and how long the rest may take."""
        ends = None if left_s is None else time.monotonic() + left_s
        self._bar.update(self._task, description=text, completed=done, total=total, visible=True, ends=ends)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bar.stop()


class _TimeLeft(ProgressColumn):
    """The time left as it was last told, less what has passed since."""

    def render(self, task: Task) -> Text:
        """Return it in words."""
        ends = task.fields.get("ends")
        return Text(left_text(None if ends is None else max(0.0, ends - time.monotonic())))


def left_text(left_s: float | None) -> str:
    """Return a time left in words; n/a where nothing has been measured to tell it from."""
    if left_s is None:
        return "time left n/a"
    if left_s < 90:
        return f"about {left_s:.0f} s left"
    return f"about {left_s / S_PER_MIN:.0f} min left" if left_s < 5400 else f"about {left_s / S_PER_H:.1f} h left"


def time_left_s(plan: SuitePlan, state: SuiteState, pending: Collection[str], running: str | None) -> float | None:
    """
    Return how long the pending cells may take, by what cells and starts have taken so far; None while that is unknown.

    A cell takes what others of its protocol took (median), or else the time that its scenario has; a deployment that
    is not `running` takes the median of the starts. What is under way counts less the time since it began.
    """
    took: dict[str, list[float]] = {}
    for name, cell in state.cells.items():
        if cell.measured_s is not None:
            took.setdefault(name.rpartition("/")[2], []).append(cell.measured_s)
    left = [cell for cell in plan.cells if cell.name in pending]
    to_start = {cell.deployment for cell in left} - {running}
    expected_s = [_expected_s(cell, took) for cell in left]
    if (to_start and not state.starts_s) or None in expected_s:
        return None
    starting_s = len(to_start) * median(state.starts_s.values()) if to_start else 0.0
    measuring_s = sum(
        max(0.0, one_s - _since_s(state, cell)) for cell, one_s in zip(left, expected_s, strict=True) if one_s
    )
    return starting_s + measuring_s


def _expected_s(cell: Cell, took: Mapping[str, list[float]]) -> float | None:
    if cell.protocol in took:
        return median(took[cell.protocol])
    planned = cell.scenario.load.duration_s
    return float(planned) if planned is not None else None


def _since_s(state: SuiteState, cell: Cell) -> float:
    begun = state.cells.get(cell.name)
    return 0.0 if begun is None or begun.ended_unix_s is not None else time.time() - begun.started_unix_s
