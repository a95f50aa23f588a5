"""The distributions over requests by name, and the quantiles that are shown of them."""

from collections.abc import Mapping
from typing import Final

FIELD_OF: Final[Mapping[str, str | None]] = {
    "ttft_s": "ttft_s",
    "tpot_s": "tpot_s",
    "itl_s": None,  # a value a gap between chunks
    "e2e_s": "e2e_s",
    "ttft_from_schedule_s": "ttft_from_schedule_s",
    "e2e_from_schedule_s": "e2e_from_schedule_s",
    "schedule_lag_s": "schedule_lag_s",
    "request_output_tokens_per_s": "output_tokens_per_s",
    "request_prompt_tokens": "prompt_tokens",
    "request_output_tokens": "output_tokens",
}
"""Each distribution over requests, and the field of a request that it is of."""
REQUEST_DISTRIBUTIONS: Final = tuple(FIELD_OF)
DISTRIBUTIONS: Final = (*REQUEST_DISTRIBUTIONS, "event_loop_lag_s")
LATENCIES: Final = ("ttft_s", "itl_s", "tpot_s", "e2e_s")
"""The distributions that are watched while a run sends."""
WITH_FAILURES: Final = ("ttft_s", "e2e_s")
"""The distributions in which a failed request counts as infinite."""
WITH_EXEMPLARS: Final = ("ttft_s", "e2e_s")
QUANTILES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
LIVE_QUANTILES: Final = {name: QUANTILES[name] for name in ("p50", "p95", "p99")}
"""The quantiles that are shown while a run sends."""
