"""
When requests of an open loop are due: drawn arrival processes, and arrival times from a trace file.

A process is drawn in units of its mean gap, so that its rate can change during a run: the next request is due when
the integral of the rate over time has grown by the next gap (time rescaling; Cinlar, Introduction to Stochastic
Processes, 1975, 4.7). Each worker draws its own arrivals of the whole process, with no coordination.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import count
from pathlib import Path
from random import Random
from typing import Literal

from llmload.errors import DataError

Kind = Literal["constant", "poisson", "gamma"]


def unit_gaps(kind: Kind, *, cv: float, seed: int, worker_index: int, worker_count: int) -> Iterator[float]:
    """
    Yield one worker's gaps without end, in mean gaps of the whole process.

    `constant`: worker i of n takes every n-th arrival, beginning with the i-th. `poisson` and `gamma` (gaps with
    coefficient of variation `cv`; below 1 steadier, above 1 burstier than Poisson): every worker draws the same whole
    process, and each arrival goes to a worker at random, so that workers that start some milliseconds apart still
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


def trace_of_worker(times_s: tuple[float, ...], *, worker_index: int, worker_count: int) -> Iterator[tuple[int, float]]:
    """Yield index and time of the arrivals of worker i of n: i, i + n, i + 2n ..."""
    yield from zip(count(worker_index, worker_count), times_s[worker_index::worker_count], strict=False)


def read_trace(source: str, column: str, base_dir: Path) -> tuple[float, ...]:
    """
    Return the trace's times in seconds since its first, in order.

    A value is a number of seconds or an ISO date and time; DataError names file, line and value of another. A relative
    source is looked for in `base_dir`, then in the working directory.
    """
    file = next((path for path in (base_dir / source, Path(source)) if path.is_file()), None)
    if file is None:
        raise DataError(f"load.trace: {source}: no such file")
    times = [_seconds(value, file, line) for line, value in _values(file, column)]
    if not times:
        raise DataError(f"load.trace: {file}: has no arrivals")
    first = min(times)
    return tuple(sorted(time - first for time in times))


def _values(file: Path, column: str) -> Iterator[tuple[int, object]]:
    with file.open(encoding="utf-8", newline="") as lines:
        for line, row in _csv_rows(lines) if file.suffix == ".csv" else _json_rows(file, lines):
            if column not in row:
                raise DataError(f"load.trace: {file}, line {line}: has no {column!r} but {', '.join(row)}")
            yield line, row[column]


def _csv_rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, object]]]:
    yield from ((line, dict(row)) for line, row in enumerate(csv.DictReader(lines), start=2))


def _json_rows(file: Path, lines: Iterable[str]) -> Iterator[tuple[int, dict[str, object]]]:
    for line, text in enumerate(lines, start=1):
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise DataError(f"load.trace: {file}, line {line}: is not a JSON object: {text[:60].strip()!r}")
        yield line, row


def _seconds(value: object, file: Path, line: int) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]  # not a number: a date or an error
    except (TypeError, ValueError):
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            pass
    else:
        if math.isfinite(seconds):
            return seconds
    raise DataError(f"load.trace: {file}, line {line}: {value!r} is neither seconds nor a date and time")
