"""What loads of steps share: each step has its own window, and users or a rate."""

from typing import ClassVar, Final

from llmload.scenario.load_protocol import MAX_SPAWN_RATE_PER_S, Arrivals, Ramp

OPEN_LOOP_ONLY: Final = {"arrivals": "poisson", "cv": 1.0, "max_in_flight": 10_000}
"""The keys of steps with a rate, by their defaults."""


class Stepped(Arrivals):
    """A load whose steps are commanded while it runs: a search, a sweep."""

    editable: ClassVar[frozenset[str]] = frozenset()
    measures_steps: ClassVar[bool] = True

    @property
    def first_load(self) -> float:
        """The load of the first step."""
        raise NotImplementedError

    @property
    def has_users(self) -> bool:
        """Whether the steps are closed loops."""
        raise NotImplementedError

    def ramp_to(self, load: float) -> Ramp:
        """Return the users that a step needs, as it starts them; none where it has a rate."""
        users = int(load) if self.has_users else 0
        return Ramp(users=users, spawn_rate_per_s=float(min(max(users, 1), MAX_SPAWN_RATE_PER_S)))

    def foreign_keys(self) -> list[str]:
        """Return the keys that are set, and belong to steps with a rate where these have users."""
        return [key for key, default in OPEN_LOOP_ONLY.items() if self.has_users and getattr(self, key) != default]

    @property
    def is_open_loop(self) -> bool:
        """Whether the steps have rates."""
        return not self.has_users

    @property
    def concurrency_limit(self) -> int | None:
        """The first step's users: those that Locust has started beyond a step's number rest."""
        return int(self.first_load) if self.has_users else None

    @property
    def is_timed(self) -> bool:
        """The run as a whole has no window: each step has its own."""
        return False

    @property
    def window_warmup_s(self) -> float:
        """The run as a whole has no warm-up: each step has its own."""
        return 0.0

    @property
    def locust_users(self) -> int:
        """The users of the first step."""
        return int(self.first_load) if self.has_users else 1
