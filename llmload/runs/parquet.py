"""The requests of runs as one Parquet file, with the times of their chunks; it needs the extra `parquet`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from llmload.errors import RunFolderError
from llmload.metrics.requests import COLUMNS, LIST_KEYS, RUN_ID, Columns, Kind
from llmload.runs.folder import RunFolder
from llmload.runs.reading import BLOCK_BYTES
from llmload.runs.requests import exported

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


def write_parquet(file: Path, runs: Sequence[RunFolder], progress: Callable[[int], None] = lambda _: None) -> int:
    """Write the requests of all runs to one file, and return how many; RunFolderError where that cannot be done."""
    schema = pa.schema([(column.name, _TYPES[column.kind]) for column in COLUMNS])
    count = 0
    pending: list[pa.Table] = []
    try:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for run_id, columns in exported(runs, LIST_KEYS, progress, BLOCK_BYTES):
                pending.append(_table(columns, run_id, schema))
                count += len(columns)
                if sum(map(len, pending)) >= ROWS_A_GROUP:
                    writer.write_table(pa.concat_tables(pending))
                    pending = []
            writer.write_table(pa.concat_tables([*pending, schema.empty_table()]))
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror or error}") from None
    return count


def _table(columns: Columns, run_id: str, schema: pa.Schema) -> pa.Table:
    values = ([run_id] * len(columns) if each.name == RUN_ID.name else columns.values[each.name] for each in schema)
    return pa.Table.from_arrays(
        [pa.array(each, field.type) for each, field in zip(values, schema, strict=True)], schema=schema
    )
