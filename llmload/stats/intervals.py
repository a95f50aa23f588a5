"""
Confidence intervals for autocorrelated samples (batch means): shares, percentiles, means, rates; spread over runs.

Answers of one run are not independent (a queue delays many in a row), so everything here starts from batches: sums over
neighbouring spans of time, whose spread says what the answers alone cannot (batch means: Law, Simulation Modeling and
Analysis, 5th ed., 9.5.3; ten to thirty batches are enough: Schmeiser, Operations Research 30(3), 1982).

    ratio           r = sum(part) / sum(whole) of k batches; standard error
                    sqrt(k / (k - 1) * sum((part - r * whole)^2)) / sum(whole)
                    (ratio estimator, Cochran, Sampling Techniques, 3rd ed., 2.11)
    effective n     n / max(1, variance of the share by batches / variance were the answers independent)
                    (design effect, Kish, Survey Sampling, 1965, 8.2)
    share           Wilson's score interval with the effective n (Wilson, JASA 22, 1927); where n follows from the
                    spread over k batches, with Student's t of k - 1 degrees of freedom in place of the normal z
    trend           apart, the ratio of the window's second half less that of its first; its error from the differences
                    of neighbouring batches, which hold no trend (mean square successive difference, von Neumann,
                    Ann. Math. Statist. 12, 1941)
    mean, rate      r +- t * standard error, Student's t with k - 1 degrees of freedom
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, mean, median, stdev
from typing import Any, Final, Self

Batch = tuple[float, float]
"""Part and whole of a span: answers within a limit and answers, seconds and answers, answers and seconds."""
BATCHES: Final = 12
"""How many spans a window is cut into, at most."""
MIN_BATCHES: Final = 4
"""With fewer batches nothing is known of their spread."""


def normal_z(confidence: float) -> float:
    """Return z such that a standard normal number lies within -z..z with the given probability."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def batches_of(running: Sequence[Batch]) -> list[Batch]:
    """Return at most `BATCHES` batches of running sums, which are taken at even times and begin with the first."""
    count = min(BATCHES, len(running) - 1)
    if count < 1:
        return []
    places = [round(each * (len(running) - 1) / count) for each in range(count + 1)]
    cuts = [running[index] for index in places]
    return [(now[0] - before[0], now[1] - before[1]) for before, now in pairwise(cuts)]


def ratio(batches: Sequence[Batch]) -> float | None:
    """Return the sum of the parts over the sum of the wholes; None where there is nothing."""
    whole = sum(batch[1] for batch in batches)
    return sum(batch[0] for batch in batches) / whole if whole else None


def ratio_error(batches: Sequence[Batch]) -> float | None:
    """Return the ratio's standard error; None with fewer than `MIN_BATCHES` batches that hold anything."""
    held = [batch for batch in batches if batch[1] > 0]
    value = ratio(held)
    if value is None or len(held) < MIN_BATCHES:
        return None
    squares = sum((part - value * whole) ** 2 for part, whole in held)
    return math.sqrt(len(held) / (len(held) - 1) * squares) / sum(whole for _, whole in held)


def ratio_interval(batches: Sequence[Batch], confidence: float) -> tuple[float, float] | None:
    """Return the interval of a mean or rate; None where its spread is not known."""
    value, error = ratio(batches), ratio_error(batches)
    if value is None or error is None:
        return None
    half = student_t(confidence, sum(batch[1] > 0 for batch in batches) - 1) * error
    return value - half, value + half


def trend(batches: Sequence[Batch]) -> tuple[float, float] | None:
    """Return by how much the ratio of the second half lies above the first's, and that number's standard error."""
    held = [batch for batch in batches if batch[1] > 0]
    if len(held) < MIN_BATCHES:
        return None
    half = len(held) // 2
    first, second = ratio(held[:half]), ratio(held[-half:])
    if first is None or second is None:
        return None
    each = [part / whole for part, whole in held]
    variance = sum((after - before) ** 2 for before, after in pairwise(each)) / (2 * (len(each) - 1))
    return second - first, math.sqrt(2 * variance / half)


def effective_count(batches: Sequence[Batch]) -> float:
    """Return how many independent answers a share is known as well by; all of them where its spread is not known."""
    count, share, error = sum(batch[1] for batch in batches), ratio(batches), ratio_error(batches)
    if share is None or error is None or not 0 < share < 1:
        return count
    return count / max(1.0, error**2 * count / (share * (1 - share)))


def share_interval(share: float, count: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval of a share that `count` independent answers show; 0..1 where there are none."""
    return _wilson(share, count, normal_z(confidence))


def batch_share_interval(
    batches: Sequence[Batch], confidence: float, *, around: float | None = None
) -> tuple[float, float]:
    """Return the interval of the batches' share, or of another share that is known as well as theirs is."""
    share, error = ratio(batches), ratio_error(batches)
    if share is None:
        return 0.0, 1.0
    spread_known = error is not None and 0 < share < 1
    degrees = sum(batch[1] > 0 for batch in batches) - 1
    critical = student_t(confidence, degrees) if spread_known else normal_z(confidence)
    return _wilson(share if around is None else around, effective_count(batches), critical)


def _wilson(share: float, count: float, critical: float) -> tuple[float, float]:
    if count <= 0:
        return 0.0, 1.0
    squared = critical**2
    centre = (share + squared / (2 * count)) / (1 + squared / count)
    half = critical * math.sqrt(share * (1 - share) / count + squared / (4 * count**2)) / (1 + squared / count)
    return max(0.0, centre - half), min(1.0, centre + half)


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
