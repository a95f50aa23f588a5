"""The search for the highest load that keeps its promises, as a load."""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from llmload.metrics.objective import Objective
from llmload.scenario.sections import Count, NotNegative, ObjectiveText, Positive, Table

DEFAULT_ERROR_OBJECTIVE: Final = "error_share <= 0.01"
"""Promised where no promise speaks of failures: a load whose requests fail does not hold, fast as the others may be."""
DEFAULT_GOODPUT_OBJECTIVE: Final = "goodput_share >= 0.95"
"""Promised where `load.objectives` is empty and `[slo]` has limits."""
_RISE_WITH_LATENCY: Final = (
    *("ttft_s", "tpot_s", "itl_s", "e2e_s", "ttft_from_schedule_s", "e2e_from_schedule_s", "error_share"),
)
_FALL_WITH_LOAD: Final = ("goodput_share", "request_output_tokens_per_s")
_OPEN_LOOP_ONLY: Final = {"arrivals": "poisson", "cv": 1.0, "max_in_flight": 10_000}
_FROM_SCHEDULE: Final = ("ttft_from_schedule_s", "e2e_from_schedule_s")


class Capacity(Table):
    """A search over `users` (closed loop) or `rate_per_s` (open loop): doubling until a step fails, then bisecting."""

    kind: Literal["capacity"]
    search: Literal["users", "rate_per_s"] = "users"
    """What is searched: users in a closed loop, or requests a second in an open one."""
    objectives: list[ObjectiveText] = Field(default_factory=list)
    """What must hold: `ttft_s p95 < 0.5`, `tpot_s p99 <= 0.05`, `goodput_share >= 0.95`, `error_share <= 0.01`."""
    start: Positive = 1.0
    """The first load that is tried."""
    at_least: Positive | None = None
    """No smaller load is tried: 1 user, or a sixty-fourth of `start`, where absent."""
    at_most: Positive = 1024.0
    """No greater load is tried."""
    precision: Positive = 0.05
    """The search ends when what breaks is at most this share above what holds."""
    confidence: float = 0.95
    warmup_s: NotNegative = 2.0
    """Each step's window opens after this time at the earliest, and after one turnover of what is in flight."""
    step_min_s: Positive = 10.0
    step_max_s: Positive = 120.0
    step_min_requests: Count = 100
    """A step is not surely held before so many requests have ended in its window."""
    duration_s: Positive | None = None
    """The search ends at the latest after this time, with what it knows by then."""
    arrivals: Literal["constant", "poisson", "gamma"] = "poisson"
    cv: Positive = 1.0
    max_in_flight: Count = 10_000

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        low, start, high = self.lowest, self.start, self.at_most
        if not low <= start <= high:
            raise ValueError(f"at_least = {low:g}, start = {start:g}, at_most = {high:g} must stand in this order")
        if self.search == "users" and not all(load.is_integer() for load in (low, start, high)):
            raise ValueError("at_least, start and at_most are whole numbers where users are searched")
        if self.step_max_s < self.step_min_s:
            raise ValueError(f"step_max_s = {self.step_max_s:g} is less than step_min_s = {self.step_min_s:g}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence = {self.confidence:g} lies between 0.5 and 1")
        return self

    @model_validator(mode="after")
    def _kind_of_loop(self) -> Self:
        foreign = [key for key, default in _OPEN_LOOP_ONLY.items() if getattr(self, key) != default]
        if self.search == "users" and foreign:
            raise ValueError(f"{foreign[0]} belongs to search = 'rate_per_s'")
        if self.cv != 1.0 and self.arrivals != "gamma":
            raise ValueError(f"cv = {self.cv:g} belongs to arrivals = 'gamma', not {self.arrivals!r}")
        return self

    @model_validator(mode="after")
    def _objectives_guide(self) -> Self:
        for text in self.objectives:
            objective = Objective.parse(text)
            if objective.metric not in (*_RISE_WITH_LATENCY, *_FALL_WITH_LOAD):
                known = ", ".join((*_RISE_WITH_LATENCY, *_FALL_WITH_LOAD))
                raise ValueError(f"{text!r} does not say where a load is too high; a search knows: {known}")
            if objective.is_upper != (objective.metric in _RISE_WITH_LATENCY):
                raise ValueError(f"{text!r} is kept by every load that is high enough: turn it round")
            if self.search == "users" and objective.metric in _FROM_SCHEDULE:
                raise ValueError(f"{text!r} is of an open loop, but search = 'users'")
        return self

    @property
    def requests(self) -> None:
        """How many requests a search sends is not known beforehand."""
        return

    @property
    def lowest(self) -> float:
        """The smallest load that is tried."""
        if self.at_least is not None:
            return self.at_least
        return 1.0 if self.search == "users" else self.start / 64

    @property
    def has_users(self) -> bool:
        """Whether users are searched, in a closed loop."""
        return self.search == "users"

    def promises(self, *, limits: bool) -> tuple[Objective, ...]:
        """Return what must hold; `limits` says whether `[slo]` has any."""
        texts = list(self.objectives) or ([DEFAULT_GOODPUT_OBJECTIVE] if limits else [])
        if not any(text.startswith("error_share") for text in texts):
            texts.append(DEFAULT_ERROR_OBJECTIVE)
        return tuple(Objective.parse(text) for text in texts)


# How requests arrive, as types: closed loop, open loop, replay of a trace, stages, the search for a capacity.


class Load(Table):
    """What every load has: how it ends, and when the judged window opens."""

    requests: Count | None = None
    """The run ends when so many have been sent and answered."""
    duration_s: Positive | None = None
    """The run ends this long after its start, warm-up included."""
    warmup_s: NotNegative = 0.0
    """The window opens this long after the load has reached what is asked for."""

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.requests is None and self.duration_s is None:
            raise ValueError("needs requests or duration_s, or it never ends")
        if self.duration_s is not None and self.warmup_s >= self.duration_s:
            raise ValueError(f"warmup_s = {self.warmup_s:g} leaves nothing of duration_s = {self.duration_s:g}")
        return self


class ClosedLoop(Load):
    """`users` requests in flight at a time: each user sends its next prompt when its last answer is complete."""

    kind: Literal["closed_loop"]
    users: Count
    spawn_rate_per_s: Positive | None = None
    """Users started a second; all at once where absent."""
    think_time_s: NotNegative = 0.0

    @model_validator(mode="after")
    def _users_have_requests(self) -> Self:
        if self.requests is not None and self.users > self.requests:
            raise ValueError(f"users = {self.users} is more than requests = {self.requests}")
        return self


class OpenLoop(Load):
    """Requests are sent when they are due, whatever is in flight."""

    kind: Literal["open_loop"]
    rate_per_s: Positive
    """Requests a second over all workers."""
    arrivals: Literal["constant", "poisson", "gamma"] = "poisson"
    cv: Positive = 1.0
    """Coefficient of variation of gamma's gaps: above 1 burstier than Poisson, below 1 steadier."""
    max_in_flight: Count = 10_000
    """Over all workers; what is due beyond it is dropped and counted."""

    @model_validator(mode="after")
    def _cv_is_gammas(self) -> Self:
        if self.cv != 1.0 and self.arrivals != "gamma":
            raise ValueError(f"cv = {self.cv:g} belongs to arrivals = 'gamma', not {self.arrivals!r}")
        return self


class Replay(Table):
    """Requests are sent at a trace's times."""

    kind: Literal["replay"]
    trace: str = Field(min_length=1)
    """A CSV or JSONL file; relative to the scenario file, then to the working directory."""
    column: str = "timestamp"
    """The column or key that holds each arrival: seconds, or a date and time."""
    speed: Positive = 1.0
    """2 replays in half the time."""
    max_in_flight: Count = 10_000
    requests: Count | None = None
    """How many of the trace's arrivals are replayed; all where absent."""
    duration_s: Positive | None = None
    warmup_s: NotNegative = 0.0


class Stage(Table):
    """A part of a staged load, judged by itself."""

    name: str | None = None
    users: Count | None = None
    rate_per_s: Positive | None = None
    duration_s: Positive

    @model_validator(mode="after")
    def _one_load(self) -> Self:
        if (self.users is None) == (self.rate_per_s is None):
            raise ValueError("a stage has either users or rate_per_s")
        return self


class Staged(Table):
    """One stage after the other: closed loop where they have users, open loop where they have rates."""

    kind: Literal["staged"]
    stages: Annotated[list[Stage], Field(min_length=1)]
    warmup_s: NotNegative = 0.0
    """How much of each stage's beginning is left out of its window."""
    spawn_rate_per_s: Positive | None = None
    arrivals: Literal["constant", "poisson", "gamma"] = "poisson"
    cv: Positive = 1.0
    max_in_flight: Count = 10_000
    think_time_s: NotNegative = 0.0

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        if len({stage.users is None for stage in self.stages}) > 1:
            raise ValueError("stages have users or rates, not some of each")
        for index, stage in enumerate(self.stages, start=1):
            if self.warmup_s >= stage.duration_s:
                raise ValueError(
                    f"warmup_s = {self.warmup_s:g} leaves nothing of stage {index}'s {stage.duration_s:g} s"
                )
        names = [self.name_of(index) for index in range(len(self.stages))]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two stages are called {twice!r}")
        return self

    def name_of(self, index: int) -> str:
        """Return what the stage at a place is called, counting from 1 where it has no name."""
        return self.stages[index].name or f"stage-{index + 1}"

    @property
    def has_users(self) -> bool:
        """Whether the stages are closed loops."""
        return self.stages[0].users is not None

    @property
    def duration_s(self) -> float:
        """How long all stages take."""
        return sum(stage.duration_s for stage in self.stages)


AnyLoad = Annotated[ClosedLoop | OpenLoop | Replay | Staged | Capacity, Field(discriminator="kind")]
