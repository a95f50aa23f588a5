"""Tokens that prompts and answers were to have, beside those that the engine counted."""

from collections import Counter
from dataclasses import dataclass
from typing import Self

import numpy as np

from llmload.metrics.requests import Floats

REQUESTS, EXACT, ASKED, COUNTED, OFF = "requests", "exact", "asked", "counted", "off"
"""Requests, those that have their length, and sums of tokens: requested, counted, and missing or too many."""


def add_length(tally: Counter[str], asked: int, counted: int) -> int:
    """Count a request whose length was requested; return by how many tokens it is off."""
    off = abs(counted - asked)
    tally[REQUESTS] += 1
    tally[EXACT] += not off
    tally[ASKED] += asked
    tally[COUNTED] += counted
    tally[OFF] += off
    return off


def add_lengths(tally: Counter[str], asked: Floats, counted: Floats) -> int | None:
    """Count requests, NaN for what was not requested or is unknown; return the most tokens off, None without any."""
    known = ~(np.isnan(asked) | np.isnan(counted))
    if not known.any():
        return None
    asked, counted = asked[known], counted[known]
    off = np.abs(counted - asked)
    tally[REQUESTS] += len(off)
    tally[EXACT] += int(np.count_nonzero(off == 0))
    tally[ASKED] += int(asked.sum())
    tally[COUNTED] += int(counted.sum())
    tally[OFF] += int(off.sum())
    return int(off.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthsKept:
    """How far requests have the lengths that were requested."""

    requests: int
    asked_mean: float
    counted_mean: float
    exact_share: float
    """Requests with exactly their length / requests."""
    missed_share: float
    """The others / requests."""
    off_share: float
    """Tokens missing or too many / requested tokens."""

    @classmethod
    def of(cls, tally: Counter[str]) -> Self | None:
        """Return it of a tally; None where no length was requested; nobody can request one of no tokens."""
        requests = tally[REQUESTS]
        if not requests or not tally[ASKED]:
            return None
        return cls(
            requests=requests,
            asked_mean=tally[ASKED] / requests,
            counted_mean=tally[COUNTED] / requests,
            exact_share=tally[EXACT] / requests,
            missed_share=(requests - tally[EXACT]) / requests,
            off_share=tally[OFF] / tally[ASKED],
        )
