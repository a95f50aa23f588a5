"""A run's requests as Parquet."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa  # type: ignore[import-untyped]  # has no stubs
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # the same

from llmload.errors import RunFolderError
from llmload.record import Outcome
from llmload.runs.folder import RunFolder
from llmload.units import NS_PER_S

# A run's requests as columns, some thousand at a time: what a long run's report is computed from.

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BLOCK_BYTES: Final = 4_000_000
"""How much of a file is looked at in one go: the memory that a report takes does not grow with the run."""
_KEYS: Final = (
    "outcome",
    "time_s",
    "started_ns",
    "done_ns",
    "scheduled_ns",
    "ttft_s",
    "tpot_s",
    "output_tokens_per_s",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "chunks",
    "coalesced_chunks",
    "reconnects",
    "retries",
    "token_source",
    "stamp_source",
    "finish_reason",
    "error",
)
_values: Final = itemgetter(*_KEYS)
_NUMBERS: Final = ("ttft_s", "tpot_s", "prompt_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


@dataclass(slots=True, kw_only=True)
class Columns:
    """
    Requests as columns of one length; an unknown number is NaN.

    Times are seconds since the run's start. `gap_s` holds the gaps between chunks of all requests one after the other
    (start to first chunk, chunk to chunk), `gaps` how many of them each request has: none where none were recorded.
    """

    completed: Mask
    failed: Mask
    """What is neither was censored."""
    start_s: Floats
    done_s: Floats
    e2e_s: Floats
    schedule_lag_s: Floats
    numbers: dict[str, Floats]
    """By the line's keys: ttft_s tpot_s output_tokens_per_s prompt_tokens output_tokens cached_tokens ..."""
    chunks: Ints
    coalesced_chunks: Ints
    reconnects: Ints
    retries: Ints
    token_source: list[str]
    stamp_source: list[str]
    finish_reason: list[str | None]
    error: list[str | None]
    gaps: Ints
    gap_s: Floats

    def __len__(self) -> int:
        return len(self.start_s)

    def stamps_s(self) -> Floats:
        """Return when each recorded chunk arrived, in the order of `gap_s`."""
        if not len(self.gap_s):
            return self.gap_s
        since = np.cumsum(self.gap_s)
        firsts = np.cumsum(self.gaps) - self.gaps
        before = np.where(firsts > 0, since[np.maximum(firsts - 1, 0)], 0.0)
        return since + np.repeat(self.start_s - before, self.gaps)

    def first_of_each(self) -> Mask:
        """Return which places of `gap_s` are a request's first chunk, so that the gap before it is its TTFT."""
        first = np.zeros(len(self.gap_s), dtype=np.bool_)
        used = self.gaps[self.gaps > 0]
        first[np.cumsum(used) - used] = True
        return first

    def where(self, which: Mask) -> Self:
        """Return only the requests at the places that are true."""
        places = np.flatnonzero(which).tolist()
        return type(self)(
            completed=self.completed[which],
            failed=self.failed[which],
            start_s=self.start_s[which],
            done_s=self.done_s[which],
            e2e_s=self.e2e_s[which],
            schedule_lag_s=self.schedule_lag_s[which],
            numbers={name: values[which] for name, values in self.numbers.items()},
            chunks=self.chunks[which],
            coalesced_chunks=self.coalesced_chunks[which],
            reconnects=self.reconnects[which],
            retries=self.retries[which],
            token_source=[self.token_source[index] for index in places],
            stamp_source=[self.stamp_source[index] for index in places],
            finish_reason=[self.finish_reason[index] for index in places],
            error=[self.error[index] for index in places],
            gaps=self.gaps[which],
            gap_s=self.gap_s[np.repeat(which, self.gaps)],
        )

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]], origin_unix_s: float) -> Self:
        """Return the columns of a run folder's lines; KeyError for one that lacks a key."""
        columns = dict(zip(_KEYS, zip(*map(_values, lines), strict=True), strict=True))
        started, done = np.array(columns["started_ns"], np.int64), np.array(columns["done_ns"], np.int64)
        scheduled = _floats(columns["scheduled_ns"])
        start_s = np.array(columns["time_s"], np.float64) - origin_unix_s
        e2e_s = (done - started) / NS_PER_S
        gap_lists = [line.get("chunk_gaps_ns") or () for line in lines]
        gaps = np.fromiter(map(len, gap_lists), np.int64, len(gap_lists))
        return cls(
            completed=_are(columns["outcome"], Outcome.COMPLETED.value),
            failed=_are(columns["outcome"], Outcome.FAILED.value),
            start_s=start_s,
            done_s=start_s + e2e_s,
            e2e_s=e2e_s,
            schedule_lag_s=(started - scheduled) / NS_PER_S,
            numbers={name: _floats(columns[name]) for name in (*_NUMBERS, "output_tokens_per_s")},
            chunks=np.array(columns["chunks"], np.int64),
            coalesced_chunks=np.array(columns["coalesced_chunks"], np.int64),
            reconnects=np.array(columns["reconnects"], np.int64),
            retries=np.array(columns["retries"], np.int64),
            token_source=list(columns["token_source"]),
            stamp_source=list(columns["stamp_source"]),
            finish_reason=list(columns["finish_reason"]),
            error=[None if error is None else error["type"] for error in columns["error"]],
            gaps=gaps,
            gap_s=np.fromiter(chain.from_iterable(gap_lists), np.float64, int(gaps.sum())) / NS_PER_S,
        )


def read_columns(
    files: Sequence[Path], origin_unix_s: float, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Columns]:
    """
    Yield the requests of the files in blocks; `progress` is told of the bytes that each took.

    A last line that a crash cut short is left out; RunFolderError for any other that is not a request's.
    """
    for file, before, texts in _blocks(files, progress):
        try:
            columns = Columns.of(_parsed(texts), origin_unix_s)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            _complain(file, before, texts)
            raise
        yield columns


def read_lines(
    files: Sequence[Path], progress: Callable[[int], None] = lambda _: None
) -> Iterator[list[dict[str, Any]]]:
    """Yield the lines of the files as JSON objects with every key of a request, as `read_columns` does."""
    for file, before, texts in _blocks(files, progress):
        try:
            lines = _parsed(texts)
            for line in lines:
                _values(line)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            _complain(file, before, texts)
            raise
        yield lines


def _blocks(files: Sequence[Path], progress: Callable[[int], None]) -> Iterator[tuple[Path, int, list[bytes]]]:
    """Yield the files' whole lines in blocks, each with its file and how many lines of it came before."""
    for file in files:
        before = 0
        with file.open("rb") as handle:
            while texts := handle.readlines(BLOCK_BYTES):
                whole = texts if texts[-1].endswith(b"\n") else texts[:-1]
                if whole:
                    yield file, before, whole
                before += len(texts)
                progress(sum(map(len, texts)))


def _parsed(texts: Sequence[bytes]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(texts) + b"]")
    return lines


def _complain(file: Path, before: int, texts: Sequence[bytes]) -> None:
    """Raise RunFolderError for the first line that is not a request's."""
    for number, text in enumerate(texts, start=before + 1):
        try:
            line = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise RunFolderError(f"{file}: line {number} is not JSON: {error}") from None
        if not isinstance(line, dict):
            raise RunFolderError(f"{file}: line {number} holds no JSON object")
        if missing := [key for key in _KEYS if key not in line]:
            raise RunFolderError(f"{file}: line {number} has no {missing[0]}")


def _are(values: Sequence[str], wanted: str) -> Mask:
    return np.array([value == wanted for value in values], dtype=np.bool_)


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array(values, dtype=np.float64)  # None becomes NaN


# A run's requests as rows of one table, the same for CSV and Parquet; the CSV itself.


@dataclass(frozen=True, slots=True)
class Column:
    """A column of both exports; lists (`[int]`) are in Parquet alone."""

    name: str
    kind: str
    meaning: str


COLUMNS: Final = (
    Column("run_id", "text", "the run"),
    Column("request_id", "text", "the request, unique over all runs"),
    Column("prompt_id", "text", "which prompt was sent"),
    Column("stage", "text", "the stage it started in, for a staged load"),
    Column("outcome", "text", "completed, failed or censored (cut by the run's end)"),
    Column("time_s", "float", "start, unix time"),
    Column("ttft_s", "float", "first chunk with text - start"),
    Column("tpot_s", "float", "(last - first chunk with text) / (output tokens - 1)"),
    Column("e2e_s", "float", "last byte of the answer, or failure - start"),
    Column("output_tokens_per_s", "float", "output tokens / e2e latency"),
    Column("prompt_tokens", "int", "by the engine's count"),
    Column("output_tokens", "int", "by `token_source`"),
    Column("cached_tokens", "int", "prompt tokens that the engine took from its cache"),
    Column("reasoning_tokens", "int", "output tokens of reasoning"),
    Column("token_source", "text", "usage, details, chunk_usage, chunks or none"),
    Column("finish_reason", "text", "as the engine gave it"),
    Column("stamp_source", "text", "kernel, user or none: who took the time stamps"),
    Column("chunks", "int", "chunks with text"),
    Column("coalesced_chunks", "int", "those that share a read, and so a stamp, with the one before"),
    Column("reconnects", "int", "sent again since a kept-alive connection had gone"),
    Column("retries", "int", "sent again since the scenario asks for it"),
    Column("error_type", "text", "why it failed: a closed set"),
    Column("error_message", "text", "the same in the engine's or system's words"),
    Column("error_http_status", "int", "the status, where there was one"),
    Column("error_retry_after_s", "float", "what the engine asked for"),
    Column("scheduled_ns", "int", "when it was due, in an open loop; this and the next four by CLOCK_MONOTONIC"),
    Column("started_ns", "int", "start"),
    Column("connected_ns", "int", "a new connection stood; empty where one was reused"),
    Column("sent_ns", "int", "the request was written"),
    Column("done_ns", "int", "last byte, or failure"),
    Column("chunk_gaps_ns", "[int]", "start to first chunk, then chunk to chunk"),
    Column("textless_gaps_ns", "[int]", "the same of chunks without text (the role, the finish)"),
    Column("chunk_tokens", "[int]", "tokens of each chunk, where the engine counts them"),
)
_IN_CSV: Final = tuple(column for column in COLUMNS if not column.kind.startswith("["))
_OF_ERROR: Final = ("type", "message", "http_status", "retry_after_s")
_FIRST_OF_ERROR: Final = next(index for index, column in enumerate(COLUMNS) if column.name == "error_type")


def columns_table() -> str:
    """Return the columns as a Markdown table, as the document has it."""
    rows = [f"| `{column.name}` | {column.kind} | {column.meaning} |" for column in COLUMNS]
    return "\n".join(["| column | type | meaning |", "|---|---|---|", *rows]) + "\n"


def csv_lines(requests: Iterable[Mapping[str, Any]], run_id: str) -> Iterator[str]:
    """Yield the requests of a run as lines of CSV, the header first."""
    text = io.StringIO()
    writer: Any = csv.writer(text)
    writer.writerow([column.name for column in _IN_CSV])
    for request in requests:
        writer.writerow(values_of(request, run_id, _IN_CSV))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    if text.tell():
        yield text.getvalue()  # the header alone


def write_csv(file: Path, runs: Sequence[RunFolder], progress: Callable[[int], None] = lambda _: None) -> int:
    """Write the requests of all runs to one file, and return how many; RunFolderError where that cannot be."""
    count = 0
    try:
        with file.open("w", newline="", encoding="utf-8") as out:
            writer: Any = csv.writer(out)
            writer.writerow([column.name for column in _IN_CSV])
            for run_id, lines in blocks(runs, progress):
                writer.writerows(values_of(line, run_id, _IN_CSV) for line in lines)
                count += len(lines)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None
    return count


def blocks(runs: Sequence[RunFolder], progress: Callable[[int], None]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the runs' lines, some thousand at a time, each with its run's id."""
    for run in runs:
        run_id = run.manifest().run_id
        for lines in read_lines(run.request_files(), progress):
            yield run_id, lines


def values_of(request: Mapping[str, Any], run_id: str, columns: Sequence[Column]) -> list[Any]:
    """Return a line's values of the columns, of which the run's id is the first; None is unknown."""
    error, get = request["error"] or {}, request.get
    values = [get(column.name) for column in columns]
    values[0] = run_id
    values[_FIRST_OF_ERROR : _FIRST_OF_ERROR + len(_OF_ERROR)] = [error.get(key) for key in _OF_ERROR]
    return values


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
