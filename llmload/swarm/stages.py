"""A staged load as one process lives it: when each stage began here, and which part of it is judged."""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from llmload.measure.record import NS_PER_S
from llmload.measure.totals import Window
from llmload.scenario.loads import Staged


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a run that is judged by itself: its name, and its users or its rate."""

    name: str
    users: int | None
    rate_per_s: float | None


class PartClock(ABC):
    """When the parts of a load began on this process, and what follows from that alone."""

    def __init__(self) -> None:
        self._end_ns: int | None = None

    @property
    @abstractmethod
    def place(self) -> int:
        """The place of the part that goes on, or went on last."""

    @abstractmethod
    def name_of(self, place: int) -> str:
        """Return what the part at a place is called."""

    @abstractmethod
    def begin_ns(self, place: int) -> int | None:
        """Return when a part began; None for one that has not."""

    @abstractmethod
    def window(self, place: int) -> Window:
        """Return the judged part of a part, as far as it is known; one that is not judged has none."""

    def end(self) -> None:
        """The last part ends now; only the first call counts."""
        if self._end_ns is None:
            self._end_ns = time.monotonic_ns()

    def place_at(self, moment_ns: int) -> int:
        """Return the place of the part that a moment lies in."""
        begun = ((place, self.begin_ns(place)) for place in range(self.place + 1))
        return max((place for place, begin_ns in begun if begin_ns is not None and begin_ns <= moment_ns), default=0)

    def name_at(self, moment_ns: int) -> str:
        """Return the name of the part that a moment lies in."""
        return self.name_of(self.place_at(moment_ns))

    def judged_s(self, place: int) -> float | None:
        """Return how long a part has been judged so far, in seconds; None for one that is not yet."""
        window = self.window(place)
        if window.start_ns is None:
            return None
        judged_ns = (window.end_ns or time.monotonic_ns()) - window.start_ns
        return judged_ns / NS_PER_S if judged_ns > 0 else None

    def window_s(self, place: int) -> float | None:
        """Return how long a part was judged, in seconds; None for one that was not, or not to its end."""
        return self.window(place).length_s


class StageClock(PartClock):
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
    def parts(self) -> list[Part]:
        """Name and load of each stage."""
        return [
            Part(name=self.name_of(place), users=stage.users, rate_per_s=stage.rate_per_s)
            for place, stage in enumerate(self.load.stages)
        ]

    @property
    def place(self) -> int:
        """The place of the stage that goes on, or went on last."""
        return len(self._begins_ns) - 1

    def begin(self, place: int) -> None:
        """Begin the stage at a place now, unless it has begun."""
        while self.place < place:
            self._begins_ns.append(time.monotonic_ns())

    def begin_first_anew(self) -> None:
        """The first stage begins now, not at this process's start: processes start some time apart."""
        if self.place == 0:
            self._begins_ns[0] = time.monotonic_ns()

    def name_of(self, place: int) -> str:
        """Return what the stage at a place is called."""
        return self.load.name_of(place)

    def rate_per_s_now(self) -> float:
        """Return the arrival rate of this moment, beginning the next stage when its time has come; 0 after the last."""
        now_ns = time.monotonic_ns()
        while (due_ns := self._begins_ns[-1] + self._length_ns(self.place)) <= now_ns:
            if self.place + 1 == len(self.load.stages):
                return 0.0
            self._begins_ns.append(due_ns)
        return self.load.stages[self.place].rate_per_s or 0.0

    def begin_ns(self, place: int) -> int | None:
        """Return when a stage began; None for one that has not."""
        return self._begins_ns[place] if place <= self.place else None

    def window(self, place: int) -> Window:
        """Return the judged part of a stage: all but its warm-up; one that has not begun has none."""
        if place > self.place:
            return Window(start_ns=None)
        end_ns = self._end_ns if place == self.place else self._begins_ns[place + 1]
        return Window(start_ns=self._begins_ns[place] + round(self.load.warmup_s * NS_PER_S), end_ns=end_ns)

    def begun_s(self) -> list[float]:
        """Return when each stage that has begun did so, in seconds since the run's start."""
        return [(begin_ns - self._start_ns) / NS_PER_S for begin_ns in self._begins_ns]

    def _length_ns(self, place: int) -> int:
        return round(self.load.stages[place].duration_s * NS_PER_S)
