"""A request that stands for others: the slowest of late, by its id, so that a spike can be traced to its record."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any, Final, Self

RECENT_S: Final = 30.0
"""How long a slow request stands before any other takes its place: a few scrapes."""
MOST: Final = 4
"""How many a distribution keeps when those of several processes come together."""


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One value of a distribution, whose it was, and when it was measured (Unix time)."""

    value: float
    request_id: str
    unix_s: float

    def to_message(self) -> list[Any]:
        """Return it as plain values."""
        return list(astuple(self))

    @classmethod
    def from_message(cls, message: Iterable[Any]) -> Self:
        """Return what `to_message` described."""
        return cls(*message)

    def gives_way_to(self, value: float, unix_s: float) -> bool:
        """Whether a value that came later stands instead of this one."""
        return value >= self.value or unix_s - self.unix_s > RECENT_S


def slowest(exemplars: Iterable[Exemplar]) -> list[Exemplar]:
    """Return the few with the greatest values, of those that are recent beside the latest."""
    known = list(exemplars)
    latest_s = max((each.unix_s for each in known), default=0.0)
    recent = [each for each in known if latest_s - each.unix_s <= RECENT_S]
    return sorted(recent, key=lambda each: each.value, reverse=True)[:MOST]
