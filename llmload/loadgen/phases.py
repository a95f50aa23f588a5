"""The steps of a search as one process lives them: each is made when the node that steers orders it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

from gevent.lock import Semaphore

from llmload.metrics.totals import Window
from llmload.scenario.loads import Capacity, Staged
from llmload.units import NS_PER_S

# A staged load as one process lives it: when each stage began here, and which part of it is judged.


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of a run that is judged by itself: its name, and its users or its rate."""

    name: str
    users: int | None
    rate_per_s: float | None


class PhaseTimeline(ABC):
    """When the parts of a load began on this process, and what follows from that alone."""

    def __init__(self) -> None:
        self._end_ns: int | None = None

    @property
    @abstractmethod
    def index(self) -> int:
        """The place of the part that goes on, or went on last."""

    @abstractmethod
    def name_of(self, index: int) -> str:
        """Return what the part at a place is called."""

    @abstractmethod
    def begin_ns(self, index: int) -> int | None:
        """Return when a part began; None for one that has not."""

    @abstractmethod
    def window(self, index: int) -> Window:
        """Return the judged part of a part, as far as it is known; one that is not judged has none."""

    def end(self) -> None:
        """The last part ends now; only the first call counts."""
        if self._end_ns is None:
            self._end_ns = time.monotonic_ns()

    def place_at(self, moment_ns: int) -> int:
        """Return the place of the part that a moment lies in."""
        begun = ((index, self.begin_ns(index)) for index in range(self.index + 1))
        return max((index for index, begin_ns in begun if begin_ns is not None and begin_ns <= moment_ns), default=0)

    def name_at(self, moment_ns: int) -> str:
        """Return the name of the part that a moment lies in."""
        return self.name_of(self.place_at(moment_ns))

    def judged_s(self, index: int) -> float | None:
        """Return how long a part has been judged so far, in seconds; None for one that is not yet."""
        window = self.window(index)
        if window.start_ns is None:
            return None
        judged_ns = (window.end_ns or time.monotonic_ns()) - window.start_ns
        return judged_ns / NS_PER_S if judged_ns > 0 else None

    def window_s(self, index: int) -> float | None:
        """Return how long a part was judged, in seconds; None for one that was not, or not to its end."""
        return self.window(index).length_s


class StageTimeline(PhaseTimeline):
    """
    When the stages of a load began on this process.

    Stages with users are begun by the node that steers, which also changes the users; stages with rates begin by this
    process's own clock. Either way no clock is compared with another machine's.
    """

    def __init__(self, load: Staged, start_ns: int) -> None:
        super().__init__()
        self.load = load
        self._start_ns = start_ns
        self._begins_ns = [start_ns]

    @property
    def phases(self) -> list[Phase]:
        """Name and load of each stage."""
        return [
            Phase(name=self.name_of(index), users=stage.users, rate_per_s=stage.rate_per_s)
            for index, stage in enumerate(self.load.stages)
        ]

    @property
    def index(self) -> int:
        """The place of the stage that goes on, or went on last."""
        return len(self._begins_ns) - 1

    def begin(self, index: int) -> None:
        """Begin the stage at a place now, unless it has begun."""
        while self.index < index:
            self._begins_ns.append(time.monotonic_ns())

    def restart_first(self) -> None:
        """The first stage begins now, not at this process's start: processes start some time apart."""
        if self.index == 0:
            self._begins_ns[0] = time.monotonic_ns()

    def name_of(self, index: int) -> str:
        """Return what the stage at a place is called."""
        return self.load.name_of(index)

    def rate_per_s_now(self) -> float:
        """Return the arrival rate of this moment, beginning the next stage when its time has come; 0 after the last."""
        now_ns = time.monotonic_ns()
        while (due_ns := self._begins_ns[-1] + self._length_ns(self.index)) <= now_ns:
            if self.index + 1 == len(self.load.stages):
                return 0.0
            self._begins_ns.append(due_ns)
        return self.load.stages[self.index].rate_per_s or 0.0

    def begin_ns(self, index: int) -> int | None:
        """Return when a stage began; None for one that has not."""
        return self._begins_ns[index] if index <= self.index else None

    def window(self, index: int) -> Window:
        """Return the judged part of a stage: all but its warm-up; one that has not begun has none."""
        if index > self.index:
            return Window(start_ns=None)
        end_ns = self._end_ns if index == self.index else self._begins_ns[index + 1]
        return Window(start_ns=self._begins_ns[index] + round(self.load.warmup_s * NS_PER_S), end_ns=end_ns)

    def begun_s(self) -> list[float]:
        """Return when each stage that has begun did so, in seconds since the run's start."""
        return [(begin_ns - self._start_ns) / NS_PER_S for begin_ns in self._begins_ns]

    def _length_ns(self, index: int) -> int:
        return round(self.load.stages[index].duration_s * NS_PER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCommand:
    """
    What the node that steers tells every process: which step goes on, its load, and whether its window is open.

    Each order says everything, so that one that comes twice changes nothing.
    """

    index: int
    load: float
    paused: bool = False
    """Nothing is sent in an open loop: what the step before left behind is to be answered first."""
    judged: bool = False

    def to_message(self, run_id: str) -> dict[str, Any]:
        """Return the order as plain values, fit for msgpack."""
        return {"run_id": run_id, "order": asdict(self)}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Self:
        """Return the order that `to_message` described."""
        return cls(**message["order"])


@dataclass(slots=True)
class _Step:
    load: float
    begin_ns: int
    judged_ns: int | None = None


class StepTimeline(PhaseTimeline):
    """When each step began on this process, and since when it is judged; the first begins with the run."""

    def __init__(self, load: Capacity, start_ns: int) -> None:
        super().__init__()
        self._in_users = load.has_users
        self._steps = [_Step(load.start, start_ns)]
        self._paused = False

    @property
    def index(self) -> int:
        """The place of the step that goes on, or went on last."""
        return len(self._steps) - 1

    @property
    def phases(self) -> list[Phase]:
        """Name and load of each step so far."""
        return [
            Phase(
                name=self.name_of(index),
                users=int(step.load) if self._in_users else None,
                rate_per_s=None if self._in_users else step.load,
            )
            for index, step in enumerate(self._steps)
        ]

    def apply(self, command: StepCommand) -> None:
        """Begin the ordered step and open its window now, where that has not happened yet."""
        now_ns = time.monotonic_ns()
        if command.index > self.index:
            self._steps.append(_Step(command.load, now_ns))
        self._paused = command.paused
        step = self._steps[self.index]
        if command.judged and step.judged_ns is None:
            step.judged_ns = now_ns

    def name_of(self, index: int) -> str:
        """Return what the step at a place is called."""
        return f"step-{index + 1}"

    def begin_ns(self, index: int) -> int | None:
        """Return when a step began; None for one that has not."""
        return self._steps[index].begin_ns if index <= self.index else None

    def rate_per_s_now(self) -> float:
        """Return the arrival rate of this moment."""
        return 0.0 if self._paused else self._steps[self.index].load

    def window(self, index: int) -> Window:
        """Return the judged part of a step, as far as it is known; one that is not judged has none."""
        judged_ns = self._steps[index].judged_ns if index <= self.index else None
        if judged_ns is None:
            return Window(start_ns=None)
        end_ns = self._end_ns if index == self.index else self._steps[index + 1].begin_ns
        return Window(start_ns=judged_ns, end_ns=end_ns)

    def begun_s(self) -> list[float]:
        """Return when each step began, in seconds since the run's start."""
        return [(step.begin_ns - self._steps[0].begin_ns) / NS_PER_S for step in self._steps]


class ConcurrencyLimit:
    """
    How many users of this process may have a request in flight; the others rest.

    Fewer seats cut nothing: who sits stays until the answer is complete.
    """

    def __init__(self, count: int) -> None:
        self._count, self._owed = count, 0
        self._free = Semaphore(count)

    def resize(self, count: int) -> None:
        """Let so many users send from now on."""
        change, self._count = count - self._count, count
        if change < 0:
            self._owed -= change
            while self._owed and self._free.acquire(blocking=False):
                self._owed -= 1
            return
        paid = min(change, self._owed)
        self._owed -= paid
        for _ in range(change - paid):
            self._free.release()

    @contextmanager
    def seat(self) -> Iterator[None]:
        """Wait for a seat and hold it."""
        self._free.acquire()
        try:
            yield
        finally:
            if self._owed:
                self._owed -= 1
            else:
                self._free.release()
