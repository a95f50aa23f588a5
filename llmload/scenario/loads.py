"""The load types of a scenario: closed loop, open loop, spike, replay of a trace, stages, the search for a capacity."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from llmload.errors import ConfigError
from llmload.prompts.trace import Unit, read_trace, trace_of_worker
from llmload.scenario.capacity import Capacity
from llmload.scenario.load_protocol import (
    Arrivals,
    Bounded,
    Load,
    Ramp,
    part_of,
    refuse_unopened,
    run_time_for,
)
from llmload.scenario.sections import Count, NotNegative, Positive, Rate, Users
from llmload.scenario.staged import Staged
from llmload.scenario.sweep import Sweep
from llmload.units import counted

_ROUNDING: Final = 1e-9


class ClosedLoop(Bounded):
    """`users` requests in flight at a time: each user sends its next prompt when its last answer is complete."""

    kind: Literal["closed_loop"]
    users: Users
    """How many users run, each with one request in flight at a time."""
    spawn_rate_per_s: Positive | None = None
    """Users started a second; all at once where absent."""
    think_time_s: NotNegative = 0.0
    """How long a user rests between conversations."""

    locust_options: ClassVar[Mapping[str, str]] = {
        "users": "num_users",
        "spawn_rate_per_s": "spawn_rate",
        "duration_s": "run_time",
    }
    editable: ClassVar[frozenset[str]] = frozenset(locust_options)
    target_key: ClassVar[str | None] = "users"

    @model_validator(mode="after")
    def _users_have_requests(self) -> Self:
        if self.requests is not None and self.users > self.requests:
            raise ValueError(f"users = {self.users} is more than requests = {self.requests}")
        return self

    @property
    def think_s(self) -> float:
        """How long a user rests between conversations."""
        return self.think_time_s

    @property
    def constant_users(self) -> int:
        """As many users throughout."""
        return self.users

    @property
    def busy_users(self) -> int | None:
        """All users, unless they rest, or the run ends as the last of them runs out of requests."""
        return self.users if self.duration_s is not None and not self.think_time_s else None

    @property
    def locust_users(self) -> int:
        """How many Locust users start."""
        return self.users

    def spawn_rate_for(self, users: int) -> float:
        """Return the load's own rate, or else that which starts all users at once."""
        return self.spawn_rate_per_s or float(users)

    @property
    def ramp(self) -> Ramp:
        """All users."""
        return Ramp(users=self.users, spawn_rate_per_s=self.locust_spawn_rate_per_s)

    @property
    def text(self) -> str:
        """The load in words."""
        return f"{self.brief} in a closed loop"

    @property
    def brief(self) -> str:
        """The load in few words."""
        return counted(self.users, "user")

    def check_workers(self, workers: int) -> None:
        """Refuse a counted load with fewer users than workers: one without a user would never send its part."""
        if self.requests is not None and self.users < workers:
            raise ConfigError(
                f"load.users = {self.users} is fewer than the {workers} workers that share "
                f"load.requests = {self.requests}: start no more workers than users"
            )


class OpenLoop(Arrivals, Bounded):
    """Requests are sent when they are due, however many are in flight."""

    kind: Literal["open_loop"]
    rate_per_s: Rate
    """Requests a second over all workers."""

    editable: ClassVar[frozenset[str]] = frozenset({"rate_per_s", "duration_s"})
    target_key: ClassVar[str | None] = "rate_per_s"

    @property
    def is_open_loop(self) -> bool:
        """Requests are sent when they are due."""
        return True

    @property
    def gaps_per_s(self) -> float:
        """The rate as the scenario has it."""
        return self.rate_per_s

    @property
    def constant_rate_per_s(self) -> float:
        """The same rate throughout."""
        return self.rate_per_s

    def check_window(self) -> None:
        """Refuse a warm-up that outlasts the requests, and constant arrivals of which none is in the window."""
        super().check_window()
        if self.requests is not None:
            sent_s = self.requests / self.rate_per_s
            end = f"the {sent_s:g} s in which requests = {self.requests} are sent at rate_per_s = {self.rate_per_s:g}"
            longer = f"--requests {math.ceil(self.rate_per_s * self.warmup_s * 2)}"
            refuse_unopened(self.ramp, self.warmup_s, sent_s, end, longer=longer)
        first = math.ceil(self.warmup_s * self.rate_per_s - _ROUNDING)
        ends_s = math.inf if self.duration_s is None else self.duration_s
        if self.arrivals == "constant" and first / self.rate_per_s >= ends_s:
            raise ValueError(
                f"rate_per_s = {self.rate_per_s:g} sends nothing between warmup_s = {self.warmup_s:g} and duration_s = "
                f"{ends_s:g}: give {run_time_for(first / self.rate_per_s)}"
            )

    @property
    def text(self) -> str:
        """The load in words."""
        return f"{self.brief} in an open loop, {self.arrivals} arrivals"

    @property
    def brief(self) -> str:
        """The load in few words."""
        return f"{self.rate_per_s:g} requests/s"


class Spike(Arrivals):
    """An open loop at a base rate, with a burst at the end of each period; base and burst are measured apart."""

    kind: Literal["spike"]
    base_rate_per_s: Rate
    """Requests a second over all workers, between the bursts."""
    burst_rate_per_s: Rate
    """Requests a second over all workers, in a burst."""
    burst_s: Positive
    """How long a burst lasts: the last part of each period."""
    period_s: Positive
    """How long base and burst take together; the first period begins with the run."""
    duration_s: Positive
    """The run ends this long after its start, warm-up included."""

    phases_recur: ClassVar[bool] = True

    @model_validator(mode="after")
    def _has_bursts(self) -> Self:
        if self.burst_s >= self.period_s:
            raise ValueError(
                f"burst_s = {self.burst_s:g} leaves no time at the base rate in period_s = {self.period_s:g}"
            )
        if self.burst_rate_per_s <= self.base_rate_per_s:
            raise ValueError(
                f"burst_rate_per_s = {self.burst_rate_per_s:g} is not above base_rate_per_s = {self.base_rate_per_s:g}"
            )
        return self

    def check_window(self) -> None:
        """Refuse a time without one whole period: base or burst would not be measured."""
        if self.warmup_s + self.period_s > self.duration_s:
            raise ValueError(
                f"duration_s = {self.duration_s:g} leaves no whole period of {self.period_s:g} s "
                f"after warmup_s = {self.warmup_s:g}: give --run-time {math.ceil(self.warmup_s + self.period_s + 2)}s"
            )

    @property
    def is_open_loop(self) -> bool:
        """Requests are sent when they are due."""
        return True

    @property
    def ends_after_s(self) -> float:
        """How long it lasts."""
        return self.duration_s

    @property
    def text(self) -> str:
        """The load in words."""
        return (
            f"{self.brief} for {self.burst_s:g} s every {self.period_s:g} s in an open loop, {self.arrivals} arrivals"
        )

    @property
    def brief(self) -> str:
        """The load in few words."""
        return f"{self.base_rate_per_s:g} requests/s with bursts of {self.burst_rate_per_s:g}"


MAX_REPLAY_S: Final = 7 * 86_400
"""A longer replay is refused."""


class Replay(Bounded):
    """Requests are sent at a trace's times."""

    kind: Literal["replay"]
    trace: str = Field(min_length=1)
    """A CSV or JSONL file; relative to the scenario file, then to the working directory."""
    column: str = "timestamp"
    """The column or key that holds each arrival: a number, or an ISO date and time (UTC where it names no zone)."""
    unit: Unit | None = None
    """What a number is: `s`, `ms`, `us` or `ns`; where absent seconds, or milliseconds in Mooncake's form."""
    speed: Positive = 1.0
    """2 replays in half the time."""
    max_in_flight: Count = 10_000
    """Requests in flight over all workers; arrivals beyond it are dropped and counted."""
    requests: Count | None = None
    """How many of the trace's arrivals are replayed; all where absent."""

    ends_by_itself: ClassVar[bool] = True

    @property
    def is_open_loop(self) -> bool:
        """Requests are sent when they are due."""
        return True

    @property
    def gaps_per_s(self) -> float:
        """How many of the trace's seconds pass in a second."""
        return self.speed

    @property
    def in_flight_limit(self) -> int:
        """How many requests may be in flight over all workers."""
        return self.max_in_flight

    def arrival_gaps(
        self,
        *,
        seed: int,  # noqa: ARG002 - the protocol's
        worker_index: int,
        worker_count: int,
        base_dir: Path,
    ) -> Iterator[float]:
        """Yield the gaps between one worker's arrivals, in the trace's seconds; DataError for a broken trace."""
        since_s = 0.0
        times_s = self._times_s(base_dir)
        for _, time_s in trace_of_worker(times_s, worker_index=worker_index, worker_count=worker_count):
            yield time_s - since_s
            since_s = time_s

    @property
    def text(self) -> str:
        """The load in words."""
        return f"replay of {self.trace}"

    def check_files(self, base_dir: Path) -> None:
        """Read the trace once before the run, so that its faults are reported, and a window without any arrival."""
        due_s = [time_s / self.speed for time_s in self._times_s(base_dir)]
        self._refuse_endless(due_s)
        ends_s = math.inf if self.duration_s is None else self.duration_s
        if not self.warmup_s or any(self.warmup_s <= each_s < ends_s for each_s in due_s):
            return
        last_s = max(each_s for each_s in due_s if each_s < self.warmup_s)
        later = next((f" and duration_s = {ends_s:g}" for each_s in due_s if each_s >= ends_s), "")
        raise ValueError(
            f"trace = {self.trace!r} has no arrival between warmup_s = {self.warmup_s:g}{later or ' and its end'} "
            f"(the last one before is at {last_s:g} s): give --set load.warmup_s={part_of(last_s)}"
        )

    def asked_s(self, base_dir: Path) -> float | None:
        """Return when the last request is due, or the time limit if that comes first."""
        last_s = max(self._times_s(base_dir), default=0.0) / self.speed
        return last_s if self.duration_s is None else min(last_s, self.duration_s)

    def _times_s(self, base_dir: Path) -> tuple[float, ...]:
        return read_trace(self.trace, self.column, base_dir, self.unit)[: self.requests]

    def _refuse_endless(self, due_s: Sequence[float]) -> None:
        """Refuse a replay of weeks, which is a wrong unit or a row of another time far more often than a wish."""
        if min(due_s[-1], math.inf if self.duration_s is None else self.duration_s) <= MAX_REPLAY_S:
            return
        gap_s, at = max((after - before, at) for at, (before, after) in enumerate(pairwise(due_s), start=1))
        raise ValueError(
            f"trace = {self.trace!r} would take {due_s[-1] / 86_400:,.1f} days to replay, and more than "
            f"{MAX_REPLAY_S // 86_400} are refused (its longest gap is {gap_s:,.0f} s, before arrival {at + 1} of "
            f"{len(due_s)}): set load.unit if its numbers are not seconds, load.speed, load.requests or --run-time"
        )

    @property
    def longer(self) -> str:
        """A slower replay: the trace ends it."""
        return f"--set load.speed={self.speed / 2:g}"


AnyLoad = Annotated[ClosedLoop | OpenLoop | Spike | Replay | Staged | Capacity | Sweep, Field(discriminator="kind")]
LOADS: Final[Mapping[str, type[Load]]] = {
    get_args(load.model_fields["kind"].annotation)[0]: load for load in get_args(get_args(AnyLoad)[0])
}
"""Every load type by its `kind`."""
