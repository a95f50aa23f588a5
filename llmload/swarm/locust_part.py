"""Locust's part of a worker's report, made small: its tables of response times grow with how widely times spread."""

from collections.abc import Iterator
from typing import Any, Final

from llmload.measure.packing import pack_sparse, unpack_sparse

_TENTHS: Final = 10
"""Times stand in tenths of milliseconds, as `locust_tables` rounds them."""


def make_small(data: dict[str, Any]) -> None:
    """Replace the response times in a report that Locust has filled in."""
    for entry in _entries(data):
        times = entry["response_times"].items()
        entry["response_times"] = pack_sparse({round(time * _TENTHS): count for time, count in times})


def restore(data: dict[str, Any]) -> None:
    """Undo `make_small`, before Locust reads the report."""
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
