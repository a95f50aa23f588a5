"""
Which part of a run is measured: the window of the whole, and a timeline of the load's phases (stages, steps).

Each process has its own window and timeline, on its own monotonic clock; no clocks of two machines are compared. In a
distributed run they are the same ones nevertheless: every process opens its window and begins the first phase at one
message, which the master sends once all workers send, and ends both at another, `Drain`. So a worker's counts may be
divided by the master's lengths; the two differ by how long a message takes.
"""

import time
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from llmload.metrics.totals import RunTotals
from llmload.record import Window
from llmload.scenario.load_protocol import Load
from llmload.scenario.loads import Spike
from llmload.scenario.staged import Staged
from llmload.units import NS_PER_S

FOREVER_NS: Final = 2**63 - 1


class Span:
    """
    The window of a run, on this process's clock.

    A timed run's window opens when all users run and the warm-up has passed, and closes when the load ends. A counted
    run's window reaches from its first request to its last answer. `start_ns` is when the run began, now if None.
    """

    def __init__(self, load: Load, start_ns: int | None = None) -> None:
        now_ns = time.monotonic_ns()
        self.start_ns = now_ns if start_ns is None else start_ns
        self._start_unix_s = time.time() - (now_ns - self.start_ns) / NS_PER_S
        self._warmup_s, self._timed = load.window_warmup_s, load.is_timed
        self._open_ns = None if self._timed or self._warmup_s else self.start_ns
        self._close_ns: int | None = None
        self._ramp_s = load.ramp.length_s
        self._late_s = 0.0

    def left_s(self, limit_s: float) -> float:
        """Return how much of a time limit is left; it counts from when all users run, less the length of their ramp."""
        return limit_s + self._late_s - (time.monotonic_ns() - self.start_ns) / NS_PER_S

    @property
    def window(self) -> Window:
        """The window, as far as it is known."""
        return Window(start_ns=self._open_ns, end_ns=self._close_ns)

    def open(self) -> None:
        """All users are running; only the first call counts, and none after the load's end."""
        if self._open_ns is None and self._close_ns is None:
            now_ns = time.monotonic_ns()
            self._open_ns = now_ns + round(self._warmup_s * NS_PER_S)
            self._late_s = max(0.0, (now_ns - self.start_ns) / NS_PER_S - self._ramp_s)

    def close(self) -> None:
        """The load has ended; only the first call counts."""
        if self._timed and self._close_ns is None:
            self._close_ns = time.monotonic_ns()

    def opened_ns(self, totals: RunTotals) -> int | None:
        """Return when the window opened, a counted run's with its first request; None before that."""
        if self._open_ns is None or self._timed or totals.first_started_s is None:
            return self._open_ns
        return max(self._open_ns, self.start_ns + round(totals.first_started_s * NS_PER_S))

    def opened_unix_s(self, totals: RunTotals) -> float | None:
        """Return when the window opened, in Unix time; None where it has no length."""
        opened_ns = self.opened_ns(totals)
        if self.length_s(totals) is None or opened_ns is None:
            return None
        return self._start_unix_s + (opened_ns - self.start_ns) / NS_PER_S

    def length_s(self, totals: RunTotals) -> float | None:
        """Return how long the window is so far; None before it opens or a first request is sent, never 0 or less."""
        if self._open_ns is None:
            return None
        if self._timed:
            length_s = ((self._close_ns or time.monotonic_ns()) - self._open_ns) / NS_PER_S
            return length_s if length_s > 0 else None
        first_s, last_s = totals.first_started_s, totals.last_done_s
        if first_s is None or last_s is None:
            return None
        length_s = last_s - max(first_s, (self._open_ns - self.start_ns) / NS_PER_S)
        return length_s if length_s > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a run that is measured by itself: its name, and its users or its rate."""

    name: str
    users: int | None = None
    rate_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSpan:
    """When a phase began on this process, None for one that has not, and its window as far as it is known."""

    phase: Phase
    begin_ns: int | None
    window: Window


class PhaseTimeline(ABC):
    """
    When the phases of a load began on this process, counted by an index; a name may come again at a later index.

    Phases of one name are measured together: their lengths and the figures of their windows are added up. A request
    that touches several of them counts in each window for what happened there: its start, its end, its tokens.
    """

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._end_ns: int | None = None

    # What a timeline answers

    @property
    @abstractmethod
    def index(self) -> int:
        """The index of the current phase, or of the last one once the load is over."""

    @property
    @abstractmethod
    def phases(self) -> list[Phase]:
        """The phases that are reported, each name once."""

    @abstractmethod
    def name_of(self, index: int) -> str:
        """Return the name of the phase at an index."""

    @abstractmethod
    def begin_ns(self, index: int) -> int | None:
        """Return when the phase at an index began; None for one that has not."""

    @abstractmethod
    def window(self, index: int) -> Window:
        """Return the window of the phase at an index, as far as it is known."""

    @property
    @abstractmethod
    def rate_per_s(self) -> float | None:
        """The target rate of this moment; None in a closed loop."""

    @abstractmethod
    def rate_at(self, moment_ns: int) -> tuple[float, int]:
        """Return the arrival rate at a moment that is not in the future, and until when it stays the same."""

    # Phases that begin when the master says so

    def begin_first(self) -> None:  # noqa: B027 - for timelines that a master moves on; so are the next two
        """Begin the first phase now: all users run in all processes. Only the first call counts."""

    def begin(self, index: int) -> None:  # noqa: B027
        """Begin the phase at an index now, unless it has begun."""

    def apply(self, command: "StepCommand") -> None:  # noqa: B027
        """Begin a phase, or open its window, as a master commands."""

    def elapsed_s(self, run_time_s: float) -> float:
        """Return how much of the phases' time has passed, `run_time_s` after Locust started the load."""
        return run_time_s

    @property
    def place(self) -> str:
        """Where in its phases the load is, as the end of a sentence; empty where they have no number."""
        return ""

    # Derived from these answers

    def end(self) -> None:
        """End the last phase now; only the first call counts."""
        if self._end_ns is None:
            self._end_ns = time.monotonic_ns()

    def spans(self) -> list[PhaseSpan]:
        """Return every span of a phase, in the order of time."""
        return [
            PhaseSpan(phase=phase, begin_ns=self.begin_ns(index), window=self.window(index))
            for index, phase in enumerate(self.phases)
        ]

    def index_at(self, moment_ns: int) -> int:
        """Return the index of the phase that a moment lies in."""
        begun = ((index, self.begin_ns(index)) for index in range(self.index + 1))
        return max((index for index, begin_ns in begun if begin_ns is not None and begin_ns <= moment_ns), default=0)

    def name_at(self, moment_ns: int) -> str:
        """Return the name of the phase that a moment lies in."""
        return self.name_of(self.index_at(moment_ns))

    def touched(self, from_ns: int, to_ns: int) -> Iterator[tuple[str, Window]]:
        """Yield name and window of each phase that a span of time touches."""
        for index in range(self.index_at(from_ns), self.index_at(to_ns) + 1):
            yield self.name_of(index), self.window(index)

    def begin_s(self, name: str) -> float | None:
        """Return when the phase first began, in seconds since the run's start; None where it has not."""
        index = next((index for index in range(self.index + 1) if self.name_of(index) == name), None)
        begin_ns = None if index is None else self.begin_ns(index)
        return None if begin_ns is None else (begin_ns - self._start_ns) / NS_PER_S

    def measured_s(self, name: str) -> float | None:
        """Return how long the phase has been measured so far, in seconds; None before its window opens."""
        now_ns = time.monotonic_ns()
        return sum(window.overlap_s(0, now_ns) for window in self._windows(name)) or None

    def window_s(self, name: str) -> float | None:
        """Return how long the phase was measured, in seconds; None where it was not, or not to its end."""
        return sum(window.length_s or 0.0 for window in self._windows(name)) or None

    def _windows(self, name: str) -> tuple[Window, ...]:
        return tuple(self.window(index) for index in range(self.index + 1) if self.name_of(index) == name)


class StageTimeline(PhaseTimeline):
    """
    When the stages of a load began on this process.

    The first stage begins when the master says so, once all processes send; until then nothing is measured. The master
    begins each later stage with users, for it also changes the users; stages with rates follow by this process's own
    clock.
    """

    def __init__(self, load: Staged, start_ns: int) -> None:
        super().__init__(start_ns)
        self.load = load
        self._begun = False
        self._edges_ns = [start_ns]
        """When each stage began; with rates also when those to come will, and the last will end."""

    def begin_first(self) -> None:
        """Begin the first stage now; only the first call counts."""
        if self._begun or self._end_ns is not None:
            return
        self._begun, self._edges_ns = True, [time.monotonic_ns()]
        if not self.load.has_users:
            lengths_ns = (round(stage.duration_s * NS_PER_S) for stage in self.load.stages)
            self._edges_ns = list(accumulate(lengths_ns, initial=self._edges_ns[0]))

    def begin(self, index: int) -> None:
        """Begin the stage at an index now, unless it has begun or begins by the clock."""
        if self.load.has_users and self._end_ns is None:
            self._begun = self._begun or index > 0  # the first stage was over before its users ran
            to_begin = min(index, len(self.load.stages) - 1) - self.index
            self._edges_ns += [time.monotonic_ns()] * max(0, to_begin)

    def elapsed_s(self, run_time_s: float) -> float:
        """Return how much of the stages' time has passed: with rates, since the first began."""
        if self.load.has_users:
            return run_time_s
        return (time.monotonic_ns() - self._edges_ns[0]) / NS_PER_S if self._begun else 0.0

    @property
    def phases(self) -> list[Phase]:
        """Name and load of each stage."""
        return [
            Phase(name=self.name_of(index), users=stage.users, rate_per_s=stage.rate_per_s)
            for index, stage in enumerate(self.load.stages)
        ]

    @property
    def index(self) -> int:
        """The index of the current stage, or of the last one."""
        index = bisect_right(self._edges_ns, self._end_ns or time.monotonic_ns()) - 1
        return min(max(0, index), len(self.load.stages) - 1)

    @property
    def place(self) -> str:
        """Which of the stages it is."""
        return f", in stage {self.index + 1} of {len(self.load.stages)}"

    def name_of(self, index: int) -> str:
        """Return the name of the stage at an index."""
        return self.load.name_of(index)

    @property
    def rate_per_s(self) -> float | None:
        """The rate of the current stage; None for stages with users."""
        return self.load.stages[self.index].rate_per_s

    def rate_at(self, moment_ns: int) -> tuple[float, int]:
        """Return the rate at a moment, and when its stage ends; 0 after the last."""
        if not self._begun:
            return self.load.stages[0].rate_per_s or 0.0, FOREVER_NS
        index = max(0, bisect_right(self._edges_ns, moment_ns) - 1)
        if index == len(self.load.stages):
            return 0.0, FOREVER_NS
        return self.load.stages[index].rate_per_s or 0.0, self._edges_ns[index + 1]

    def begin_ns(self, index: int) -> int | None:
        """Return when a stage began or will; None where that is not known, or the load ended before."""
        begin_ns = self._edge_ns(index)
        return None if begin_ns is None or begin_ns > (self._end_ns or begin_ns) else begin_ns

    def window(self, index: int) -> Window:
        """Return the window of a stage: all but its ramp and warm-up; a stage that has not begun has none."""
        begin_ns = self.begin_ns(index)
        if begin_ns is None or not self._begun:
            return Window(start_ns=None)
        ends_ns = [end_ns for end_ns in (self._edge_ns(index + 1), self._end_ns) if end_ns is not None]
        ramp_s = self.load.ramp_of(index).length_s if index else 0.0  # the first begins once its users run
        opens_ns = begin_ns + round((ramp_s + self.load.warmup_s) * NS_PER_S)
        return Window(start_ns=opens_ns, end_ns=min(ends_ns, default=None))

    def _edge_ns(self, index: int) -> int | None:
        return self._edges_ns[index] if index < len(self._edges_ns) else None


class SpikeTimeline(PhaseTimeline):
    """
    Base and burst by turns: even indices are base, odd ones are burst.

    The first period begins when the master says so, once all processes send; until then all is base, and nothing is
    measured. The rest is by this process's own clock.
    """

    def __init__(self, load: Spike, start_ns: int) -> None:
        super().__init__(start_ns)
        self._load = load
        self._phases = (
            Phase(name="base", rate_per_s=load.base_rate_per_s),
            Phase(name="burst", rate_per_s=load.burst_rate_per_s),
        )
        self._period_ns, burst_ns = round(load.period_s * NS_PER_S), round(load.burst_s * NS_PER_S)
        self._base_ns = self._period_ns - burst_ns
        self._first_ns, self._begun = start_ns, False

    def begin_first(self) -> None:
        """Begin the first period now; only the first call counts."""
        if not self._begun and self._end_ns is None:
            self._first_ns, self._begun = time.monotonic_ns(), True

    @property
    def phases(self) -> list[Phase]:
        """Base and burst."""
        return list(self._phases)

    def index_at(self, moment_ns: int) -> int:
        """Return the index of the phase that a moment lies in."""
        if not self._begun:
            return 0
        periods, since_ns = divmod(max(0, moment_ns - self._first_ns), self._period_ns)
        return 2 * periods + (since_ns >= self._base_ns)

    @property
    def index(self) -> int:
        """The index of the current phase, or of the last one."""
        return self.index_at(self._end_ns or time.monotonic_ns())

    def name_of(self, index: int) -> str:
        """Return base or burst."""
        return self._phases[index % 2].name

    def begin_ns(self, index: int) -> int:
        """Return when the phase at an index begins, as far as is known before the first period has begun."""
        return self._first_ns + index // 2 * self._period_ns + index % 2 * self._base_ns

    def window(self, index: int) -> Window:
        """Return the window of the phase at an index: all of it after the warm-up and before the end."""
        if not self._begun:
            return Window(start_ns=None)
        warm_ns = self._first_ns + round(self._load.warmup_s * NS_PER_S)
        from_ns, to_ns = max(self.begin_ns(index), warm_ns), self.begin_ns(index + 1)
        if self._end_ns is not None:
            to_ns = min(to_ns, self._end_ns)
        return Window(start_ns=from_ns, end_ns=to_ns) if from_ns < to_ns else Window(start_ns=None)

    def spans(self) -> list[PhaseSpan]:
        """Return every base and burst of the run, those to come too, so that a run that crashes has them."""
        planned_end_ns = self._first_ns + round(self._load.duration_s * NS_PER_S)
        last = self.index_at((self._end_ns or planned_end_ns) - 1)
        return [
            PhaseSpan(phase=self._phases[index % 2], begin_ns=self.begin_ns(index), window=self.window(index))
            for index in range(last + 1)
        ]

    @property
    def rate_per_s(self) -> float:
        """The rate of this moment."""
        return self.rate_at(time.monotonic_ns())[0]

    def rate_at(self, moment_ns: int) -> tuple[float, int]:
        """Return the rate at a moment, and when base or burst ends."""
        index = self.index_at(moment_ns)
        until_ns = self.begin_ns(index + 1) if self._begun else FOREVER_NS
        return self._phases[index % 2].rate_per_s or 0.0, until_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCommand:
    """
    What the master commands every process: the current phase (a step of a search or a sweep, or what an edit begins),
    its load, and whether its window is open.

    Each command is complete, so one that arrives twice changes nothing.
    """

    index: int
    load: float
    paused: bool = False
    """Nothing is sent until the requests that the step before left in flight are answered."""
    measured: bool = False
    """Whether the step's window is open."""
    closed: bool = False
    """Whether it has closed, so that what began in it is answered under the step's load."""
    shape: int | None = None
    """Which of `prompts.shapes` its prompts have, by index; None: all of the prompts."""
