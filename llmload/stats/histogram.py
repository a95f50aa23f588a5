"""A histogram for each of many places in a row, such as spans of time, and their quantiles."""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

# Counts as few bytes: most are small, so the upper bytes of all of them stand together and vanish.

_WIDTH: Final = 8
_LEVEL: Final = 6

Integers = npt.NDArray[np.int64]


def pack(counts: Integers) -> bytes:
    """Return numbers from 0 on as bytes, one to two a number where they are below 65,536."""
    planes = np.ascontiguousarray(counts.astype("<u8").view(np.uint8).reshape(-1, _WIDTH).T)
    return zlib.compress(planes.tobytes(), _LEVEL)


def unpack(packed: bytes) -> Integers:
    """Return the numbers that `pack` took."""
    planes = np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(_WIDTH, -1)
    return np.ascontiguousarray(planes.T).view("<u8").reshape(-1).astype(np.int64)


def pack_sparse(counts: Mapping[int, int]) -> list[bytes]:
    """Return counts by their place, a number from 0 on, as bytes."""
    places = sorted(counts)
    gaps = [index - before for before, index in zip([0, *places], places, strict=False)]
    return [pack(np.array(gaps, dtype=np.int64)), pack(np.array([counts[index] for index in places], dtype=np.int64))]


def unpack_sparse(packed: list[bytes]) -> dict[int, int]:
    """Return the counts that `pack_sparse` took."""
    gaps, counts = map(unpack, packed)
    return dict(zip(np.cumsum(gaps).tolist(), counts.tolist(), strict=True))


# A request that stands for others: the slowest of late, by its id, so that a spike can be traced to its record.

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


# A distribution that merges exactly: counts in buckets a half per cent wide, with exact count, sum, least and most.

RATIO: Final = 1.005
"""Each bucket's upper bound over its lower bound: a quantile is at most 0.25 % off."""
_LOG_RATIO: Final = math.log(RATIO)
_LEAST: Final = 1e-6
"""Values from here on have buckets of their own; smaller ones, and zero, share the lowest."""
BUCKETS: Final = 5_600
"""Enough for 1e-6 to 1.3e6: a microsecond to two weeks, a token to a million."""

_WAITING: Final = 256
"""How many values wait to be sorted in together."""
_WAITING_ARRAYS: Final = 64


def bounds(least: float, most: float, every: int) -> tuple[float, ...]:
    """
    Return every so-many-th upper bound of the buckets from `least` until one is at or above `most`, in five digits.

    Rounded down, so that each still falls in the bucket that it bounds: `at_most` counts just that and those below.
    """
    first = math.ceil(math.log(least / _LEAST) / _LOG_RATIO)
    last = math.ceil(math.log(most / _LEAST) / _LOG_RATIO)
    places = range(first, last + every, every)
    return tuple(_rounded_down(_LEAST * RATIO**index) for index in places)


def _place(value: float) -> int:
    """The bucket that a value falls in, or its neighbour where it lies on the bound between them."""
    return int(math.log(value / _LEAST) / _LOG_RATIO) + 1 if value >= _LEAST else 0


def _rounded_down(value: float, digits: int = 5) -> float:
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return float(f"{math.floor(value / step) * step:.{digits}g}")


def buckets_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the bucket of each value; all must be finite and from 0 on."""
    buckets = (np.log(np.maximum(values, _LEAST) / _LEAST) / _LOG_RATIO).astype(np.int64) + 1
    buckets[values < _LEAST] = 0
    return np.minimum(buckets, BUCKETS - 1)


def bucket_middle(bucket: int) -> float:
    """Return the value that stands for a bucket."""
    return 0.0 if bucket == 0 else _LEAST * RATIO ** (bucket - 0.5)


class Histogram:
    """
    Positive numbers of one unit, kept as log-spaced counts.

    Merging two histograms gives just what adding all their values to one would have given. `infinite` counts requests
    that never came to a value (failures); they enter only quantiles that ask for them.

    Values wait until there are many or someone asks, and are sorted into buckets together.
    """

    __slots__ = ("_least", "_most", "_sorted", "_sums", "_total", "_waiting", "_waiting_arrays", "infinite")

    def __init__(self) -> None:
        self._sorted: npt.NDArray[np.int64] = np.zeros(BUCKETS, dtype=np.int64)
        self._sums: npt.NDArray[np.int64] | None = None
        self._waiting: list[float] = []
        self._waiting_arrays: list[npt.NDArray[np.float64]] = []
        self.infinite = 0
        self._total = 0.0
        self._least = math.inf
        self._most = -math.inf

    @property
    def total(self) -> float:
        """The exact sum."""
        self._sort()
        return self._total

    @property
    def least(self) -> float:
        """The least value; infinite when empty."""
        self._sort()
        return self._least

    @property
    def most(self) -> float:
        """The greatest value; minus infinity when empty."""
        self._sort()
        return self._most

    @property
    def seen(self) -> bool:
        """Whether any finite value was added, without counting them."""
        return bool(self._waiting or self._waiting_arrays) or self._least <= self._most

    @property
    def count(self) -> int:
        """How many finite values were added."""
        return int(self._up_to[-1])

    @property
    def mean(self) -> float | None:
        """The exact mean; None when empty."""
        count = self.count
        return self.total / count if count else None

    def add(self, value: float) -> None:
        """Add one value; ValueError if it is negative or not finite."""
        if not 0 <= value < math.inf:
            raise ValueError(f"a histogram takes finite values from 0 on, not {value}")
        self._waiting.append(value)
        if len(self._waiting) >= _WAITING:
            self._sort()

    def add_many(self, values: npt.NDArray[np.float64]) -> None:
        """Add every value of an array, which is the histogram's from then on; ValueError as for `add`."""
        if not len(values):
            return
        if not (values.min() >= 0 and values.max() < math.inf):
            raise ValueError(f"a histogram takes finite values from 0 on, not {values.min()} to {values.max()}")
        self._waiting_arrays.append(values)
        if len(self._waiting_arrays) >= _WAITING_ARRAYS:
            self._sort()

    @property
    def _counts(self) -> npt.NDArray[np.int64]:
        """The count of each bucket, with everything sorted in."""
        self._sort()
        return self._sorted

    @property
    def _up_to(self) -> npt.NDArray[np.int64]:
        """How many values lie in each bucket and all below; kept until there are more."""
        self._sort()
        if self._sums is None:
            self._sums = np.cumsum(self._sorted)
        return self._sums

    def _sort(self) -> None:
        if not (self._waiting or self._waiting_arrays):
            return
        values = np.concatenate((self._waiting, *self._waiting_arrays))
        self._waiting, self._waiting_arrays, self._sums = [], [], None
        self._sorted += np.bincount(buckets_of(values), minlength=BUCKETS)
        self._total += float(values.sum())
        self._least = min(self._least, float(values.min()))
        self._most = max(self._most, float(values.max()))

    def add_infinite(self, count: int = 1) -> None:
        """Count requests that never came to a value."""
        self.infinite += count

    def merge(self, *others: Self) -> None:
        """Add everything that the other histograms hold."""
        for other in others:
            other._sort()
            self.infinite += other.infinite
        seen = [other for other in others if other.seen]
        if not seen:
            return
        least, most = min(other._least for other in seen), max(other._most for other in seen)
        # Most buckets lie outside what was seen: a sum over many processes is cheap.
        used = slice(min(max(0, _place(least) - 1), BUCKETS - 1), _place(most) + 2)
        counts = self._sorted[used]
        for other in seen:
            counts += other._sorted[used]
            self._total += other._total
        self._least, self._most, self._sums = min(self._least, least), max(self._most, most), None

    def since(self, earlier: Self) -> Self:
        """Return what was added since an earlier copy; its least and greatest are to within a bucket."""
        part = type(self)()
        part._sorted = self._counts - earlier._counts
        part.infinite = self.infinite - earlier.infinite
        part._total = self.total - earlier.total
        used = np.flatnonzero(part._sorted)
        if len(used):
            part._least = 0.0 if used[0] == 0 else _LEAST * RATIO ** (int(used[0]) - 1)
            part._most = _LEAST * RATIO ** int(used[-1])
        return part

    def quantile(self, share: float, *, with_infinite: bool = False) -> float | None:
        """
        Return the value that `share` (0 to 1) of all values do not exceed, by nearest rank, at most 0.25 % off.

        None when empty, and, with `with_infinite`, where the rank falls among requests that never came to a value.
        """
        count = self.count
        rank = max(1, math.ceil(share * (count + (self.infinite if with_infinite else 0)) - 1e-9))
        if rank > count:
            return None
        bucket = int(np.searchsorted(self._up_to, rank))
        return min(max(bucket_middle(bucket), self.least), self.most)

    def at_most(self, limit: float) -> int:
        """Return how many values lie at or below the limit, to within the bucket that the limit falls in."""
        if limit >= self.most:
            return self.count
        if limit < self.least:
            return 0
        return int(self._up_to[min(_place(limit), BUCKETS - 1)])

    def at_most_each(self, limits: Sequence[float]) -> list[int]:
        """Return `at_most` of every limit, at the cost of one."""
        sums, wanted = self._up_to, np.asarray(limits, dtype=np.float64)
        found = sums[buckets_of(wanted)]
        found[wanted >= self.most] = sums[-1]
        found[wanted < self.least] = 0
        counts: list[int] = found.tolist()
        return counts

    def to_message(self, every: int = 1) -> dict[str, Any]:
        """
        Return the histogram as plain numbers and bytes: up to two bytes a bucket between its least and greatest value.

        With `every`, so many neighbouring buckets go as one, for fewer bytes: what comes of it has the same count, sum
        and bounds, and quantiles that are up to half of `every` buckets off.
        """
        used = np.flatnonzero(self._counts)
        first = int(used[0]) // every * every if len(used) else 0
        counts = self._counts[first : int(used[-1]) + 1] if len(used) else self._counts[:0]
        together = np.add.reduceat(counts, np.arange(0, len(counts), every)) if len(counts) else counts
        return {
            "first": first,
            "every": every,
            "counts": pack(together),
            "infinite": self.infinite,
            "total": self.total,
            "least": self.least if len(used) else None,
            "most": self.most if len(used) else None,
        }

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Self:
        """Return the histogram that `to_message` described."""
        self = cls()
        counts = unpack(message["counts"])
        self.infinite = message["infinite"]
        self._total = message["total"]
        if len(counts):
            self._least, self._most = message["least"], message["most"]
            middles = message["first"] + np.arange(len(counts)) * message["every"] + message["every"] // 2
            if message["every"] > 1:  # the middle of the outermost may lie beyond what was seen
                middles = np.clip(middles, *buckets_of(np.array([self._least, self._most])))
            np.add.at(self._sorted, middles, counts)
        return self


class HistogramSeries:
    """Counts of `length` histograms with the buckets of `Histogram`, so that a quantile is at most 0.25 % off."""

    def __init__(self, length: int) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros((length, BUCKETS), dtype=np.int64)

    def add(self, places: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Add each value to the histogram at its place."""
        if len(values):
            cells = places * BUCKETS + buckets_of(values)
            np.add.at(self._counts.reshape(-1), cells, 1)

    def grouped(self, size: int) -> Self:
        """Return the series in which each `size` neighbours are one; the last may be of fewer."""
        self_ = type(self)(0)
        self_._counts = np.add.reduceat(self._counts, np.arange(0, len(self._counts), size), axis=0)
        return self_

    @property
    def counts(self) -> list[int]:
        """How many values each histogram holds."""
        return [int(count) for count in self._counts.sum(axis=1)]

    def quantiles(self, share: float, *, at_least: int = 1) -> list[float | None]:
        """Return each histogram's quantile by nearest rank; None where it holds fewer than `at_least` values."""
        sums = np.cumsum(self._counts, axis=1)
        found: list[float | None] = []
        for row in sums:
            count = int(row[-1])
            rank = max(1, math.ceil(share * count - 1e-9))
            found.append(None if count < max(1, at_least) else bucket_middle(int(np.searchsorted(row, rank))))
        return found
