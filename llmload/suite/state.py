"""A suite's progress: its state file, the lock of its folder, the lines and bar of a terminal, the time left."""

import fcntl
import math
import os
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Annotated, ClassVar, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from llmload.errors import ConfigError, RunFolderError
from llmload.runs.folder import SUMMARY, RunFolder, fault_text
from llmload.runs.reading import LATEST_UNIX_S, is_there
from llmload.runs.writing import WriteFaults, why_of
from llmload.suite.plan import Cell, SuitePlan
from llmload.units import S_PER_H, S_PER_MIN

STATE: Final = "state.json"
LOCK: Final = "suite.lock"


class Status(StrEnum):
    """The status of a cell that was begun."""

    RUNNING = "running"  # in the file of a killed suite: it is measured again
    GOOD = "good"
    FAILED = "failed"
    INVALID = "invalid"


Seconds = Annotated[float, Field(ge=0, le=LATEST_UNIX_S)]


def _within(run_folder: str) -> str:
    parts = Path(run_folder).parts
    if Path(run_folder).is_absolute() or ".." in parts or max(map(len, parts), default=0) > _MAX_NAME:
        raise ValueError("it is not in the suite's folder")
    return run_folder


_MAX_NAME: Final = 200
MAX_REASON: Final = 20_000
"""Characters of why a cell failed, with the last lines of a log."""
Shown = Annotated[str, Field(max_length=2 * _MAX_NAME)]


@dataclass(slots=True, kw_only=True)
class CellState:
    """One cell in the state file."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    status: Status
    fingerprint: Shown
    started_unix_s: Seconds
    ended_unix_s: Seconds | None = None
    reason: Annotated[str, Field(max_length=MAX_REASON)] | None = None
    """Why it failed or is INVALID."""
    run_folder: Annotated[str, Field(max_length=5 * _MAX_NAME), AfterValidator(_within)] | None = None
    """Relative to the suite's folder; None if nothing was measured."""
    engine_version: Shown | None = None
    measured_s: Seconds | None = None
    """Duration of the measurement, without the engine's start."""


class _StateFile(BaseModel):
    """The content of the state file."""

    cells: dict[str, CellState]
    starts_s: dict[str, Seconds]
    ready_s: dict[str, Seconds] = Field(default_factory=dict)


@dataclass(slots=True)
class SuiteState:
    """The cells that were begun, and the start times of deployments; written to a file at each change."""

    folder: Path
    cells: dict[str, CellState] = field(default_factory=dict)
    starts_s: dict[str, float] = field(default_factory=dict)
    """Seconds from the start command to the end of the warm-up, by deployment."""
    ready_s: dict[str, float] = field(default_factory=dict)
    """Seconds from the start command until the engine said that it is ready, by deployment."""
    faults: WriteFaults = field(default_factory=WriteFaults)
    """Which files of the suite could not be written."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the folder's state, empty if there is none; ConfigError if it cannot be read."""
        if not is_there(folder / STATE):
            return cls(folder)
        try:
            content = _StateFile.model_validate(RunFolder(folder).read(STATE))
        except (RunFolderError, ValidationError) as error:
            why = fault_text(error.errors(include_url=False)[0]) if isinstance(error, ValidationError) else error
            raise ConfigError(
                f"{folder / STATE}: cannot be read ({why}); --restart starts from the beginning"
            ) from None
        return cls(folder, content.cells, content.starts_s, content.ready_s)

    def write(self) -> None:
        """Write the file whole or not at all; a fault is logged once, and the suite continues."""
        cells = {name: asdict(cell) for name, cell in self.cells.items()}
        with self.faults.tolerated(self.folder / STATE, "what it needs to continue if it is stopped"):
            RunFolder(self.folder).write(STATE, {"cells": cells, "starts_s": self.starts_s, "ready_s": self.ready_s})

    def forget(self, names: Collection[str]) -> None:
        """Remove these cells from the state; their runs stay. ConfigError if the state cannot be written at all."""
        self.cells = {name: cell for name, cell in self.cells.items() if name not in names}
        self.write()
        for file, why in self.faults.unwritten.items():
            raise ConfigError(f"{self.folder / file}: cannot be written: {why}; make room, or give another with --out")

    def begin(self, name: str, fingerprint: str) -> CellState:
        """Record that a cell has begun."""
        self.cells[name] = CellState(status=Status.RUNNING, fingerprint=fingerprint, started_unix_s=time.time())
        self.write()
        return self.cells[name]

    def end(self, name: str, status: Status, reason: str | None = None) -> None:
        """Record how a cell has ended."""
        cell = self.cells[name]
        cell.status, cell.reason, cell.ended_unix_s = status, reason and reason[:MAX_REASON], time.time()
        self.write()

    def done(self, name: str, fingerprint: str) -> bool:
        """Return whether a cell has ended, with the same definition, and still has its run folder."""
        cell = self.cells.get(name)
        if cell is None or cell.status is Status.RUNNING or cell.fingerprint != fingerprint:
            return False
        with suppress(OSError):
            return cell.run_folder is None or (self.folder / cell.run_folder / SUMMARY).is_file()
        return False


class FolderLock:
    """A lock on a suite's folder while in its context; ConfigError if another process has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = -1

    def __enter__(self) -> Self:
        RunFolder(self._folder).create()
        try:
            self._file = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(f"{self._folder / LOCK}: cannot be written: {why_of(error)}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise ConfigError(
                f"{self._folder}: another llmload suite is running in this folder; wait for it, or stop it"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)  # releases the lock, as the end of the process does


def refuse_links(folder: Path, places: Iterable[str]) -> None:
    """Raise ConfigError where one of these paths in the folder leads elsewhere: it is written to, or emptied."""
    for place in places:
        at = folder
        for part in Path(place).parts:
            at /= part
            what = "a link" if at.is_symlink() else "neither a file nor a folder"
            if at.is_symlink() or (at.exists() and not at.is_file() and not at.is_dir()):
                raise ConfigError(
                    f"{at}: is {what}, and a suite writes into its own folder alone: give another with --out"
                )


class SuiteProgress:
    """Lines on standard error; in its context also a progress bar, or a line for each step into a pipe."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        whole_line = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        step = TextColumn("{task.description}", markup=False, table_column=whole_line)
        columns = (SpinnerColumn(), step, BarColumn(12), MofNCompleteColumn(), _TimeLeft())
        self._bar = Progress(*columns, console=self.console, transient=True, expand=True)
        self._task = self._bar.add_task("", total=None, visible=False)
        self._said_s = -math.inf

    def line(self, text: str, style: str = "") -> None:
        """Print a line above the bar."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def show(self, text: str, done: int, total: int, left_s: float | None, *, every_s: float = 0.0) -> None:
        """Set the bar to the current step, the number of cells done and the time left; a line at most `every_s`."""
        ends = None if left_s is None else time.monotonic() + left_s
        self._bar.update(self._task, description=text, completed=done, total=total, visible=True, ends=ends)
        if not self.console.is_terminal and time.monotonic() - self._said_s >= every_s:
            self._said_s = time.monotonic()
            self.line(f"{text} ({done} of {total} cells done, {left_text(left_s)})")

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
    """The last estimate of the time left, minus the time since."""

    def render(self, task: Task) -> Text:
        """Return it as text."""
        ends = task.fields.get("ends")
        return Text(left_text(None if ends is None else max(0.0, ends - time.monotonic())))


def left_text(left_s: float | None) -> str:
    """Return the time left as text; n/a if it is not known."""
    if left_s is None:
        return "time left n/a"
    if left_s < 90:
        return f"about {left_s:.0f} s left"
    return f"about {left_s / S_PER_MIN:.0f} min left" if left_s < 5400 else f"about {left_s / S_PER_H:.1f} h left"


def time_left_s(plan: SuitePlan, state: SuiteState, pending: Collection[str], running: str | None) -> float | None:
    """
    Estimate the time for the pending cells from the cells and starts so far; None while that is unknown.

    A cell takes the median of its protocol's cells, or else its scenario's duration; a deployment that is not `running`
    takes the median of all starts. For the current cell the time since it began is subtracted.
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
    return cell.scenario.load.ends_after_s


def _since_s(state: SuiteState, cell: Cell) -> float:
    begun = state.cells.get(cell.name)
    return 0.0 if begun is None or begun.ended_unix_s is not None else time.time() - begun.started_unix_s
