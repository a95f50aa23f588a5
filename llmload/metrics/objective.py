"""The grammar of a promise: one line that names a figure of a summary and the limit that it must keep."""

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

DISTRIBUTIONS: Final = (
    "ttft_s",
    "tpot_s",
    "itl_s",
    "e2e_s",
    "ttft_from_schedule_s",
    "e2e_from_schedule_s",
    "schedule_lag_s",
    "request_output_tokens_per_s",
    "request_prompt_tokens",
    "request_output_tokens",
)
"""Figures that need a statistic: `ttft_s p95`."""
STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99", "max")
SHARES: Final = ("error_share", "goodput_share")
RATES: Final = ("requests_per_min", "goodput_per_min", "output_tokens_per_s")
METRICS: Final = (*DISTRIBUTIONS, *SHARES, *RATES)
EXAMPLES: Final = "'ttft_s p95 < 0.5', 'error_share <= 0.01' or 'requests_per_min >= 30'"

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PROMISE: Final = re.compile(
    r"\s*(?P<metric>\w+)(?:\s+(?P<statistic>\w+))?\s*(?P<comparison><=|>=|<|>)\s*(?P<limit>\S+)\s*"
)


class Measured(Protocol):
    """What has figures: a run's summary, or a stage of it."""

    def value(self, name: str, statistic: str | None = None) -> float | None:
        """Return a figure, of a distribution the statistic; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class Objective:
    """
    A promise such as `ttft_s p95 < 0.5`: a figure as docs/summary.md names it, and the limit that it must keep.

    `statistic` is one of `STATISTICS` for a distribution, None for a share or a rate; the limit has the figure's unit.
    """

    metric: str
    statistic: str | None
    comparison: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the promise that a line makes; ValueError naming what is known where it makes none."""
        found = _PROMISE.fullmatch(text)
        if found is None:
            raise ValueError(f"a promise looks like {EXAMPLES}")
        metric, statistic = found["metric"], found["statistic"]
        _check_figure(metric, statistic)
        limit = _limit(found["limit"])
        _check_limit(metric, found["comparison"], limit)
        return cls(metric, statistic, found["comparison"], limit)

    @property
    def name(self) -> str:
        """What the promise is about: `ttft_s p95`, `error_share`."""
        return f"{self.metric} {self.statistic}" if self.statistic else self.metric

    @property
    def quantile(self) -> float | None:
        """The share (0 to 1) that a percentile stands for; None where the promise is about no percentile."""
        return int(self.statistic[1:]) / 100 if self.statistic and self.statistic[0] == "p" else None

    @property
    def is_upper(self) -> bool:
        """Whether the figure must stay below the limit, rather than above it."""
        return self.comparison[0] == "<"

    def figure(self, measured: Measured) -> float | None:
        """Return the figure that the promise is about, of a run or of a stage; None if not measured."""
        return measured.value(self.metric, self.statistic)

    def kept(self, value: float | None) -> bool:
        """Return whether a figure keeps the promise; one that was not measured does not."""
        return value is not None and _COMPARISONS[self.comparison](value, self.limit)

    def told(self, value: float | None) -> str:
        """Return how a figure stands to the promise, in words: `ttft_s p95 0.62, promised < 0.5`."""
        figure = "not measured" if value is None else f"{value:.4g}"
        if value is not None and float(figure) != value and self.kept(float(figure)) != self.kept(value):
            figure = repr(value)  # rounding would tell the opposite
        return f"{self.name} {figure}, promised {self.comparison} {_written(self.limit)}"

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {_written(self.limit)}"


def _check_figure(metric: str, statistic: str | None) -> None:
    if metric not in METRICS:
        close = difflib.get_close_matches(metric, METRICS, n=1)
        advice = f"did you mean {close[0]}? known" if close else "known"
        raise ValueError(f"no figure is called {metric}; {advice}: {', '.join(METRICS)}")
    if metric not in DISTRIBUTIONS:
        if statistic is not None:
            raise ValueError(f"{metric} is one number and has no {statistic}: leave it out")
    elif statistic not in STATISTICS:
        lacks = "needs a statistic" if statistic is None else f"has no {statistic}"
        raise ValueError(f"{metric} is a distribution and {lacks}; known: {', '.join(STATISTICS)}")


def _limit(text: str) -> float:
    try:
        limit = float(text)
    except ValueError:
        raise ValueError(f"the limit {text} is not a number; a promise looks like {EXAMPLES}") from None
    if not math.isfinite(limit):
        raise ValueError(f"the limit {text} is not a finite number")
    return limit


def _check_limit(metric: str, comparison: str, limit: float) -> None:
    most = 1.0 if metric in SHARES else math.inf
    if not 0 <= limit <= most:
        raise ValueError(f"{metric} lies between 0 and 1" if metric in SHARES else f"{metric} is never negative")
    if (comparison == "<" and limit == 0) or (comparison == ">" and limit == most):
        raise ValueError(f"{metric} {comparison} {limit:g} can never be kept")


def _written(limit: float) -> str:
    short = f"{limit:g}"
    return short if float(short) == limit else repr(limit)
