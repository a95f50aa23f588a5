"""A row of the table of ends: the run, what happens to it, and what is expected for its end."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from benchmarks.tools.controlled_engine import Behaviour

if TYPE_CHECKING:  # a step acts on a run, and a run has a row
    from benchmarks.trials.ends.running import Running


class Mode(StrEnum):
    """How many processes a run has, and how they are started."""

    ONE = "one process"
    PROCESSES = "--processes 2"
    WORKERS = "master, 2 workers"


ALL: Final = tuple(Mode)
USUAL: Final = Behaviour()


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is waited for, or done to the run."""

    text: str
    act: "Callable[[Running], None]"
    needs_root: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """How a run must end; an empty set allows anything."""

    codes: frozenset[int]
    levels: frozenset[str] = frozenset()
    """The verdict's level; empty: the run never began, so it has no summary and sent nothing."""
    reasons: frozenset[str] = frozenset()
    """The check of the verdict's first reason."""
    says: str = ""
    """A regular expression that is found in what the run wrote to its outputs."""
    killed: int = 0
    """Requests that may have no line since their process was killed before it could write one."""
    reported: bool = False
    """The run leaves no summary: `llmload report` has to tell the account of its folder."""
    report_agrees: bool = False
    """`llmload report` has to give the run's folder the verdict that the run gave itself."""
    edited: bool = False
    """The summary has to say how the load was edited, and to measure its phases."""
    folder_lost: bool = False
    """There is nowhere to write `summary.json` to, so what the run prints is its summary."""


INVALID: Final = frozenset({"INVALID"})
USABLE: Final = frozenset({"VALID", "DEGRADED"})
GOOD: Final = Expected(codes=frozenset({0}), levels=USABLE)
CUT: Final = Expected(codes=frozenset({130}), levels=INVALID, reasons=frozenset({"ended_early"}))
REFUSED: Final = Expected(codes=frozenset({2}))
NOTHING_MEASURED: Final = Expected(codes=frozenset({3}), levels=INVALID, reasons=frozenset({"nothing_measured"}))


def invalid(*reasons: str, says: str = "", killed: int = 0) -> Expected:
    """Expect an INVALID verdict whose first reason is one of these, and exit code 3."""
    return Expected(codes=frozenset({3}), levels=INVALID, reasons=frozenset(reasons), says=says, killed=killed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run."""

    name: str
    expected: Expected
    load: str
    """The lines of the scenario's table `load`."""
    modes: tuple[Mode, ...] = (Mode.ONE,)
    steps_before: tuple[Step, ...] = ()
    """What happens before the run is started."""
    steps: tuple[Step, ...] = ()
    engine: Behaviour = USUAL
    no_engine: bool = False
    """The engine's port is closed before the run begins."""
    further: str = ""
    """Further tables of the scenario."""
    locustfile: str = "chat.py"
    users: str = ""
    """The text of a locustfile, instead of one of llmload's."""
    model: str = "controlled"
    options: tuple[str, ...] = ()
    as_llmload: bool = False
    """The run is started by `llmload run`, as most users do."""
    web: bool = False
    """The run has the web UI, which the steps drive."""
    files: Mapping[str, str] = field(default_factory=dict)
    disk_kib: int | None = None
    """The run's folder is on a separate file system of this size."""
    descriptors: int | None = None
    """How many file descriptors a process of the run may have."""
    workers_wait: bool = False
    """The run ends before its master has answered workers, so they wait for another master."""
    ends_within_s: float = 20.0
    """After the last step; a run that takes longer hangs."""
    ci: tuple[Mode, ...] = ()
    """The modes in which the tests run it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row in one of its modes."""

    row: Row
    mode: Mode

    @property
    def name(self) -> str:
        """Row and mode in words."""
        return f"{self.row.name} | {self.mode}"


def cases_of(rows: tuple[Row, ...]) -> Iterator[Case]:
    """Yield every row in every one of its modes."""
    return (Case(row=row, mode=mode) for row in rows for mode in row.modes)
