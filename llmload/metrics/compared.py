"""The metrics by which two runs are compared, and how much worse each may be by default."""

import difflib
import math
from dataclasses import dataclass
from typing import Final

from llmload.metrics.objective import quantile_of


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
