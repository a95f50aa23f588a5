"""The steps of a search as one process lives them: each is made when the node that steers orders it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

from gevent.lock import Semaphore

from llmload.measure.record import NS_PER_S
from llmload.measure.totals import Window
from llmload.scenario.capacity import Capacity
from llmload.swarm.stages import Part, PartClock


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What the node that steers tells every process: which step goes on, its load, and whether its window is open.

    Each order says everything, so that one that comes twice changes nothing.
    """

    place: int
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


class StepClock(PartClock):
    """When each step began on this process, and since when it is judged; the first begins with the run."""

    def __init__(self, load: Capacity, start_ns: int) -> None:
        super().__init__()
        self._in_users = load.has_users
        self._steps = [_Step(load.start, start_ns)]
        self._paused = False

    @property
    def place(self) -> int:
        """The place of the step that goes on, or went on last."""
        return len(self._steps) - 1

    @property
    def parts(self) -> list[Part]:
        """Name and load of each step so far."""
        return [
            Part(
                name=self.name_of(place),
                users=int(step.load) if self._in_users else None,
                rate_per_s=None if self._in_users else step.load,
            )
            for place, step in enumerate(self._steps)
        ]

    def follow(self, order: Order) -> None:
        """Begin the ordered step and open its window now, where that has not happened yet."""
        now_ns = time.monotonic_ns()
        if order.place > self.place:
            self._steps.append(_Step(order.load, now_ns))
        self._paused = order.paused
        step = self._steps[self.place]
        if order.judged and step.judged_ns is None:
            step.judged_ns = now_ns

    def name_of(self, place: int) -> str:
        """Return what the step at a place is called."""
        return f"step-{place + 1}"

    def begin_ns(self, place: int) -> int | None:
        """Return when a step began; None for one that has not."""
        return self._steps[place].begin_ns if place <= self.place else None

    def rate_per_s_now(self) -> float:
        """Return the arrival rate of this moment."""
        return 0.0 if self._paused else self._steps[self.place].load

    def window(self, place: int) -> Window:
        """Return the judged part of a step, as far as it is known; one that is not judged has none."""
        judged_ns = self._steps[place].judged_ns if place <= self.place else None
        if judged_ns is None:
            return Window(start_ns=None)
        end_ns = self._end_ns if place == self.place else self._steps[place + 1].begin_ns
        return Window(start_ns=judged_ns, end_ns=end_ns)

    def begun_s(self) -> list[float]:
        """Return when each step began, in seconds since the run's start."""
        return [(step.begin_ns - self._steps[0].begin_ns) / NS_PER_S for step in self._steps]


class Seats:
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
