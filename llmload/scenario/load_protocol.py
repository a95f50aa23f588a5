"""
What every load answers: how it sends, when it ends, what is measured, what Locust needs, and what it says of itself.

The rest of llmload asks a load only these questions, so a new load type is a class in `llmload.scenario.loads` and,
where it has phases, a timeline in `llmload.loadgen.phases`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple, Self

from pydantic import model_validator

from llmload.errors import ConfigError
from llmload.prompts.workload import unit_gaps
from llmload.scenario.sections import Count, NotNegative, Positive, Table

UNSHAPED: Final = "chat.py"
"""The locustfile of loads without a Locust shape."""


class UsersOfPhase(NamedTuple):
    """What Locust needs in a phase of a load: how many users, and how many of them start a second."""

    phase: int
    """Its index."""
    users: int
    spawn_rate_per_s: float
    left_s: float
    """How much longer the phase lasts."""


_HEADLINE_STATISTICS: Final = ("mean", "p50", "p95")


def _headline(*names: str) -> tuple[str, ...]:
    return tuple(f"{name} {statistic}" for name in names for statistic in _HEADLINE_STATISTICS)


HEADLINE: Final = (
    "requests_per_min",
    "output_tokens_per_s",
    *_headline("request_output_tokens_per_s", "ttft_s", "tpot_s", "e2e_s"),
)
OPEN_LOOP_HEADLINE: Final = (
    "goodput_per_min",
    "goodput_share",
    *_headline("ttft_from_schedule_s", "e2e_from_schedule_s"),
)

MAX_SPAWN_RATE_PER_S: Final = 100
"""At which rate a search or a sweep starts users at most: Locust warns of more."""
LEAST_RUN_S: Final = 10.0
"""What a command that a refusal proposes leaves to measure, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """How many users start (or stop) at which rate."""

    users: int = 0
    spawn_rate_per_s: float = 1.0

    @property
    def length_s(self) -> float:
        """How long Locust takes: it starts whole users, as many as the rate has at a time, the first at once."""
        at_once = max(1, math.floor(self.spawn_rate_per_s))
        return max(0, math.ceil(self.users / at_once) - 1) * at_once / self.spawn_rate_per_s

    def __str__(self) -> str:
        """The ramp in words."""
        return f"the ramp of {self.length_s:g} s (users = {self.users}, spawn_rate_per_s = {self.spawn_rate_per_s:g})"


def refuse_unopened(
    ramp: Ramp, warmup_s: float, end_s: float, end: str, *, longer: str | None = None, all_users: int | None = None
) -> None:
    """
    Raise ValueError where ramp and warm-up last until `end_s` or longer, so that the window never opens.

    `end` names what ends the load, `longer` is an option that ends it later; `all_users` start at once by the option
    that shortens the ramp.
    """
    if ramp.length_s + warmup_s < end_s:
        return
    causes = [*([str(ramp)] if ramp.length_s else []), *([f"warmup_s = {warmup_s:g}"] if warmup_s else [])]
    left_s = end_s if ramp.length_s >= end_s else end_s - ramp.length_s
    shorter = []
    if ramp.length_s >= end_s:
        shorter.append(f"--set load.spawn_rate_per_s={all_users or ramp.users}")
    if warmup_s and (not shorter or warmup_s >= end_s):
        shorter.append(f"--set load.warmup_s={part_of(left_s)}")
    commands = [*([longer] if longer else []), " ".join(shorter)]
    leave = "leaves" if len(causes) == 1 else "leave"
    raise ValueError(f"{' and '.join(causes)} {leave} nothing of {end} to measure: give {' or '.join(commands)}")


def part_of(left_s: float) -> str:
    """Return a short number that is about a quarter of a time."""
    return f"{left_s / 4:.1g}"


def run_time_for(unmeasured_s: float) -> str:
    """Return the option that gives a load as much time after its window has opened as before, but at least 10 s."""
    return f"--run-time {math.ceil(unmeasured_s + max(LEAST_RUN_S, unmeasured_s))}s"


class Load(Table):
    """The questions, answered as most loads do; a load type overrides what differs."""

    kind: str
    """Which load it is; it decides which other keys there are."""
    warmup_s: NotNegative = 0.0
    """The window opens this long after the load has reached its target."""

    locustfile: ClassVar[str] = UNSHAPED
    """The shipped locustfile that drives it."""
    shape: ClassVar[str | None] = None
    """The `load_kind` of the Locust shape that sets its users; None where Locust's own options do."""
    locust_options: ClassVar[Mapping[str, str]] = {"duration_s": "run_time"}
    """Keys of the load that one of Locust's options sets, and that option's name."""
    editable: ClassVar[frozenset[str]] = frozenset({"duration_s"})
    """Keys that may be edited during the run."""
    target_key: ClassVar[str | None] = None
    """The one of them whose edit makes another load of it, which is measured by itself: its users, or its rate."""
    measures_steps: ClassVar[bool] = False
    """Whether it is a search: the summary is that of one step, and workers report often, since steps are short."""
    phases_recur: ClassVar[bool] = False
    """Whether its phases come again and again, so that an answer may end in another phase than it began in."""

    # How it sends

    @property
    def is_open_loop(self) -> bool:
        """Whether requests are sent when they are due, however many are in flight."""
        return False

    @property
    def sweeps_shapes(self) -> bool:
        """Whether each of `prompts.shapes` is measured by itself."""
        return False

    @property
    def think_s(self) -> float:
        """How long a user rests between conversations."""
        return 0.0

    @property
    def gaps_per_s(self) -> float:
        """How many units of `arrival_gaps` a second has, where no timeline says so."""
        return 0.0

    @property
    def in_flight_limit(self) -> int:
        """How many requests of an open loop may be in flight over all workers; later arrivals are dropped."""
        return 1

    def arrival_gaps(self, *, seed: int, worker_index: int, worker_count: int, base_dir: Path) -> Iterator[float]:
        """Yield an open loop's gaps between one worker's arrivals, in mean gaps at a rate of 1/s."""
        raise NotImplementedError(f"load.kind = {self.kind!r} has no arrivals")

    @property
    def concurrency_limit(self) -> int | None:
        """How many of Locust's users may send at first, over all workers; None where all may."""
        return None

    # When it ends, and what is measured

    @property
    def ends_after_s(self) -> float | None:
        """How long it lasts at most; None where no time ends it."""
        return None

    @property
    def ends_after_requests(self) -> int | None:
        """How many requests it sends; None where no number ends it."""
        return None

    def asked_s(self, base_dir: Path) -> float | None:  # noqa: ARG002 - a trace's
        """Return how long the whole load takes, known before it starts; None where a number of requests ends it."""
        return self.ends_after_s

    def undone(self, *, sent: int, answered: int, after_s: float, asked_s: float | None) -> str | None:
        """Return how much of the load was done when it was ended, in words; None where that was all of it."""
        asked = self.ends_after_requests
        if (asked is not None and sent >= asked) or (asked_s is not None and after_s >= asked_s):
            return None
        if asked is not None:
            return f"{answered} of {asked} requests"
        return None if asked_s is None else f"{after_s:.3g} of {asked_s:g} s"

    @property
    def is_timed(self) -> bool:
        """Whether one window spans the run from its warm-up to its end by the clock."""
        return self.ends_after_s is not None

    @property
    def window_warmup_s(self) -> float:
        """How long after its start the run's window opens."""
        return self.warmup_s

    @property
    def constant_users(self) -> int | None:
        """The users of a closed loop that has as many throughout."""
        return None

    @property
    def most_users(self) -> int | None:
        """How many users of a closed loop may have a request in flight, as far as that is known."""
        return self.constant_users

    @property
    def constant_rate_per_s(self) -> float | None:
        """The rate of an open loop that has the same throughout."""
        return None

    @property
    def target(self) -> float | None:
        """The number of users, or the rate, that may be edited during the run; None where neither may."""
        return None if self.target_key is None else float(getattr(self, self.target_key))

    @property
    def busy_users(self) -> int | None:
        """How many users have a request in flight all through the window; None where users rest or come and go."""
        return None

    @property
    def ramp(self) -> Ramp:
        """The users that start before the window can open; their ramp takes no time unless users start in turn."""
        return Ramp()

    @property
    def longer(self) -> str:
        """What makes the load longer, as options."""
        return f"--run-time {math.ceil(2 * (self.ends_after_s or LEAST_RUN_S))}s"

    @property
    def headline(self) -> tuple[str, ...]:
        """The figures that the load is run for: what spoils none of them does not lower the run's level."""
        return (*HEADLINE, *(OPEN_LOOP_HEADLINE if self.is_open_loop else ()))

    # What Locust needs

    @property
    def locust_users(self) -> int:
        """How many Locust users start; in an open loop one rests while each process sends by its schedule."""
        return 1

    @property
    def locust_spawn_rate_per_s(self) -> float:
        """How many Locust users start a second."""
        return self.spawn_rate_for(self.locust_users)

    def spawn_rate_for(self, users: int) -> float:  # noqa: ARG002 - a closed loop's
        """Return how many Locust users start a second where there are this many of them."""
        return 1.0

    def users_at(self, elapsed_s: float) -> UsersOfPhase | None:
        """Return phase and users at a moment, for Locust's shape; None once the load is over."""
        raise NotImplementedError(f"load.kind = {self.kind!r} has no shape")

    # What it says of itself

    @property
    def text(self) -> str:
        """The load in words."""
        return self.kind

    @property
    def brief(self) -> str:
        """The load in few words, for legends."""
        return self.text

    # What it cannot be run with

    def check_scenario(self, *, slo: bool, stream: bool, repeat: bool, new_to_cache: bool) -> None:
        """
        Raise ValueError where the load does not fit `[slo]`, `request.stream` or `prompts`.

        `new_to_cache` says whether a prompt that is sent again is new to a prefix cache.
        """

    def check_window(self) -> None:
        """Raise ValueError, with a remedy, where the load is over before its window opens, whatever the engine does."""

    def check_files(self, base_dir: Path) -> None:
        """Raise DataError where a file that the load names cannot be read, ValueError where it fits no window."""

    def check_workers(self, workers: int) -> None:
        """Raise ConfigError where the load cannot be shared between this many workers."""

    def check_shape(self, shape: str | None) -> None:
        """Raise ConfigError where the locustfile's shape (None for no shape) is for another kind of load."""
        if shape != self.shape:
            raise ConfigError(
                f"load.kind = {self.kind!r} needs another locustfile, such as locustfiles/{self.locustfile} "
                "(-f or tool.locust.locustfile)"
            )


class Bounded(Load):
    """A load that ends after some requests, some time, or whichever comes first."""

    requests: Count | None = None
    """The run ends when this many requests have been sent and answered."""
    duration_s: Positive | None = None
    """The load ends this long after its start, ramp and warm-up included; users that start late move the end."""

    ends_by_itself: ClassVar[bool] = False

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.requests is None and self.duration_s is None and not self.ends_by_itself:
            raise ValueError("needs requests or duration_s, or it never ends")
        return self

    def check_window(self) -> None:
        """Refuse a ramp and a warm-up that last until the end."""
        if self.duration_s is not None:
            longer = run_time_for(self.ramp.length_s + self.warmup_s)
            refuse_unopened(
                self.ramp, self.warmup_s, self.duration_s, f"duration_s = {self.duration_s:g}", longer=longer
            )

    @property
    def longer(self) -> str:
        """More time, or more requests where their number ends it."""
        return super().longer if self.requests is None else f"--requests {10 * self.requests}"

    @property
    def ends_after_s(self) -> float | None:
        """How long it lasts at most."""
        return self.duration_s

    @property
    def ends_after_requests(self) -> int | None:
        """How many requests it sends."""
        return self.requests


class Arrivals(Load):
    """A load whose requests arrive by a drawn process, where it is an open loop."""

    arrivals: Literal["constant", "poisson", "gamma"] = "poisson"
    """How requests of an open loop arrive: evenly, at random, or in bursts (gamma, see `cv`)."""
    cv: Positive = 1.0
    """Coefficient of variation of gamma's gaps: above 1 burstier than Poisson, below 1 steadier."""
    max_in_flight: Count = 10_000
    """Over all workers; arrivals beyond it are dropped and counted."""

    @model_validator(mode="after")
    def _cv_is_gammas(self) -> Self:
        if self.cv != 1.0 and self.arrivals != "gamma":
            raise ValueError(f"cv = {self.cv:g} belongs to arrivals = 'gamma', not {self.arrivals!r}")
        return self

    @property
    def in_flight_limit(self) -> int:
        """How many requests may be in flight over all workers."""
        return self.max_in_flight

    def arrival_gaps(
        self,
        *,
        seed: int,
        worker_index: int,
        worker_count: int,
        base_dir: Path,  # noqa: ARG002 - the protocol's
    ) -> Iterator[float]:
        """Yield the gaps between one worker's arrivals, in mean gaps of the whole process, for ever."""
        return unit_gaps(self.arrivals, cv=self.cv, seed=seed, worker_index=worker_index, worker_count=worker_count)
