"""An objective: a figure of a run and the limit it must meet; and the metrics that two runs are compared by."""

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

from llmload.metrics.requests import QUANTILES, REQUEST_DISTRIBUTIONS

STATISTICS: Final = ("mean", *QUANTILES, "max")
"""One of them follows the name of a distribution: `ttft_s p95`."""
SHARES: Final = ("error_share", "goodput_share")
RATES: Final = ("requests_per_min", "goodput_per_min", "output_tokens_per_s")
OBJECTIVE_METRICS: Final = (*REQUEST_DISTRIBUTIONS, *SHARES, *RATES)
LABELS: Final = {
    "ttft_s": "TTFT",
    "ttfa_s": "time to first answer",
    "thinking_s": "thinking time",
    "answer_tpot_s": "TPOT of the answer",
    "engine_queue_s": "TTFT: queue",
    "engine_prefill_s": "TTFT: prefill",
    "ttft_rest_s": "TTFT: the rest",
    "engine_decode_s": "engine's decode",
    "itl_s": "ITL",
    "tpot_s": "TPOT",
    "e2e_s": "e2e latency",
    "ttft_from_schedule_s": "TTFT from schedule",
    "e2e_from_schedule_s": "e2e latency from schedule",
    "schedule_lag_s": "schedule lag",
    "ttft_wire_s": "TTFT on the wire",
    "departure_delay_s": "delay of departure",
    "rtt_s": "round-trip time",
    "request_output_tokens_per_s": "output tokens/s of a request",
    "request_prompt_tokens": "prompt tokens a request",
    "request_output_tokens": "output tokens a request",
    "requests_per_min": "requests/min",
    "goodput_per_min": "goodput",
    "goodput_share": "goodput share",
    "output_tokens": "output tokens",
    "output_tokens_per_s": "system output tokens/s",
}
"""What texts call a figure."""
EXAMPLES: Final = "'ttft_s p95 < 0.5', 'error_share <= 0.01' or 'requests_per_min >= 30'"

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_OBJECTIVE: Final = re.compile(
    r"\s*(?P<metric>\w+)(?:\s+(?P<statistic>\w+))?\s*(?P<comparison><=|>=|<|>)\s*(?P<limit>\S+)\s*"
)


class Measured(Protocol):
    """What has figures: a run's summary, or a stage of it."""

    def value(self, name: str, statistic: str | None = None) -> float | None:
        """Return a figure, of a distribution the statistic; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class Objective:
    """
    A limit for one figure of docs/summary.md, such as `ttft_s p95 < 0.5`.

    `statistic` is one of `STATISTICS` for a distribution, None for a share or a rate; the limit has the figure's unit.
    """

    metric: str
    statistic: str | None
    comparison: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the objective that a line states; ValueError names the fault and what is known."""
        found = _OBJECTIVE.fullmatch(text)
        if found is None:
            raise ValueError(f"an objective looks like {EXAMPLES}")
        metric, statistic = found["metric"], found["statistic"]
        _check_figure(metric, statistic)
        limit = _limit(found["limit"])
        _check_limit(metric, found["comparison"], limit)
        return cls(metric, statistic, found["comparison"], limit)

    @property
    def name(self) -> str:
        """Its figure: `ttft_s p95`, `error_share`."""
        return f"{self.metric} {self.statistic}" if self.statistic else self.metric

    @property
    def quantile(self) -> float | None:
        """The percentile as a fraction, 0.95 for `p95`; None if the statistic is not a percentile."""
        return quantile_of(self.statistic)

    @property
    def is_upper(self) -> bool:
        """Whether the figure must stay below the limit, rather than above it."""
        return self.comparison[0] == "<"

    def figure(self, measured: Measured) -> float | None:
        """Return the figure, of a run or of a stage; None if not measured."""
        return measured.value(self.metric, self.statistic)

    def passed(self, value: float | None) -> bool:
        """Return whether a figure meets the objective; one that was not measured does not."""
        return value is not None and _COMPARISONS[self.comparison](value, self.limit)

    def describe(self, value: float | None) -> str:
        """Return the figure beside its limit: `ttft_s p95 0.62, required < 0.5`."""
        figure = "not measured" if value is None else f"{value:.4g}"
        if value is not None and float(figure) != value and self.passed(float(figure)) != self.passed(value):
            figure = repr(value)  # rounded, it would be on the other side of the limit
        return f"{self.name} {figure}, required {self.comparison} {_written(self.limit)}"

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {_written(self.limit)}"


def quantile_of(statistic: str | None) -> float | None:
    """Return a percentile as a fraction, 0.95 for `p95`; None for any other statistic."""
    return int(statistic[1:]) / 100 if statistic and statistic[0] == "p" else None


def _check_figure(metric: str, statistic: str | None) -> None:
    if metric not in OBJECTIVE_METRICS:
        close = difflib.get_close_matches(metric, OBJECTIVE_METRICS, n=1)
        advice = f"did you mean {close[0]}? known" if close else "known"
        raise ValueError(f"no figure is called {metric}; {advice}: {', '.join(OBJECTIVE_METRICS)}")
    if metric not in REQUEST_DISTRIBUTIONS:
        if statistic is not None:
            raise ValueError(f"{metric} is one number and has no {statistic}: leave it out")
    elif statistic not in STATISTICS:
        lacks = "needs a statistic" if statistic is None else f"has no {statistic}"
        raise ValueError(f"{metric} is a distribution and {lacks}; known: {', '.join(STATISTICS)}")


def _limit(text: str) -> float:
    try:
        limit = float(text)
    except ValueError:
        raise ValueError(f"the limit {text} is not a number; an objective looks like {EXAMPLES}") from None
    if not math.isfinite(limit):
        raise ValueError(f"the limit {text} is not a finite number")
    return limit


def _check_limit(metric: str, comparison: str, limit: float) -> None:
    most = 1.0 if metric in SHARES else math.inf
    if not 0 <= limit <= most:
        raise ValueError(f"{metric} lies between 0 and 1" if metric in SHARES else f"{metric} is never negative")
    if (comparison == "<" and limit == 0) or (comparison == ">" and limit == most):
        raise ValueError(f"{metric} {comparison} {limit:g} can never be met")


def _written(limit: float) -> str:
    short = f"{limit:g}"
    return short if float(short) == limit else repr(limit)


# The metrics by which two runs are compared, and how much worse each may be by default.


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """
    A figure of docs/summary.md that two runs are compared by.

    `threshold` is the accepted worsening: a fraction of the base's figure; for a share, the difference.
    """

    figure: str
    statistic: str | None = None
    label: str
    threshold: float
    higher_is_better: bool = False

    @property
    def name(self) -> str:
        """Figure and statistic: `ttft_s p95`."""
        return f"{self.figure} {self.statistic}" if self.statistic else self.figure

    @property
    def is_share(self) -> bool:
        """Whether its change is a difference, not a ratio."""
        return self.figure == "error_share"

    @property
    def quantile(self) -> float | None:
        """The percentile as a fraction, 0.95 for `p95`; None if the statistic is not a percentile."""
        return quantile_of(self.statistic)


CENTRE, P95, P99 = 0.02, 0.05, 0.10
METRICS: Final = (
    Metric(figure="ttft_s", statistic="mean", label="TTFT mean", threshold=CENTRE),
    Metric(figure="ttft_s", statistic="p50", label="TTFT p50", threshold=CENTRE),
    Metric(figure="ttft_s", statistic="p95", label="TTFT p95", threshold=P95),
    Metric(figure="ttft_s", statistic="p99", label="TTFT p99", threshold=P99),
    Metric(figure="itl_s", statistic="p99", label="ITL p99", threshold=P99),
    Metric(figure="tpot_s", statistic="mean", label="TPOT mean", threshold=CENTRE),
    Metric(figure="tpot_s", statistic="p50", label="TPOT p50", threshold=CENTRE),
    Metric(figure="tpot_s", statistic="p99", label="TPOT p99", threshold=P99),
    Metric(figure="e2e_s", statistic="mean", label="e2e mean", threshold=CENTRE),
    Metric(figure="e2e_s", statistic="p50", label="e2e p50", threshold=CENTRE),
    Metric(figure="e2e_s", statistic="p95", label="e2e p95", threshold=P95),
    Metric(figure="e2e_s", statistic="p99", label="e2e p99", threshold=P99),
    Metric(
        figure="request_output_tokens_per_s",
        statistic="mean",
        label="request tok/s mean",
        threshold=CENTRE,
        higher_is_better=True,
    ),
    Metric(figure="requests_per_min", label="requests/min", threshold=CENTRE, higher_is_better=True),
    Metric(figure="output_tokens_per_s", label="system tok/s", threshold=CENTRE, higher_is_better=True),
    Metric(figure="error_share", label="error share", threshold=0.01),
)


ALL: Final = "all"
NAMES: Final = tuple(metric.name for metric in METRICS)
FIGURES: Final = tuple(dict.fromkeys(metric.figure for metric in METRICS))


def share(value: object) -> float:
    """Return `0.05` or `5%` as a fraction; ValueError for anything else."""
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise ValueError("an accepted worsening looks like 5% or 0.05")
    return number


def metrics_named(key: str) -> tuple[str, ...]:
    """Return the names of the metrics that `ttft_s.p95`, `ttft_s p95`, `ttft_s` or `all` means; ValueError for none."""
    name = " ".join(key.replace(".", " ").split())
    found = tuple(metric.name for metric in METRICS if name in {ALL, metric.figure, metric.name})
    if not found:
        close = difflib.get_close_matches(name, (*NAMES, *FIGURES), n=1)
        advice = f"did you mean {close[0]}? known" if close else "known"
        raise ValueError(
            f"no metric is called {key}; {advice}: {', '.join((ALL, *NAMES))}, or a figure without statistic"
        )
    return found
