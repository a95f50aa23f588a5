"""Rows of ours in Locust's own tables: TTFT and TPOT beside each request, "Aggregated" left as it is."""

from locust import stats
from locust.env import Environment

from typing import Final

from llmload.measure.record import RequestRecord

DIGITS: Final = 3
_COARSE_FROM_MS: Final = 10**DIGITS
_TENTHS_BELOW_MS: Final = 100


def with_three_digits() -> None:
    """Let Locust keep three significant digits of a time in this process, where it keeps two."""
    stats.bucket_response_time = three_digits  # type: ignore[assignment]  # Locust adds these up as any numbers


def three_digits(milliseconds: float) -> float:
    """Return a time in milliseconds rounded to three significant digits, to tenths at the finest."""
    if milliseconds < _TENTHS_BELOW_MS:
        return round(milliseconds, 1)
    if milliseconds < _COARSE_FROM_MS:
        return round(milliseconds)
    return round(milliseconds, DIGITS - len(str(int(milliseconds))))


def log_rows(environment: Environment, name: str, record: RequestRecord) -> None:
    """Add a request's TTFT and TPOT to rows of their own, which Locust sends to the master and adds up there."""
    if record.ok:
        for row, value_s in (("TTFT", record.ttft_s), ("TPOT", record.tpot_s)):
            if value_s is not None:
                environment.stats.get(name, row).log(value_s * 1000, 0)  # type: ignore[arg-type]  # as any number
