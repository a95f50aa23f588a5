"""What drives a load that is measured step by step, a search or a sweep, and what it is driven through."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Final, NamedTuple, Protocol

import gevent

from llmload.loadgen.commanded import StepTimeline
from llmload.loadgen.phases import StepCommand
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Reason
from llmload.runs.build_summary import RunOutcome
from llmload.stats.histogram import Histogram

PERIOD_S: Final = 0.25
"""How often a step is sampled and judged."""
REPORT_S: Final = 0.5
"""How often workers report during a search or a sweep: Locust's three seconds are a third of a short step."""
FIRST_ANSWERS: Final = 3
"""Minimum number of requests of an open-loop step that end before its window opens."""


class StepHost(Protocol):
    """What a driver drives its steps through."""

    def command_step(self, command: StepCommand) -> None:
        """Send the current step to every process."""

    def counts(self) -> tuple[int, int]:
        """How many requests have ended, and how many are in flight."""

    def step_totals(self, name: str) -> RunTotals:
        """The totals of a step so far."""

    def users(self) -> int:
        """How many users run."""

    def loop_lag(self) -> Histogram:
        """How late the event loops of all processes ran so far."""

    def sender_cpu_usage(self) -> float:
        """The CPU use of the busiest process that sends, in per cent of one core."""


class Found(NamedTuple):
    """The step that a run's figures are of: its totals (None: there is none), its window's length and start."""

    totals: RunTotals | None
    window_s: float | None = None
    opened_ns: int | None = None


class StepDriver(ABC):
    """
    Takes one step after the other; `run` returns when it is over.

    `max_users` is what the shape calls for: users never become fewer, those beyond the step's number rest.
    """

    noun: ClassVar[str]
    """What the steps are together: a search, a sweep."""

    def __init__(self, clock: StepTimeline, *, first: int, limit_s: float | None, drain_s: float) -> None:
        self.clock = clock
        self.phase = "warm-up"
        self.finished = False
        self.max_users = first
        self._limit_s, self._drain_s = limit_s, drain_s
        self._started_s = self._begun_s = time.monotonic()

    def prepare(self) -> None:  # noqa: B027 - a search needs nothing
        """Do what comes before the first request; EngineError where the engine cannot be measured so."""

    @abstractmethod
    def run(self, host: StepHost) -> None:
        """Take every step."""

    @property
    @abstractmethod
    def target_users(self) -> int:
        """The current step's number of users; 1, idle, in an open loop."""

    @property
    @abstractmethod
    def text(self) -> str:
        """Where it is, in words."""

    @property
    @abstractmethod
    def undone(self) -> str | None:
        """How far it has come, in words; None once it is over."""

    @property
    @abstractmethod
    def left_s(self) -> float | None:
        """About how long it will still take; None where that is not known yet."""

    @property
    def measured(self) -> Sequence[str]:
        """A line for each step that has been measured, for those who watch; none where steps say little alone."""
        return ()

    @abstractmethod
    def found(self, stages: Mapping[str, RunTotals]) -> Found:
        """Return the step that the run's figures are of."""

    @abstractmethod
    def unmeasured(self, stages: Mapping[str, RunTotals]) -> Iterator[Reason]:
        """Yield why it has measured nothing, or less than it seems."""

    @abstractmethod
    def complete(self, outcome: RunOutcome, stages: Mapping[str, RunTotals]) -> RunOutcome:
        """Return the outcome of the run with what was found."""

    @property
    def elapsed_s(self) -> float:
        """How long the current phase of the step has lasted."""
        return time.monotonic() - self._begun_s

    @property
    def _out_of_time(self) -> bool:
        return self._limit_s is not None and time.monotonic() - self._started_s >= self._limit_s

    def _enter(self, phase: str) -> None:
        self.phase, self._begun_s = phase, time.monotonic()

    def _settle(self, host: StepHost, index: int, load: float) -> None:
        """Send nothing until what is in flight is answered or `drain_s` is over."""
        self._enter("settling")
        host.command_step(StepCommand(index=index, load=load, paused=True))
        while host.counts()[1] and self.elapsed_s < self._drain_s and not self._out_of_time:
            gevent.sleep(PERIOD_S)


def copied(lag: Histogram) -> Histogram:
    """Return a copy, to which later values are compared."""
    copy = Histogram()
    copy.merge(lag)
    return copy
