"""What a suite shows while it works: a line for each thing done, and on a terminal a bar with the time left."""

import time
from collections.abc import Collection, Mapping
from statistics import median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from llmload.suite.deployment_plan import Cell
from llmload.suite.plan import SuitePlan
from llmload.suite.state import SuiteState


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
    return f"about {left_s / 60:.0f} min left" if left_s < 5400 else f"about {left_s / 3600:.1f} h left"


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
