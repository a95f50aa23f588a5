"""A run's requests as Parquet."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa  # type: ignore[import-untyped]  # has no stubs
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # the same

from llmload.errors import RunFolderError
from llmload.report.rows import COLUMNS, blocks, values_of
from llmload.report.run_folder import RunFolder

ROWS_A_GROUP: Final = 50_000
"""Rows of one row group: what is held in memory at a time."""
_TYPES: Final = {"text": pa.string(), "float": pa.float64(), "int": pa.int64(), "[int]": pa.list_(pa.int64())}


def write_parquet(file: Path, runs: Sequence[RunFolder], progress: Callable[[int], None] = lambda _: None) -> int:
    """Write the requests of all runs to one file, and return how many; RunFolderError where that cannot be."""
    schema = pa.schema([(column.name, _TYPES[column.kind]) for column in COLUMNS])
    count, waiting = 0, _no_rows()
    try:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for run_id, lines in blocks(runs, progress):
                for line in lines:
                    for values, value in zip(waiting, values_of(line, run_id, COLUMNS), strict=True):
                        values.append(value)
                count += len(lines)
                if len(waiting[0]) >= ROWS_A_GROUP:
                    writer.write_table(_table(waiting, schema))
                    waiting = _no_rows()
            writer.write_table(_table(waiting, schema))
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror or error}") from None
    return count


def _no_rows() -> list[list[Any]]:
    return [[] for _ in COLUMNS]


def _table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays(
        [pa.array(of, field.type) for of, field in zip(rows, schema, strict=True)], schema=schema
    )
