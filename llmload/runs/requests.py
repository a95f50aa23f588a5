"""The requests of runs as one CSV or Parquet file; the columns are those of `llmload.metrics.requests.COLUMNS`."""

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from llmload.errors import RunFolderError
from llmload.metrics.lines import columns_of, rows_of
from llmload.metrics.requests import (
    COLUMNS,
    Columns,
    Kind,
    Line,
    RequestTable,
    line_writer,
    record_of,
)
from llmload.record import RequestRecord
from llmload.runs.folder import RunFolder
from llmload.runs.reading import CACHED_BLOCK_BYTES, SMALL_BLOCK_BYTES, is_there, read_columns, read_lines
from llmload.runs.writing import PATIENCE_S, AppendedFile, Place, WriteFaults

# The request files of a run folder: written while a run sends, read in blocks by reports.
#
# A line is a request; `llmload.metrics.requests.FIELDS` says what is in it. A last line that a crash cut short is left
# out by every reader.

GAPS_ALONE: Final = ("chunk_gaps_ns",)
"""Of a line's lists, the one that tables have."""


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
    return map(record_of, read_lines(file, SMALL_BLOCK_BYTES)) if is_there(file) else None


def read_tables(
    files: Sequence[Path], origin_unix_s: float, progress: Callable[[int], None] = lambda _: None
) -> Iterator[RequestTable]:
    """
    Yield the requests of the files in blocks, in ns since `origin_unix_s`; `progress` gets the bytes of each.

    RunFolderError for a line that is not a request's.
    """
    for columns in read_columns(files, progress, lists=GAPS_ALONE):
        yield RequestTable.of_columns(columns, origin_unix_s)


CSV_COLUMNS: Final = tuple(column for column in COLUMNS if column.kind is not Kind.LIST)


def csv_lines(requests: Iterable[Line], run_id: str) -> Iterator[str]:
    """Yield the lines of a run's requests as CSV, the header first."""
    text = io.StringIO()
    writer: Any = csv.writer(text)
    writer.writerow([column.name for column in CSV_COLUMNS])
    for request in requests:
        writer.writerows(rows_of(columns_of([request], ()), CSV_COLUMNS, run_id))
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
            for run_id, columns in exported(runs, (), progress, CACHED_BLOCK_BYTES):
                writer.writerows(rows_of(columns, CSV_COLUMNS, run_id))
                count += len(columns)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None
    return count


def exported(
    runs: Sequence[RunFolder], lists: Sequence[str], progress: Callable[[int], None], block_bytes: int
) -> Iterator[tuple[str, Columns]]:
    """Yield the requests of all runs in blocks of columns, with the run's id."""
    for run in runs:
        run_id = run.manifest().run_id
        for columns in read_columns(run.request_files(), progress, lists=lists, block_bytes=block_bytes):
            yield run_id, columns
