"""A run's totals as `summary.json`; docs/summary.md says what each key means."""

from typing import Any, Final

from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Verdict
from llmload.stats.histogram import Histogram
from llmload.units import S_PER_MIN

DISTRIBUTIONS: Final = (
    "request_output_tokens_per_s",
    "ttft_s",
    "itl_s",
    "tpot_s",
    "e2e_s",
    "schedule_lag_s",
    "ttft_from_schedule_s",
    "e2e_from_schedule_s",
    "request_prompt_tokens",
    "request_output_tokens",
)
QUANTILES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


def summarise(totals: RunTotals, *, window_s: float | None, verdict: Verdict) -> dict[str, Any]:
    """Return the summary; what was not measured is None. `window_s` is the length of the judged span."""
    return {
        "requests": {
            "started": totals.started,
            "completed": totals.completed,
            "failed": totals.failed,
            "censored": totals.censored,
            "dropped": totals.dropped,
            "errors": dict(totals.errors.most_common()),
            "completed_in_window": totals.completed_in_window,
            "reconnects": totals.reconnects,
            "retries": totals.retries,
        },
        **figures(totals, window_s),
        "including_failures": {name: _with_failures(totals.distributions[name]) for name in ("ttft_s", "e2e_s")},
        "token_source": _one_or_mixed(totals.token_sources),
        "stamp_source": _one_or_mixed(totals.stamp_sources),
        "coalesced_share": totals.coalesced_chunks / totals.chunks if totals.chunks else None,
        "finish_reasons": dict(totals.finish_reasons.most_common()),
        "verdict": verdict.to_dict(),
    }


def figures(totals: RunTotals, window_s: float | None) -> dict[str, Any]:
    """Return what was measured in a window of that length: rates, token counts and distributions."""
    minutes = window_s / S_PER_MIN if window_s else None
    tokens_known = totals.completed_in_window > 0 and totals.uncounted_answers == 0
    distributions = totals.distributions
    ended = totals.completed_in_window + totals.failed_in_window
    return {
        "window_s": window_s,
        "requests_per_min": totals.completed_in_window / minutes if minutes else None,
        "goodput_per_min": totals.good_in_window / minutes if minutes else None,
        "goodput_share": totals.good_in_window / ended if ended else None,
        "error_share": totals.failed_in_window / ended if ended else None,
        "prompt_tokens": totals.prompt_tokens if distributions["request_prompt_tokens"].count else None,
        "output_tokens": totals.output_tokens if distributions["request_output_tokens"].count else None,
        "cached_token_share": totals.cached_token_share,
        "output_tokens_per_s": totals.window_tokens / window_s if window_s and tokens_known else None,
        **{name: describe(distributions[name]) for name in DISTRIBUTIONS},
    }


def describe(histogram: Histogram) -> dict[str, float | int | None] | None:
    """Return mean, percentiles, greatest and count of a distribution; None when it is empty."""
    if not histogram.count:
        return None
    quantiles = {name: histogram.quantile(share) for name, share in QUANTILES.items()}
    return {"mean": histogram.mean, **quantiles, "max": histogram.most, "count": histogram.count}


def _with_failures(histogram: Histogram) -> dict[str, float | int | None] | None:
    if not histogram.infinite:
        return None
    quantiles = {name: histogram.quantile(share, with_infinite=True) for name, share in QUANTILES.items()}
    return {**quantiles, "count": histogram.count + histogram.infinite}


def _one_or_mixed(tally: dict[str, int]) -> str | None:
    if not tally:
        return None
    return next(iter(tally)) if len(tally) == 1 else "mixed"
