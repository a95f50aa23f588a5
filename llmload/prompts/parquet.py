"""Parquet files, row by row, within limits: a file of some kilobytes can say that it holds terabytes."""

import faulthandler
import os
import resource
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmload.errors import DataError
from llmload.extras import need
from llmload.prompts.files import Row, opened

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_RATIO: Final = 200
"""How many times a file's size its rows may take; real text is compressed to a third or a tenth."""
ALWAYS_BYTES: Final = 64 << 20
"""As much as this is read of any file."""
MAX_BYTES: Final = 8 << 30
"""More is read of none."""
_ROW_BYTES: Final = 32
_VALUE_BYTES: Final = 16
"""What a row, and a value without its text, takes in memory at least."""
_BATCH_ROWS: Final = 256
_MAGIC: Final = b"PAR1"


def read_parquet(file: Path, name: str, columns: Sequence[str], first: int = 0) -> Iterator[Row]:
    """
    Yield the rows with those of `columns` that the file has, numbered from `first`; a null is None.

    DataError names the fault; a file that would take far more memory than its size is refused. ConfigError without the
    extra `parquet`.
    """
    need("parquet", f"{name}: reading Parquet")
    # Imported here: it takes a tenth of a second, and most runs do not need it.
    import pyarrow.parquet as pq

    with opened(file, name) as stream:
        head = stream.read(len(_MAGIC))
        if head != _MAGIC:
            raise DataError(f"{name}: is {'not a Parquet file' if head else 'empty'}")
        limit = min(MAX_BYTES, max(ALWAYS_BYTES, MAX_RATIO * file.stat().st_size))
        try:
            data = pq.ParquetFile(stream)
            wanted = _wanted(data.schema_arrow.names, columns, name)
            _try_in_fork(data, name)
            texts = _check_sizes(data, wanted, limit, name)
            # Texts that repeat stay in memory once, as they are in the file.
            data = pq.ParquetFile(stream, read_dictionary=texts)
            yield from _rows(data, name, wanted, first, limit)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 # a damaged file makes Arrow raise errors of many kinds
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"{name}: cannot be read as Parquet: {why[0][:200]}") from None


def _wanted(names: Sequence[str], columns: Sequence[str], name: str) -> list[str]:
    """Return those of the columns that the file has; DataError, naming what it has, where that is none."""
    wanted = [column for column in columns if column in names]
    if not wanted:
        has = ", ".join(f"`{column[:60]}`" for column in names[:20]) or "none"
        raise DataError(f"{name}: has no column {' or '.join(f'`{c}`' for c in columns)} (its columns: {has})")
    return wanted


def _try_in_fork(data: "pq.ParquetFile", name: str) -> None:
    """Raise DataError for metadata that end the process which reads them: Arrow 26 aborts where sizes contradict."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of threads: the fork uses none
        pid = os.fork()
    if not pid:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Arrow's last words
            metadata = data.metadata
            for group in range(metadata.num_row_groups):
                for index in range(metadata.num_columns):
                    metadata.row_group(group).column(index)
        finally:
            os._exit(0)
    if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
        raise DataError(f"{name}: cannot be read as Parquet: its metadata contradict each other; write it again")


def _check_sizes(data: "pq.ParquetFile", wanted: Sequence[str], limit: int, name: str) -> list[str]:
    """Return the paths of the wanted columns' texts; DataError where their metadata exceeds the limit."""
    metadata = data.metadata
    size = metadata.num_rows * _ROW_BYTES
    texts = set()
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            if chunk.path_in_schema.split(".")[0] in wanted:
                size += chunk.total_uncompressed_size + chunk.num_values * _VALUE_BYTES
                if chunk.physical_type == "BYTE_ARRAY":
                    texts.add(chunk.path_in_schema)
    _refuse_beyond(size, limit, name)
    return sorted(texts)


def _refuse_beyond(size: int, limit: int, name: str) -> None:
    if size > limit:
        raise DataError(
            f"{name}: expands to more than {limit >> 20} MiB (a file may take {MAX_RATIO} times its size, "
            f"{ALWAYS_BYTES >> 20} MiB always, {MAX_BYTES >> 30} GiB at most): write it again with fewer rows"
        )


def _rows(data: "pq.ParquetFile", name: str, wanted: Sequence[str], first: int, limit: int) -> Iterator[Row]:
    number, size = first, 0
    # Without threads: they would break the workers that Locust forks.
    for batch in data.iter_batches(batch_size=_BATCH_ROWS, columns=list(wanted), use_threads=False):
        columns = [batch.column(column) for column in wanted]
        for index in range(batch.num_rows):
            place = Row(name, number, None, {}).place
            values = [_value(column[index], place) for column in columns]
            size += _ROW_BYTES + sum(map(_text_size, values))
            _refuse_beyond(size, limit, name)
            yield Row(name, number, None, dict(zip(wanted, values, strict=True)))
            number += 1


def _value(scalar: "pa.Scalar[Any]", place: str) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:  # Arrow decodes a text when it is read
        raise DataError(f"{place}: has a text that is not UTF-8 (byte {error.start + 1} of it)") from None


def _text_size(value: Any) -> int:
    """Return the characters of all texts in the value, and some bytes for each element."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_text_size, value.values())) + _ROW_BYTES
    if isinstance(value, list):
        return sum(map(_text_size, value)) + _ROW_BYTES
    return _VALUE_BYTES
