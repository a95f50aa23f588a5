"""How far runs of the same thing differ: median, least, greatest, and where their mean lies."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Any, Final, Self

CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """
    One figure of several runs.

    `low` to `high` holds the geometric mean of ever more runs with 95 % (the arithmetic one where a value is not above
    zero): Student's t of the logarithms, since a latency is never negative. None below two runs.
    """

    values: tuple[float, ...]
    median: float
    least: float
    most: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the spread of at least one value; ValueError for none."""
        if not values:
            raise ValueError("no values have no spread")
        low = high = None
        if len(values) > 1:
            positive = min(values) > 0
            levels = [math.log(value) for value in values] if positive else list(values)
            reach = student_t(CONFIDENCE, len(values) - 1) * stdev(levels) / math.sqrt(len(levels))
            low, high = mean(levels) - reach, mean(levels) + reach
            if positive:
                low, high = math.exp(low), math.exp(high)
        return cls(
            values=tuple(values),
            median=median(values),
            least=min(values),
            most=max(values),
            low=low,
            high=high,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the spread as plain values."""
        return {
            "values": list(self.values),
            "median": self.median,
            "min": self.least,
            "max": self.most,
            "mean_low": self.low,
            "mean_high": self.high,
        }


def student_t(confidence: float, freedom: int) -> float:
    """
    Return t such that Student's variable with so many degrees of freedom lies within -t..t with that probability.

    The probability is exact (Abramowitz and Stegun 26.7.3 and 26.7.4), t is found by halving.
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    if freedom == 1:
        return 2 / math.pi * angle
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
