"""How late this process's event loop runs: the figure that tells a saturated load generator."""

import time
from typing import Final

import gevent

from llmload.measure.record import NS_PER_S
from llmload.measure.totals import RunTotals

PERIOD_S: Final = 0.05


def watch(totals: RunTotals) -> None:
    """Add how late each sleep of 50 ms woke up, in seconds, until killed."""
    lag = totals.distributions["event_loop_lag_s"]
    while True:
        due_ns = time.monotonic_ns() + round(PERIOD_S * NS_PER_S)
        gevent.sleep(PERIOD_S)
        lag.add(max(0, time.monotonic_ns() - due_ns) / NS_PER_S)
