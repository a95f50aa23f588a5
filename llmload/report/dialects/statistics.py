"""Means and percentiles as the tools compute them; None where there is nothing to compute them of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from llmload.measure.record import StampArray

Values = Sequence[float] | npt.NDArray[np.float64]

_OF: Final[Mapping[str, Callable[..., Any]]] = {
    "mean": np.mean,
    "avg": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
    "std": np.std,
}


def linear(values: Values, percent: float) -> float | None:
    """Return a percentile between the two nearest values, as `numpy.percentile` does where it is not told otherwise."""
    return float(np.percentile(values, percent)) if len(values) else None


def statistic(values: Values, name: str) -> float | None:
    """Return `mean`, `avg`, `median`, `min`, `max`, `std` (of a population), or a percentile such as `p99`."""
    if not len(values):
        return None
    if name[0] == "p" and name[1:].isdigit():
        return linear(values, float(name[1:]))
    return float(_OF[name](values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """Values with weights; percentiles are the first value at which the weights reach the share (nearest rank)."""

    values: Values
    weights: Values

    def mean(self) -> float | None:
        """Return the weighted mean."""
        return float(np.average(self.values, weights=self.weights)) if self._any else None

    def quantile(self, share: float) -> float | None:
        """Return the value at which the weights of those before it, and its own, reach the share of all."""
        if not self._any:
            return None
        order = np.argsort(self.values)
        reached = np.cumsum(np.asarray(self.weights)[order]) / np.sum(self.weights)
        place = min(int(np.searchsorted(reached, share, side="left")), len(order) - 1)
        return float(np.asarray(self.values)[order][place])

    @property
    def _any(self) -> bool:
        return len(self.values) > 0 and float(np.sum(self.weights)) > 0


def ratio(part: float | None, of: float | None) -> float | None:
    """Return a share or rate; None where one side is not known or the other is 0."""
    return None if part is None or not of else part / of


def gaps_s(stamps_ns: Sequence[StampArray]) -> npt.NDArray[np.float64]:
    """Return all gaps between neighbouring stamps of each array, pooled."""
    return np.concatenate([np.diff(each) for each in stamps_ns]) / 1e9 if stamps_ns else np.empty(0)
