"""
Confidence intervals for autocorrelated samples (batch means): shares, percentiles, means, rates; spread over runs.

Answers of one run are not independent (a queue delays many in a row), so intervals start from batches: sums over
consecutive parts of the window, whose spread includes that dependence (batch means: Law, Simulation Modeling and
Analysis, 5th ed., 9.5.3; ten to thirty batches are enough: Schmeiser, Operations Research 30(3), 1982).

    ratio           r = sum(part) / sum(whole) of k batches; standard error
                    sqrt(k / (k - 1) * sum((part - r * whole)^2)) / sum(whole)
                    (ratio estimator, Cochran, Sampling Techniques, 3rd ed., 2.11)
    effective n     n / max(1, variance of the share by batches / variance were the answers independent)
                    (design effect, Kish, Survey Sampling, 1965, 8.2)
    share           Wilson's score interval with the effective n (Wilson, JASA 22, 1927); where n follows from the
                    spread over k batches, with Student's t of k - 1 degrees of freedom instead of the normal z
    trend           the ratio of the window's second half less that of its first; its error from the differences
                    of neighbouring batches, which contain no trend (mean square successive difference, von Neumann,
                    Ann. Math. Statist. 12, 1941)
    mean, rate      r +- t * standard error, Student's t with k - 1 degrees of freedom
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from statistics import NormalDist, mean, median, stdev
from typing import Any, Final, Self

Batch = tuple[float, float]
"""Part and whole: answers within a limit and all answers, seconds and answers, answers and seconds."""
BATCHES: Final = 12
"""A window is cut into at most this many batches."""
MIN_BATCHES: Final = 4
"""With fewer batches their spread is unknown."""


def normal_z(confidence: float) -> float:
    """Return z such that a standard normal variable is within -z..z with this probability."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def batches_of(running: Sequence[Batch]) -> list[Batch]:
    """Return at most `BATCHES` batches of running sums, which were sampled at even times."""
    count = min(BATCHES, len(running) - 1)
    if count < 1:
        return []
    cuts = [running[round(each * (len(running) - 1) / count)] for each in range(count + 1)]
    return [(now[0] - before[0], now[1] - before[1]) for before, now in pairwise(cuts)]


def ratio(batches: Sequence[Batch]) -> float | None:
    """Return the sum of the parts over the sum of the wholes; None if that is 0."""
    whole = sum(batch[1] for batch in batches)
    return sum(batch[0] for batch in batches) / whole if whole else None


def ratio_error(batches: Sequence[Batch]) -> float | None:
    """Return the ratio's standard error; None with fewer than `MIN_BATCHES` batches that are not empty."""
    filled = [batch for batch in batches if batch[1] > 0]
    value = ratio(filled)
    if value is None or len(filled) < MIN_BATCHES:
        return None
    squares = sum((part - value * whole) ** 2 for part, whole in filled)
    return math.sqrt(len(filled) / (len(filled) - 1) * squares) / sum(whole for _, whole in filled)


def ratio_interval(batches: Sequence[Batch], confidence: float) -> tuple[float, float] | None:
    """Return the interval of a mean or rate; None if its spread is unknown."""
    value, error = ratio(batches), ratio_error(batches)
    if value is None or error is None:
        return None
    half = student_t(confidence, sum(batch[1] > 0 for batch in batches) - 1) * error
    return value - half, value + half


def trend(batches: Sequence[Batch]) -> tuple[float, float] | None:
    """Return the ratio of the second half less that of the first, and its standard error; None if unknown."""
    filled = [batch for batch in batches if batch[1] > 0]
    if len(filled) < MIN_BATCHES:
        return None
    half = len(filled) // 2
    first, second = ratio(filled[:half]), ratio(filled[-half:])
    if first is None or second is None:
        return None
    each = [part / whole for part, whole in filled]
    variance = sum((after - before) ** 2 for before, after in pairwise(each)) / (2 * (len(each) - 1))
    return second - first, math.sqrt(2 * variance / half)


def effective_count(batches: Sequence[Batch]) -> float:
    """Effective sample size of a ratio; the plain count when the variance is unknown."""
    count, share, error = sum(batch[1] for batch in batches), ratio(batches), ratio_error(batches)
    if share is None or error is None or not 0 < share < 1:
        return count
    return count / max(1.0, error**2 * count / (share * (1 - share)))


def share_interval(share: float, count: float, confidence: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of `count` independent answers; 0..1 without answers."""
    return _wilson(share, count, normal_z(confidence))


def batch_share_interval(
    batches: Sequence[Batch], confidence: float, *, around: float | None = None
) -> tuple[float, float]:
    """Return the interval of the batches' share, or of the share `around` with the same effective sample size."""
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
MIN_BEYOND: Final = 20
"""A percentile is firm with at least this many values beyond it; in the manner of MLPerf's early stopping."""


def values_needed(quantile: float) -> int:
    """Return how many values a percentile (0.95 for p95) needs to have `MIN_BEYOND` beyond it."""
    return math.ceil(MIN_BEYOND / (1 - quantile) - 1e-6)


@lru_cache(maxsize=1024)
def quantile_ranks(quantile: float, count: int) -> tuple[int | None, int | None]:
    """
    Return the ranks (from 1) of `count` independent values between which the percentile lies with `CONFIDENCE`.

    None where even the smallest or greatest value does not bound it (order statistics; David, Nagaraja, Order
    Statistics, 3rd ed., 7.1; of many values, by the normal approximation). Values that depend on each other, as in a
    queue, bound it less well.
    """
    if count >= values_needed(quantile):
        middle, reach = quantile * count, normal_z(CONFIDENCE) * math.sqrt(count * quantile * (1 - quantile))
        return max(1, math.floor(middle - reach)), min(count, math.ceil(middle + reach) + 1)
    tail, below = (1 - CONFIDENCE) / 2, 0.0
    low = high = None
    log_p, log_not_p = math.log(quantile), math.log1p(-quantile)
    for rank in range(count + 1):  # below: the probability that fewer than `rank` values are at most the percentile
        if below <= tail and rank:
            low = rank
        if high is None and rank and 1 - below <= tail:
            high = rank
        ways = math.lgamma(count + 1) - math.lgamma(rank + 1) - math.lgamma(count - rank + 1)
        below += math.exp(ways + rank * log_p + (count - rank) * log_not_p)
    return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """
    One figure of several runs.

    `low` to `high` is the 95 % interval of the geometric mean, by Student's t of the logarithms, since a latency is
    never negative; of the arithmetic mean if a value is not positive. None below two runs.
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


@cache
def student_t(confidence: float, degrees: int) -> float:
    """
    Return t such that Student's variable with `degrees` degrees of freedom is within -t..t with this probability.

    The probability is exact (Abramowitz and Stegun 26.7.3 and 26.7.4), t is found by bisection.
    """
    low, high = 0.0, 1.0
    while _within(high, degrees) < confidence:
        high *= 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    angle = math.atan(t / math.sqrt(degrees))
    odd = degrees % 2
    term = total = math.cos(angle) if odd else 1.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    if degrees == 1:
        return 2 / math.pi * angle
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
