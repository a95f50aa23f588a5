"""When requests of a replay are due: the times of a trace file."""

import math
from array import array
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from llmload.errors import DataError, on_one_line, shown
from llmload.prompts.files import Row, heard, read_csv, read_json

Unit = Literal["s", "ms", "us", "ns"]
IN_A_SECOND: Final[Mapping[Unit, float]] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_FAR_S: Final = 1e11
"""Beyond the year 5138: no trace has such times in seconds."""
_MOONCAKE_KEYS: Final = frozenset({"timestamp", "input_length", "output_length"})


def trace_of_worker(times_s: tuple[float, ...], *, worker_index: int, worker_count: int) -> Iterator[tuple[int, float]]:
    """Yield index and time of the arrivals of worker i of n: i, i + n, i + 2n ..."""
    yield from zip(count(worker_index, worker_count), times_s[worker_index::worker_count], strict=False)


def read_trace(source: str, column: str, base_dir: Path, unit: Unit | None = None) -> tuple[float, ...]:
    """
    Return the trace's times in seconds since its first, in order.

    A value is a number of `unit`s (None: seconds, or milliseconds in Mooncake's form), or an ISO date and time, in UTC
    where it names no zone. DataError names file, line and value of another. A relative source is looked for in
    `base_dir`, then in the working directory. A file that has not changed since is not read again.
    """
    file = _found(source, base_dir)
    return _times_of(file, column, unit, _version_of(file))


def _version_of(file: Path) -> tuple[int, int, int, int] | None:
    """Return what changes when a file does; None where that cannot be found out."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=1)  # a run asks several times: to check it, for its length, for its arrivals
def _times_of(file: Path, column: str, unit: Unit | None, _: tuple[int, int, int, int] | None) -> tuple[float, ...]:
    name = f"load.trace: {file}"
    rows = heard(read_csv(file, name) if file.suffix.lower() == ".csv" else read_json(file, name))
    times = array("d")
    is_dates: bool | None = None
    for row in rows:
        if column not in row.value:
            raise DataError(f"{_place(row)}: has no {column!r} but {_names(row.value)}: set load.column")
        value = row.value[column]
        number = _number(value)
        if is_dates is None:
            is_dates = number is None
            unit = unit or _unit_of(row.value, column)
        if is_dates is not (number is None) and (number is not None or _date(value) is not None):
            kind, first = ("a date", "a number") if number is None else ("a number", "a date")
            raise DataError(f"{_place(row)}: {shown(value)} is {kind}, but the first row has {first}")
        moment = _date(value) if number is None else number / IN_A_SECOND[unit or "s"]
        if moment is None:
            raise DataError(f"{_place(row)}: {shown(value)} is neither a number nor an ISO date and time")
        if number is not None and unit is None and abs(moment) >= _FAR_S:
            raise DataError(
                f"{_place(row)}: {shown(value)} seconds is beyond the year 5138: say what the numbers are, such as "
                'with --set load.unit="ms"'
            )
        times.append(moment)
    if not times:
        raise DataError(f"{name}: has no arrivals")
    first_s = min(times)
    return tuple(sorted(time - first_s for time in times))


def _found(source: str, base_dir: Path) -> Path:
    try:
        file = next((path for path in (base_dir / source, Path(source)) if path.exists()), None)
    except (OSError, ValueError) as error:  # too long, no permission
        raise DataError(f"load.trace: {shown(source)} cannot be looked for: {error}") from None
    if file is None:
        raise DataError(f"load.trace: {source}: no such file")
    return file


def _place(row: Row) -> str:
    return f"{row.file}, line {row.line}"


def _names(row: Mapping[str, Any]) -> str:
    names = [on_one_line(str(name)[:40]) for name in list(row)[:20]]
    return ", ".join(names) + (", ..." if len(row) > len(names) else "") if names else "nothing"


def _unit_of(row: Mapping[str, Any], column: str) -> Unit | None:
    """Return milliseconds for the first row of a trace in Mooncake's form, whose time stamps are that."""
    return "ms" if column == "timestamp" and row.keys() >= _MOONCAKE_KEYS else None


def _number(value: object) -> float | None:
    """Return a finite number, or a text that is one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value)[:400]:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _date(value: object) -> float | None:
    """Return the unix time of an ISO date and time; one without a zone has one meaning on every machine: UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
