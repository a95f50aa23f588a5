"""Arrival times from a file: a column of a CSV file, or a key of each line of a JSONL file."""

import csv
import json
import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from llmload.errors import DataError


def read_trace(source: str, column: str, base_dir: Path) -> tuple[float, ...]:
    """
    Return the trace's times in seconds since its first, in order.

    A value is a number of seconds or a date and time in ISO form. DataError names file, line and value of what is
    neither; a relative source is looked for in `base_dir`, then in the working directory.
    """
    file = next((path for path in (base_dir / source, Path(source)) if path.is_file()), None)
    if file is None:
        raise DataError(f"load.trace: {source}: no such file")
    times = [_seconds(value, file, line) for line, value in _values(file, column)]
    if not times:
        raise DataError(f"load.trace: {file}: holds no arrivals")
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
            raise DataError(f"load.trace: {file}, line {line}: is no JSON object: {text[:60].strip()!r}")
        yield line, row


def _seconds(value: object, file: Path, line: int) -> float:
    try:
        seconds = float(value)  # type: ignore[arg-type]  # what is no number is a date or an error
    except (TypeError, ValueError):
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            pass
    else:
        if math.isfinite(seconds):
            return seconds
    raise DataError(f"load.trace: {file}, line {line}: {value!r} is neither seconds nor a date and time")
