"""A histogram for each of many places in a row, such as spans of time, and their quantiles."""

import math
from typing import Self

import numpy as np
import numpy.typing as npt

from llmload.measure.histogram import BUCKETS, bucket_middle, buckets_of


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
