"""
When requests are due in an open loop.

A process is drawn in units of its own mean gap, so that a rate can change while it runs: the next request is due when
the integral of rate over time has grown by the next gap (time rescaling; Cinlar, Introduction to Stochastic Processes,
1975, 4.7). One worker's part of it is drawn so that all parts together are the whole process, with no coordination.
"""

from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Literal

Kind = Literal["constant", "poisson", "gamma"]


def unit_gaps(kind: Kind, *, cv: float, seed: int, worker_index: int, worker_count: int) -> Iterator[float]:
    """
    Yield one worker's gaps, in mean gaps of the whole process, for ever.

    `constant`: worker i of n takes every n-th arrival, beginning with the i-th. `poisson` and `gamma` (gaps with
    coefficient of variation `cv`; below 1 steadier, above 1 burstier than Poisson): every worker draws the same whole
    process, and each arrival of it goes to a worker at random, so that parts that start some milliseconds apart still
    add up to it.
    """
    if kind == "constant":
        yield float(worker_index)
        while True:
            yield float(worker_count)
    draw = _gap(kind, cv, Random(f"arrivals {seed}"))  # noqa: S311 - repeatable, not secret
    owner = Random(f"owner {seed}")  # noqa: S311 - the same
    gap = 0.0
    while True:
        gap += draw()
        if owner.randrange(worker_count) == worker_index:
            yield gap
            gap = 0.0


def _gap(kind: Kind, cv: float, random: Random) -> Callable[[], float]:
    if kind == "poisson" or cv == 1.0:
        return lambda: random.expovariate(1.0)
    shape = 1.0 / cv**2
    return lambda: random.gammavariate(shape, 1.0 / shape)


def share_of_trace(times_s: tuple[float, ...], *, worker_index: int, worker_count: int) -> Iterator[tuple[int, float]]:
    """Yield place and time of worker i's arrivals of a trace: i, i + n, i + 2n, ..."""
    yield from zip(count(worker_index, worker_count), times_s[worker_index::worker_count], strict=False)
