"""
A quantile sketch that merges exactly, in the manner of DDSketch.

Masson, Rim, Lee: DDSketch: A Fast and Fully-Mergeable Quantile Sketch with Relative-Error Guarantees, VLDB 2019. Values
fall in buckets whose bounds grow by a ratio of 1.0035, so a quantile has a relative error of at most 0.175 %; count,
sum, minimum and maximum are exact. Here the range of buckets is fixed, so that counts are arrays that NumPy adds up.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from llmload.stats.packed import finite, pack, unpack, whole

RECENT_S: Final = 30.0
"""How long an exemplar is kept before a faster request may replace it: a few scrapes."""
EXEMPLARS_KEPT: Final = 4
"""How many a distribution keeps when several processes' are merged."""
_ID_CHARACTERS: Final = 512


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A slow request of a distribution, by its id, so that a spike can be traced to its record; `unix_s` is when."""

    value: float
    request_id: str
    unix_s: float

    def to_message(self) -> list[Any]:
        """Return it as plain values."""
        return list(astuple(self))

    @classmethod
    def from_message(cls, message: Iterable[Any]) -> Self:
        """Return what `to_message` described; ValueError if it can have described none."""
        value, request_id, unix_s = message
        if not (isinstance(request_id, str) and request_id.isprintable() and len(request_id) <= _ID_CHARACTERS):
            raise ValueError("a slow request has no id")
        return cls(finite(value), request_id, finite(unix_s))

    def is_replaced_by(self, value: float, unix_s: float) -> bool:
        """Return whether a later value replaces this one: it is greater, or this one is old."""
        return value >= self.value or unix_s - self.unix_s > RECENT_S


def slowest(exemplars: Iterable[Exemplar]) -> list[Exemplar]:
    """Return the EXEMPLARS_KEPT with the greatest values, of those at most RECENT_S older than the latest."""
    known = list(exemplars)
    latest_s = max((each.unix_s for each in known), default=0.0)
    recent = [each for each in known if latest_s - each.unix_s <= RECENT_S]
    return sorted(recent, key=lambda each: each.value, reverse=True)[:EXEMPLARS_KEPT]


_ROUNDING: Final = 1e-6
"""By what part a sum of many values may be off."""
RATIO: Final = 1.0035
"""Each bucket's upper bound over its lower bound; half of what it exceeds 1 by is the relative accuracy."""
_LOG_RATIO: Final = math.log(RATIO)
_MIN_VALUE: Final = 1e-6
"""Smaller values, and zero, share the lowest bucket."""
BUCKETS: Final = 8_000
"""Enough for 1e-6 to 1.3e6: a microsecond to two weeks, a token to a million."""

_PENDING: Final = 256
"""How many values are sorted into buckets together."""
_PENDING_ARRAYS: Final = 64


def bucket_bounds(lowest: float, highest: float, step: int) -> tuple[float, ...]:
    """
    Return the upper bound of every `step`-th bucket from `lowest` until one is at or above `highest`, in five digits.

    Rounded down, so that each is in the bucket that it bounds: `count_at_most` counts that bucket and those below.
    """
    first = math.ceil(math.log(lowest / _MIN_VALUE) / _LOG_RATIO)
    last = math.ceil(math.log(highest / _MIN_VALUE) / _LOG_RATIO)
    return tuple(_rounded_down(_MIN_VALUE * RATIO**bucket) for bucket in range(first, last + step, step))


def _bucket_of(value: float) -> int:
    """Return the bucket of a value, or its neighbour for a value on the bound between them."""
    return int(math.log(value / _MIN_VALUE) / _LOG_RATIO) + 1 if value >= _MIN_VALUE else 0


def _rounded_down(value: float, digits: int = 5) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return float(f"{math.floor(value / step) * step:.{digits}g}")


def buckets_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the bucket of each value; all must be finite and not negative."""
    buckets = (np.log(np.maximum(values, _MIN_VALUE) / _MIN_VALUE) / _LOG_RATIO).astype(np.int64) + 1
    buckets[values < _MIN_VALUE] = 0
    return np.minimum(buckets, BUCKETS - 1)


def bucket_middle(bucket: int) -> float:
    """Return the value that a quantile in the bucket is given as."""
    return 0.0 if bucket == 0 else _MIN_VALUE * RATIO ** (bucket - 0.5)


class Histogram:
    """
    Counts of values from 0 on in logarithmic buckets.

    Merging two histograms gives exactly what adding all their values to one would give. `infinite` counts requests that
    never had a value (failures); only quantiles `with_infinite` include them. Added values are sorted into buckets
    together, when there are many or a figure is read.
    """

    __slots__ = ("_max", "_min", "_pending", "_pending_arrays", "_sorted", "_sums", "_total", "infinite")

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.int64] = np.zeros(BUCKETS, dtype=np.int64)
        self._sums: npt.NDArray[np.int64] | None = None
        self._pending: list[float] = []
        self._pending_arrays: list[npt.NDArray[np.float64]] = []
        self.infinite = 0
        self._total = 0.0
        self._min = math.inf
        self._max = -math.inf

    @property
    def total(self) -> float:
        """The exact sum."""
        self._sort()
        return self._total

    @property
    def min_value(self) -> float:
        """The exact minimum; infinity when empty."""
        self._sort()
        return self._min

    @property
    def max_value(self) -> float:
        """The exact maximum; minus infinity when empty."""
        self._sort()
        return self._max

    @property
    def seen(self) -> bool:
        """Whether any finite value was added; cheaper than `count`."""
        return bool(self._pending or self._pending_arrays) or self._min <= self._max

    @property
    def count(self) -> int:
        """The number of finite values."""
        return int(self._up_to[-1])

    @property
    def mean(self) -> float | None:
        """The exact mean; None when empty."""
        count = self.count
        return self.total / count if count else None

    @property
    def inverse_total(self) -> float | None:
        """The sum of 1/value, within 0.18 %; None where a value is below a microsecond: its inverse says nothing."""
        used = np.flatnonzero(self._counts)
        if len(used) and used[0] == 0:
            return None
        middles = np.clip(_MIN_VALUE * RATIO ** (used - 0.5), self.min_value, self.max_value)
        return float(np.sum(self._counts[used] / middles))

    def add(self, value: float) -> None:
        """Add one value; ValueError if it is negative or not finite."""
        if not 0 <= value < math.inf:
            raise ValueError(f"a histogram takes finite values from 0 on, not {value}")
        self._pending.append(value)
        if len(self._pending) >= _PENDING:
            self._sort()

    def add_many(self, values: npt.NDArray[np.float64]) -> None:
        """Add every value of an array, which the caller may not change afterwards; ValueError as for `add`."""
        if not len(values):
            return
        if not (
            np.minimum.reduce(values) >= 0 and np.maximum.reduce(values) < math.inf
        ):  # half the time of min(), max()
            raise ValueError(f"a histogram takes finite values from 0 on, not {values.min()} to {values.max()}")
        self._pending_arrays.append(values)
        if len(self._pending_arrays) >= _PENDING_ARRAYS:
            self._sort()

    @property
    def _counts(self) -> npt.NDArray[np.int64]:
        """The count of each bucket, with pending values sorted in."""
        self._sort()
        return self._sorted

    @property
    def _up_to(self) -> npt.NDArray[np.int64]:
        """The number of values in each bucket and all below; computed once until more are added."""
        self._sort()
        if self._sums is None:
            self._sums = np.cumsum(self._sorted)
        return self._sums

    def _sort(self) -> None:
        if not (self._pending or self._pending_arrays):
            return
        values = np.concatenate((self._pending, *self._pending_arrays))
        self._pending, self._pending_arrays, self._sums = [], [], None
        self._sorted += np.bincount(buckets_of(values), minlength=BUCKETS)
        self._total += float(values.sum())
        self._min = min(self._min, float(values.min()))
        self._max = max(self._max, float(values.max()))

    def add_infinite(self, count: int = 1) -> None:
        """Count requests that never had a value."""
        self.infinite += count

    def merge(self, *others: Self) -> None:
        """Add the other histograms' values."""
        for other in others:
            other._sort()
            self.infinite += other.infinite
        seen = [other for other in others if other.seen]
        if not seen:
            return
        lowest, highest = min(other._min for other in seen), max(other._max for other in seen)
        # Most buckets are outside this slice, so that a sum over many processes is cheap.
        used = slice(min(max(0, _bucket_of(lowest) - 1), BUCKETS - 1), _bucket_of(highest) + 2)
        counts = self._sorted[used]
        for other in seen:
            counts += other._sorted[used]
            self._total += other._total
        self._min, self._max, self._sums = min(self._min, lowest), max(self._max, highest), None

    def since(self, earlier: Self) -> Self:
        """Return what was added since an earlier copy; its minimum and maximum are exact to a bucket."""
        part = type(self)()
        part._sorted = self._counts - earlier._counts
        part.infinite = self.infinite - earlier.infinite
        part._total = self.total - earlier.total
        used = np.flatnonzero(part._sorted)
        if len(used):
            part._min = 0.0 if used[0] == 0 else _MIN_VALUE * RATIO ** (int(used[0]) - 1)
            part._max = _MIN_VALUE * RATIO ** int(used[-1])
        return part

    def quantile(self, share: float, *, with_infinite: bool = False) -> float | None:
        """
        Return the value that `share` (0 to 1) of all values do not exceed, by nearest rank, within 0.18 %.

        None when empty, and, with `with_infinite`, where the rank is that of a request that never had a value.
        """
        count = self.count
        rank = max(1, math.ceil(share * (count + (self.infinite if with_infinite else 0)) - 1e-9))
        if rank > count:
            return None
        bucket = int(np.searchsorted(self._up_to, rank))
        return min(max(bucket_middle(bucket), self.min_value), self.max_value)

    def count_at_most(self, limit: float) -> int:
        """Return how many values are at or below the limit, exact to the limit's bucket."""
        if limit >= self.max_value:
            return self.count
        if limit < self.min_value:
            return 0
        return int(self._up_to[min(_bucket_of(limit), BUCKETS - 1)])

    def counts_at_most(self, limits: Sequence[float]) -> list[int]:
        """Return `count_at_most` of every limit, at the cost of one."""
        sums, wanted = self._up_to, np.asarray(limits, dtype=np.float64)
        found = sums[buckets_of(wanted)]
        found[wanted >= self.max_value] = sums[-1]
        found[wanted < self.min_value] = 0
        counts: list[int] = found.tolist()
        return counts

    def to_message(self, merge_factor: int = 1) -> dict[str, Any]:
        """
        Return the histogram as plain numbers and bytes: up to two bytes a bucket between its minimum and maximum.

        `merge_factor` neighbouring buckets become one, for fewer bytes: the histogram made of the message has the same
        count, sum, minimum and maximum, and quantiles that are up to `merge_factor / 2` buckets off.
        """
        used = np.flatnonzero(self._counts)
        first = int(used[0]) // merge_factor * merge_factor if len(used) else 0
        counts = self._counts[first : int(used[-1]) + 1] if len(used) else self._counts[:0]
        merged = np.add.reduceat(counts, np.arange(0, len(counts), merge_factor)) if len(counts) else counts
        return {
            "first": first,
            "merge_factor": merge_factor,
            "counts": pack(merged),
            "infinite": self.infinite,
            "total": self.total,
            "min": self.min_value if len(used) else None,
            "max": self.max_value if len(used) else None,
        }

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Self:
        """Return the histogram that `to_message` described; ValueError if it can have described none."""
        self = cls()
        counts = unpack(message["counts"], BUCKETS)
        first, factor = whole(message["first"], BUCKETS), whole(message["merge_factor"], BUCKETS)
        self.infinite = whole(message["infinite"])
        self._total = finite(message["total"])
        if len(counts):
            self._min, self._max = finite(message["min"]), finite(message["max"])
            middles = first + np.arange(len(counts)) * factor + factor // 2
            lowest, highest = buckets_of(np.array([self._min, self._max])).tolist()
            if factor > 1:  # the middle of the outermost may be beyond the minimum or maximum
                middles = np.clip(middles, lowest, highest)
            least, most = self._min * int(counts.sum()), self._max * int(counts.sum())
            if not (
                factor > 0
                and self._min <= self._max
                and counts[0] > 0 < counts[-1]
                and lowest - 1 <= middles[0] <= middles[-1] <= highest + 1
                and least * (1 - _ROUNDING) <= self._total <= most * (1 + _ROUNDING)
            ):
                raise ValueError("a histogram's counts, sum, minimum and maximum contradict each other")
            np.add.at(self._sorted, middles, counts)
        elif self._total:
            raise ValueError("a histogram without values has a sum")
        return self


class HistogramSeries:
    """A histogram with the buckets of `Histogram` for each of `length` bins, such as bins of time."""

    def __init__(self, length: int) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros((length, BUCKETS), dtype=np.int64)

    def add(self, bins: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Add each value to the histogram of its bin."""
        if len(values):
            cells = bins * BUCKETS + buckets_of(values)
            np.add.at(self._counts.reshape(-1), cells, 1)

    def grouped(self, size: int) -> Self:
        """Return the series in which each `size` neighbouring bins are one; the last may be of fewer."""
        merged = type(self)(0)
        merged._counts = np.add.reduceat(self._counts, np.arange(0, len(self._counts), size), axis=0)
        return merged

    @property
    def counts(self) -> list[int]:
        """The number of values in each bin."""
        return [int(count) for count in self._counts.sum(axis=1)]

    def quantiles(self, share: float, *, min_count: int = 1) -> list[float | None]:
        """Return each bin's quantile by nearest rank; None where it has fewer than `min_count` values."""
        sums = np.cumsum(self._counts, axis=1)
        found: list[float | None] = []
        for row in sums:
            count = int(row[-1])
            rank = max(1, math.ceil(share * count - 1e-9))
            found.append(None if count < max(1, min_count) else bucket_middle(int(np.searchsorted(row, rank))))
        return found
