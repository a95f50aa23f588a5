"""The requests of runs as one CSV or Parquet file; the columns are those of `llmload.metrics.requests.COLUMNS`."""

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from llmload.errors import RunFolderError
from llmload.metrics.requests import (
    COLUMNS,
    Field,
    Kind,
    Line,
    RequestTable,
    line_writer,
    missing_key,
    record_of,
    row_reader,
)
from llmload.record import RequestRecord
from llmload.runs.folder import RunFolder, lines_of
from llmload.runs.writing import PATIENCE_S, AppendedFile, Place, WriteFaults

# The request files of a run folder: written while a run sends, read in blocks by reports.
#
# A line is a request; `llmload.metrics.requests.FIELDS` says what is in it. A last line that a crash cut short is left
# out by every reader.

BLOCK_BYTES: Final = 4_000_000
"""How much of a file is read at a time, so that a report's memory does not grow with the run."""


class RequestLog:
    """
    Appends a line per request to a file: complete lines with each write, so that a crash cuts at most the last.

    OSError if the file cannot be opened.
    """

    def __init__(self, path: Path, *, with_chunks: bool) -> None:
        what = "lines of requests that it counts"
        self._file = AppendedFile(Place(path.parent), path.name, WriteFaults(), what=what)
        self._file.open()
        self._line_of = line_writer(with_chunks=with_chunks)
        self._unix_offset_ns = time.time_ns() - time.monotonic_ns()

    @property
    def lost(self) -> Counter[str]:
        """How many requests have no line in the file as it is now, by the reason."""
        return self._file.lost

    def append(self, records: Iterable[RequestRecord]) -> None:
        """Write the records' lines together, now or once there is room; a fault is logged once."""
        form = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        line_of, offset_ns = self._line_of, self._unix_offset_ns
        self._file.append(b"".join([orjson.dumps(line_of(record, offset_ns), option=form) for record in records]))

    def settle(self, patience_s: float = PATIENCE_S) -> None:
        """Write what was held back, trying for so long, and count what is lost."""
        self._file.settle(patience_s)

    def close(self) -> None:
        """Write what is held back, if there is room now, and close the file."""
        self._file.close()


def read_records(folder: RunFolder, name: str) -> Iterator[RequestRecord] | None:
    """Return the records of one of the folder's request files; None where there is no such file."""
    file = folder.path / name
    return (record_of(line) for line in lines_of(file)) if file.is_file() else None


def read_tables(
    files: Sequence[Path], origin_unix_s: float, progress: Callable[[int], None] = lambda _: None
) -> Iterator[RequestTable]:
    """
    Yield the requests of the files in blocks, in ns since `origin_unix_s`; `progress` gets the bytes of each.

    RunFolderError for a line that is not a request's.
    """
    for file, before, texts in _blocks(files, progress):
        try:
            table = RequestTable.of_lines(_parsed(texts), origin_unix_s)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            _raise_for(file, before, texts)
            raise
        yield table


def read_rows(
    files: Sequence[Path],
    row_of: Callable[[Line], list[Any]],
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[int, Iterator[list[Any]]]]:
    """Yield what `row_of` makes of each line: blocks of rows, each with its length; otherwise as `read_tables`."""
    for file, before, texts in _blocks(files, progress):
        try:
            lines = _parsed(texts)
        except orjson.JSONDecodeError:
            _raise_for(file, before, texts)
            raise
        yield len(lines), _rows(file, before, texts, map(row_of, lines))


def _rows(file: Path, before: int, texts: Sequence[bytes], rows: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """Yield the rows one by one: a block of them in memory costs the garbage collector 10 % of an export."""
    try:
        yield from rows
    except (KeyError, TypeError):
        _raise_for(file, before, texts)
        raise


def _blocks(files: Sequence[Path], progress: Callable[[int], None]) -> Iterator[tuple[Path, int, list[bytes]]]:
    """Yield the files' complete lines in blocks, each with its file and how many lines of the file came before."""
    for file in files:
        before = 0
        with file.open("rb") as handle:
            while texts := handle.readlines(BLOCK_BYTES):
                complete = texts if texts[-1].endswith(b"\n") else texts[:-1]
                if complete:
                    yield file, before, complete
                before += len(texts)
                progress(sum(map(len, texts)))


def _parsed(texts: Sequence[bytes]) -> list[Line]:
    lines: list[Line] = orjson.loads(b"[" + b",".join(texts) + b"]")
    return lines


def _raise_for(file: Path, before: int, texts: Sequence[bytes]) -> None:
    """Raise RunFolderError for the first line that is not a request's."""
    for number, text in enumerate(texts, start=before + 1):
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise RunFolderError(f"{file}: line {number} is not JSON: {error}") from None
        if not isinstance(line, dict):
            raise RunFolderError(f"{file}: line {number} holds no JSON object")
        if (missing := missing_key(line)) is not None:
            raise RunFolderError(f"{file}: line {number} has no {missing}")


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
            for length, rows in _exported_rows(runs, CSV_COLUMNS, progress):
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
            for length, rows in _exported_rows(runs, COLUMNS, progress):
                pending.extend(rows)
                count += length
                if len(pending) >= ROWS_A_GROUP:
                    writer.write_table(_table(pending, schema))
                    pending = []
            writer.write_table(_table(pending, schema))
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror or error}") from None
    return count


def _exported_rows(
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
