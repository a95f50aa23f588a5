"""Ctrl-C where it belongs: Python raises it in whichever greenlet happens to run, and its request would be lost."""

from locust import stats
from locust.env import Environment

import signal
from collections.abc import Callable, Iterator
from typing import Any, Final

import gevent
from gevent import getcurrent

from llmload.record import RequestRecord
from llmload.stats.histogram import pack_sparse, unpack_sparse
from llmload.units import MS_PER_S

# Locust's part of a worker's report, made small: its tables of response times grow with how widely times spread.

_TENTHS: Final = 10
"""Times stand in tenths of milliseconds, as `locust_tables` rounds them."""


def shrink_report(data: dict[str, Any]) -> None:
    """Replace the response times in a report that Locust has filled in."""
    for entry in _entries(data):
        times = entry["response_times"].items()
        entry["response_times"] = pack_sparse({round(time * _TENTHS): count for time, count in times})


def restore(data: dict[str, Any]) -> None:
    """Undo `shrink_report`, before Locust reads the report."""
    for entry in _entries(data):
        if isinstance(entry["response_times"], list):
            times = unpack_sparse(entry["response_times"]).items()
            entry["response_times"] = {_of_tenths(tenths): count for tenths, count in times}


def _entries(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from data.get("stats", ())
    if "stats_total" in data:
        yield data["stats_total"]


def _of_tenths(tenths: int) -> float:
    return tenths / _TENTHS if tenths % _TENTHS else tenths // _TENTHS


# Rows of ours in Locust's own tables: TTFT and TPOT beside each request, "Aggregated" left as it is.

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
                environment.stats.get(name, row).log(value_s * MS_PER_S, 0)  # type: ignore[arg-type]  # as any number


class Interrupts:
    """
    Takes this process's SIGINTs; made in the main greenlet.

    Each one calls `answer` in a greenlet of its own, with 1 for the first, 2 for the second and so on.
    """

    def __init__(self, answer: Callable[[int], None]) -> None:
        self._main, self._loop = getcurrent(), gevent.get_hub().loop
        self._answer, self._count = answer, 0
        gevent.signal_handler(signal.SIGINT, self._take)

    def raise_in_main(self) -> None:
        """Raise KeyboardInterrupt in the main greenlet, which is what Locust waits for."""
        self._loop.run_callback(self._main.throw, KeyboardInterrupt)

    def _take(self) -> None:
        self._count += 1
        self._answer(self._count)
