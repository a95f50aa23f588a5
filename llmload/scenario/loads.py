"""How requests arrive, as types: closed loop, open loop, replay of a trace, stages, the search for a capacity."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmload.scenario.capacity import Capacity
from llmload.scenario.table import Count, NotNegative, Positive, Table


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
        for place, stage in enumerate(self.stages, start=1):
            if self.warmup_s >= stage.duration_s:
                raise ValueError(
                    f"warmup_s = {self.warmup_s:g} leaves nothing of stage {place}'s {stage.duration_s:g} s"
                )
        names = [self.name_of(place) for place in range(len(self.stages))]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two stages are called {twice!r}")
        return self

    def name_of(self, place: int) -> str:
        """Return what the stage at a place is called, counting from 1 where it has no name."""
        return self.stages[place].name or f"stage-{place + 1}"

    @property
    def has_users(self) -> bool:
        """Whether the stages are closed loops."""
        return self.stages[0].users is not None

    @property
    def duration_s(self) -> float:
        """How long all stages take."""
        return sum(stage.duration_s for stage in self.stages)


AnyLoad = Annotated[ClosedLoop | OpenLoop | Replay | Staged | Capacity, Field(discriminator="kind")]
