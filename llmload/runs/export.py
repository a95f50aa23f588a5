"""The requests of runs as one CSV or Parquet file; the columns are those of `llmload.metrics.requests.COLUMNS`."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from llmload.errors import RunFolderError
from llmload.metrics.requests import COLUMNS, Field, Kind, row_reader
from llmload.runs.folder import RunFolder
from llmload.runs.requests import read_rows

CSV_COLUMNS: Final = tuple(column for column in COLUMNS if column.kind is not Kind.LIST)
ROWS_A_GROUP: Final = 50_000
"""Rows of a row group of Parquet: how many are held in memory at a time."""
_TYPES: Final = {
    Kind.TEXT: pa.string(),
    Kind.CATEGORY: pa.string(),
    Kind.UNIX: pa.float64(),
    Kind.FLOAT: pa.float64(),
    Kind.COUNT: pa.int64(),
    Kind.CLOCK: pa.int64(),
    Kind.LIST: pa.list_(pa.int64()),
}
_csv_row: Final = row_reader(CSV_COLUMNS)


def csv_lines(requests: Iterable[Mapping[str, Any]], run_id: str) -> Iterator[str]:
    """Yield the lines of a run's requests as CSV, the header first."""
    text = io.StringIO()
    writer: Any = csv.writer(text)
    writer.writerow([column.name for column in CSV_COLUMNS])
    for request in requests:
        writer.writerow(_csv_row(run_id, request))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    if text.tell():
        yield text.getvalue()  # the header alone


def write_csv(file: Path, runs: Sequence[RunFolder], progress: Callable[[int], None] = lambda _: None) -> int:
    """Write the requests of all runs to one file, and return how many; RunFolderError where that cannot be done."""
    count = 0
    try:
        with file.open("w", newline="", encoding="utf-8") as out:
            writer: Any = csv.writer(out)
            writer.writerow([column.name for column in CSV_COLUMNS])
            for length, rows in _rows(runs, CSV_COLUMNS, progress):
                writer.writerows(rows)
                count += length
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None
    return count


def write_parquet(file: Path, runs: Sequence[RunFolder], progress: Callable[[int], None] = lambda _: None) -> int:
    """Write the requests of all runs to one file, and return how many; RunFolderError where that cannot be done."""
    schema = pa.schema([(column.name, _TYPES[column.kind]) for column in COLUMNS])
    count = 0
    pending: list[list[Any]] = []
    try:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for length, rows in _rows(runs, COLUMNS, progress):
                pending.extend(rows)
                count += length
                if len(pending) >= ROWS_A_GROUP:
                    writer.write_table(_table(pending, schema))
                    pending = []
            writer.write_table(_table(pending, schema))
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror or error}") from None
    return count


def _rows(
    runs: Sequence[RunFolder], columns: Sequence[Field], progress: Callable[[int], None]
) -> Iterator[tuple[int, Iterator[list[Any]]]]:
    row_of = row_reader(columns)
    for run in runs:
        yield from read_rows(run.request_files(), partial(row_of, run.manifest().run_id), progress)


def _table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema
    )
