"""The load type `capacity`: a search for the highest load that meets its objectives."""

from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from llmload.metrics.checks import OF_REASONING
from llmload.metrics.objective import Objective
from llmload.scenario.load_protocol import run_time_for
from llmload.scenario.sections import Count, NotNegative, ObjectiveText, Positive, Rate
from llmload.scenario.stepped import Stepped

DEFAULT_ERROR_OBJECTIVE: Final = "error_share <= 0.01"
"""Added where no objective limits failures: a load whose requests fail must not pass because the others are fast."""
DEFAULT_GOODPUT_OBJECTIVE: Final = "goodput_share >= 0.95"
"""The objective where `load.objectives` is empty and `[slo]` has limits."""
_RISE_WITH_LATENCY: Final = (
    *("ttft_s", "tpot_s", "itl_s", "e2e_s", "ttft_from_schedule_s", "e2e_from_schedule_s", "error_share"),
    *OF_REASONING,
    *("engine_queue_s", "engine_prefill_s", "ttft_rest_s", "engine_decode_s"),
)
_FALL_WITH_LOAD: Final = ("goodput_share", "request_output_tokens_per_s")
_FROM_SCHEDULE: Final = ("ttft_from_schedule_s", "e2e_from_schedule_s")
_STREAM_ONLY: Final = {"ttft_s", "tpot_s", "itl_s", "ttft_from_schedule_s", "ttft_rest_s", *OF_REASONING}


class Capacity(Stepped):
    """A search over `users` (closed loop) or `rate_per_s` (open loop): doubling until a step fails, then bisecting."""

    kind: Literal["capacity"]
    search: Literal["users", "rate_per_s"] = "users"
    """What is searched: users in a closed loop, or requests a second in an open one."""
    objectives: list[ObjectiveText] = Field(default_factory=list)
    """What a load must meet to pass: `ttft_s p95 < 0.5`, `tpot_s p99 <= 0.05`, `goodput_share >= 0.95`."""
    start: Rate = 1.0
    """The first load that is tried."""
    at_least: Rate | None = None
    """No smaller load is tried: 1 user, or a sixty-fourth of `start`, where absent."""
    at_most: Rate = 1024.0
    """No greater load is tried."""
    precision: Positive = 0.05
    """The search ends when the lowest load that fails is at most this fraction above the highest that passes."""
    confidence: float = 0.95
    """How sure a step must be that it passes or fails before it is decided; from 0.5 to below 1."""
    warmup_s: NotNegative = 2.0
    """Each step's window opens after this time at the earliest, and after one turnover of what is in flight."""
    step_min_s: Positive = 10.0
    """A step's window is open for at least this long."""
    step_max_s: Positive = 120.0
    """A step that is not decided after this time is judged by what it has."""
    step_min_requests: Count = 100
    """A step passes for certain only after this many requests have ended in its window."""
    duration_s: Positive | None = None
    """The search ends at the latest after this time, with what it knows by then."""

    locustfile: ClassVar[str] = "chat_capacity.py"
    shape: ClassVar[str | None] = "capacity"

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        low, start, high = self.lowest, self.start, self.at_most
        if not low <= start <= high:
            raise ValueError(f"at_least = {low:g}, start = {start:g}, at_most = {high:g} must be in ascending order")
        if self.search == "users" and not all(load.is_integer() for load in (low, start, high)):
            raise ValueError("at_least, start and at_most are whole numbers where users are searched")
        if self.step_max_s < self.step_min_s:
            raise ValueError(f"step_max_s = {self.step_max_s:g} is less than step_min_s = {self.step_min_s:g}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence = {self.confidence:g} must be at least 0.5 and below 1")
        return self

    @model_validator(mode="after")
    def _kind_of_loop(self) -> Self:
        if foreign := self.foreign_keys():
            raise ValueError(f"{foreign[0]} belongs to search = 'rate_per_s'")
        return self

    @model_validator(mode="after")
    def _objectives_guide(self) -> Self:
        for text in self.objectives:
            objective = Objective.parse(text)
            if objective.metric not in (*_RISE_WITH_LATENCY, *_FALL_WITH_LOAD):
                known = ", ".join((*_RISE_WITH_LATENCY, *_FALL_WITH_LOAD))
                raise ValueError(f"{text!r} does not say where a load is too high; a search knows: {known}")
            if objective.is_upper != (objective.metric in _RISE_WITH_LATENCY):
                raise ValueError(f"{text!r} is met by every load that is high enough: reverse the comparison")
            if self.search == "users" and objective.metric in _FROM_SCHEDULE:
                raise ValueError(f"{text!r} is of an open loop, but search = 'users'")
        return self

    def check_window(self) -> None:
        """Refuse a time that is over before the first step can be decided."""
        ramp = self.ramp_to(self.start)
        first_s = ramp.length_s + self.warmup_s + self.step_min_s
        if self.duration_s is not None and first_s >= self.duration_s:
            raise ValueError(
                f"duration_s = {self.duration_s:g} leaves no whole step: {f'{ramp}, ' if ramp.length_s else ''}"
                f"warmup_s = {self.warmup_s:g} and step_min_s = {self.step_min_s:g} come first: "
                f"give {run_time_for(first_s)}"
            )

    @property
    def lowest(self) -> float:
        """The smallest load that is tried."""
        if self.at_least is not None:
            return self.at_least
        return 1.0 if self.search == "users" else self.start / 64

    @property
    def first_load(self) -> float:
        """The load of the first step."""
        return self.start

    @property
    def has_users(self) -> bool:
        """Whether users are searched, in a closed loop."""
        return self.search == "users"

    @property
    def most_users(self) -> int | None:
        """The users of the first step: how many the search tries is not known."""
        return int(self.start) if self.has_users else None

    @property
    def ends_after_s(self) -> float | None:
        """How long the search may take."""
        return self.duration_s

    @property
    def text(self) -> str:
        """The load in words."""
        return f"search over {self.search}"

    def all_objectives(self, *, limits: bool) -> tuple[Objective, ...]:
        """Return the objectives with the defaults added; `limits` says whether `[slo]` has any."""
        texts = list(self.objectives) or ([DEFAULT_GOODPUT_OBJECTIVE] if limits else [])
        if not any(text.startswith("error_share") for text in texts):
            texts.append(DEFAULT_ERROR_OBJECTIVE)
        return tuple(Objective.parse(text) for text in texts)

    @property
    def headline(self) -> tuple[str, ...]:
        """The figures that decide its steps."""
        return tuple(objective.name for objective in self.all_objectives(limits=True))

    def check_scenario(self, *, slo: bool, stream: bool, repeat: bool, new_to_cache: bool) -> None:  # noqa: ARG002 - a sweep's
        """Refuse a search without objectives, with objectives that cannot be measured, or whose prompts run out."""
        if not self.objectives and not slo:
            raise ValueError(
                'load.objectives is missing: say what a load must meet, such as ["ttft_s p95 < 0.5"], or set [slo]'
            )
        metrics = {objective.metric for objective in self.all_objectives(limits=slo)}
        if "goodput_share" in metrics and not slo:
            raise ValueError("load.objectives names goodput_share, but [slo] has no limit that an answer could miss")
        if not stream and (unseen := metrics & _STREAM_ONLY):
            raise ValueError(f"load.objectives: {min(unseen)} is not measurable with request.stream = false")
        if not repeat:
            raise ValueError("load.kind = 'capacity' needs prompts.repeat = true: a search may need any number of them")
