"""A staged load: one closed or open loop after the other, each measured by itself."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from llmload.scenario.load_protocol import Arrivals, Ramp, UsersOfPhase, refuse_unopened
from llmload.scenario.sections import NotNegative, Positive, Rate, Table, Users


class Stage(Table):
    """A phase of a staged load, measured by itself."""

    name: str | None = None
    """Its name in tables; `stage-1` and so on where absent."""
    users: Users | None = None
    """A closed loop of as many users; instead of `rate_per_s`."""
    rate_per_s: Rate | None = None
    """An open loop of as many requests a second over all workers; instead of `users`."""
    duration_s: Positive
    """How long it lasts, its ramp and warm-up included."""

    @model_validator(mode="after")
    def _one_load(self) -> Self:
        if (self.users is None) == (self.rate_per_s is None):
            raise ValueError("a stage has either users or rate_per_s")
        return self


class Staged(Arrivals):
    """One stage after the other: closed loop where they have users, open loop where they have rates."""

    kind: Literal["staged"]
    stages: Annotated[list[Stage], Field(min_length=1, max_length=1000)]
    """The stages in their order: all have users, or all have rates."""
    spawn_rate_per_s: Positive | None = None
    """Users started or stopped a second as a stage begins; all at once where absent."""
    think_time_s: NotNegative = 0.0
    """How long a user rests between conversations."""
    warmup_s: NotNegative = 0.0
    """How much of each stage's beginning, once its users run, is left out of its window."""

    locustfile: ClassVar[str] = "chat_staged.py"
    shape: ClassVar[str | None] = "staged"
    editable: ClassVar[frozenset[str]] = frozenset()
    locust_options: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        if len({stage.users is None for stage in self.stages}) > 1:
            raise ValueError("stages have users or rates, not some of each")
        names = [self.name_of(index) for index in range(len(self.stages))]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two stages are called {twice!r}")
        return self

    def name_of(self, index: int) -> str:
        """Return the name of the stage at an index, counting from 1 where it has no name."""
        return self.stages[index].name or f"stage-{index + 1}"

    def ramp_of(self, index: int) -> Ramp:
        """Return the users that start or stop as a stage begins; none where it has a rate."""
        users = [0, *(stage.users or 0 for stage in self.stages)]
        change = abs(users[index + 1] - users[index])
        return Ramp(users=change, spawn_rate_per_s=self.spawn_rate_for(users[index + 1] or 1))

    def spawn_rate_for(self, users: int) -> float:
        """Return the load's own rate, or else that which starts and stops all users at once."""
        return self.spawn_rate_per_s or float(max(users, *(stage.users or 0 for stage in self.stages)))

    def check_window(self) -> None:
        """Refuse a stage that is over before its users run and have warmed up."""
        most = max(stage.users or 0 for stage in self.stages)
        for index, stage in enumerate(self.stages):
            end = f"stage {index + 1}'s {stage.duration_s:g} s"
            refuse_unopened(self.ramp_of(index), self.warmup_s, stage.duration_s, end, all_users=most)

    @property
    def longer(self) -> str:
        """Longer stages: no option sets them."""
        return "the stages more duration_s in the scenario"

    @property
    def has_users(self) -> bool:
        """Whether the stages are closed loops."""
        return self.stages[0].users is not None

    @property
    def most_users(self) -> int | None:
        """The users of the largest stage."""
        return max(stage.users or 0 for stage in self.stages) if self.has_users else None

    @property
    def is_open_loop(self) -> bool:
        """Whether the stages have rates."""
        return not self.has_users

    @property
    def think_s(self) -> float:
        """How long a user rests between conversations."""
        return self.think_time_s

    @property
    def duration_s(self) -> float:
        """How long all stages take."""
        return sum(stage.duration_s for stage in self.stages)

    @property
    def ends_after_s(self) -> float:
        """How long all stages take."""
        return self.duration_s

    def users_at(self, elapsed_s: float) -> UsersOfPhase | None:
        """Return stage index and users at a moment; None when all stages are over."""
        end_s = 0.0
        for index, stage in enumerate(self.stages):
            end_s += stage.duration_s
            if elapsed_s < end_s:
                users = stage.users or self.locust_users
                return UsersOfPhase(index, users, self.spawn_rate_for(users), left_s=end_s - elapsed_s)
        return None

    @property
    def text(self) -> str:
        """The load in words."""
        return f"{len(self.stages)} stages"
