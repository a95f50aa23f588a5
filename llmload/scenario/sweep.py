"""The load type `sweep`: one load after the other, each measured by itself until it has enough answers."""

from itertools import pairwise
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmload.scenario.sections import Count, NotNegative, Positive, Rate, Users
from llmload.scenario.stepped import Stepped
from llmload.units import counted

MAX_POINTS: Final = 200
"""Loads of a sweep, each of which has totals on every process."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


class Sweep(Stepped):
    """A ladder of `users` (closed loop) or `rates_per_s` (open loop), each load a point with its own window."""

    kind: Literal["sweep"]
    users: Annotated[
        list[Users], BeforeValidator(_as_list, json_schema_input_type=int | list[int]), Field(max_length=MAX_POINTS)
    ] = Field(default_factory=list)
    """Numbers of users in a closed loop, ascending: `[1, 4, 16, 64]`; instead of `rates_per_s`."""
    rates_per_s: Annotated[
        list[Rate],
        BeforeValidator(_as_list, json_schema_input_type=float | list[float]),
        Field(max_length=MAX_POINTS),
    ] = Field(default_factory=list)
    """Requests a second of an open loop, ascending; instead of `users`."""
    requests_per_user: Count = 10
    """A point's window is open until it has this many answers for each of its users."""
    requests_per_rate: Count = 100
    """The same of a point with a rate, whatever the rate."""
    warmup_per_user: Annotated[int, Field(ge=0)] = 1
    """Answers for each user before a point's window opens."""
    warmup_s: NotNegative = 0.0
    """A point's window opens after this time at the earliest, once its users run."""
    point_min_s: Positive = 10.0
    """A point's window is open for at least this long."""
    point_max_s: Positive = 600.0
    """A point that lacks answers after this time ends, and its verdict says so."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 3
    """How often the whole ladder is measured; the interval of a point that was measured three times or more is by
    these, of others by parts of its window."""
    between: Literal["salt", "reset_prefix_cache", "nothing"] = "salt"
    """What keeps the engine's prefix cache from answering one point with what it has of another. `salt`: prompts that
    are sent again are new to it (`prompts.repeat = true` or `prompts.salt`); `reset_prefix_cache`: vLLM's and SGLang's
    caches are emptied between points; `nothing`: the cache is a part of what is measured."""
    each_shape: bool = True
    """Whether each of `prompts.shapes` has its own ladder; false: every point has all of them, by their weights."""
    least_growth: NotNegative = 0.02
    """The ladder ends after two loads in a row that give less than this fraction more output tokens/s than the best
    before; 0 measures every load that does not bring less."""
    duration_s: Positive | None = None
    """The sweep ends at the latest after this time, with the points that it has by then."""

    locustfile: ClassVar[str] = "chat_sweep.py"
    shape: ClassVar[str | None] = "sweep"

    @model_validator(mode="after")
    def _one_ladder(self) -> Self:
        if self.users and self.rates_per_s:
            raise ValueError(
                "a sweep has either users or rates_per_s: leave one out, with --set 'load.users=[]' or "
                "--set 'load.rates_per_s=[]'"
            )
        if not self.users and not self.rates_per_s:
            raise ValueError("a sweep needs users or rates_per_s: give --set 'load.users=[1, 8, 64]'")
        key = "users" if self.has_users else "rates_per_s"
        if any(before >= after for before, after in pairwise(self.loads)):
            raise ValueError(f"{key} = {getattr(self, key)} must be in ascending order, each value once")
        if foreign := self.foreign_keys():
            raise ValueError(f"{foreign[0]} belongs to rates_per_s, an open loop")
        if self.point_max_s < self.point_min_s:
            raise ValueError(f"point_max_s = {self.point_max_s:g} is less than point_min_s = {self.point_min_s:g}")
        return self

    def check_window(self) -> None:
        """Refuse a time that is over before the first point can be measured."""
        first_s = self.ramp_to(self.first_load).length_s + self.warmup_s + self.point_min_s
        if self.duration_s is not None and first_s >= self.duration_s:
            raise ValueError(
                f"duration_s = {self.duration_s:g} leaves no whole point: warmup_s = {self.warmup_s:g} and "
                f"point_min_s = {self.point_min_s:g} come first: give --set load.duration_s={2 * first_s:g}"
            )

    def check_scenario(self, *, slo: bool, stream: bool, repeat: bool, new_to_cache: bool) -> None:  # noqa: ARG002
        """Refuse prompts that run out, or that a prefix cache may know though `between` says that it does not."""
        if not repeat:
            raise ValueError("load.kind = 'sweep' needs prompts.repeat = true: a point may need any number of them")
        if self.between == "salt" and not new_to_cache:
            raise ValueError(
                "load.between = 'salt' needs prompts that are new when they are sent again: set prompts.repeat = true "
                "or prompts.salt = 'request', or load.between = 'nothing'"
            )

    @property
    def sweeps_shapes(self) -> bool:
        """Whether each of `prompts.shapes` is measured by itself."""
        return self.each_shape

    @property
    def has_users(self) -> bool:
        """Whether the points are closed loops."""
        return bool(self.users)

    @property
    def loads(self) -> tuple[float, ...]:
        """The users, or the rates, of the points."""
        return tuple(map(float, self.users or self.rates_per_s))

    @property
    def first_load(self) -> float:
        """The load of the first point."""
        return self.loads[0]

    def answers_wanted(self, load: float) -> int:
        """Return how many answers a point is to have in its window."""
        return self.requests_per_user * int(load) if self.has_users else self.requests_per_rate

    def answers_before(self, load: float) -> int:
        """Return how many answers come before a point's window opens."""
        return self.warmup_per_user * int(load) if self.has_users else 0

    @property
    def most_users(self) -> int | None:
        """The users of the last point."""
        return self.users[-1] if self.has_users else None

    @property
    def ends_after_s(self) -> float | None:
        """How long the sweep may take."""
        return self.duration_s

    @property
    def text(self) -> str:
        """The load in words."""
        loads = f"{counted(len(self.loads), 'number')} of users" if self.has_users else counted(len(self.loads), "rate")
        times = "" if self.rounds == 1 else f", {counted(self.rounds, 'time')} each"
        return f"sweep over {loads}{times}"

    @property
    def brief(self) -> str:
        """The load in few words."""
        unit = "users" if self.has_users else "requests/s"
        first, last = self.loads[0], self.loads[-1]
        return f"sweep at {last:g} {unit}" if first == last else f"sweep from {first:g} to {last:g} {unit}"
