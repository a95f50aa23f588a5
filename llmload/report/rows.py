"""A run's requests as rows of one table, the same for CSV and Parquet; the CSV itself."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmload.errors import RunFolderError
from llmload.report.columns import read_lines
from llmload.report.run_folder import MANIFEST, RunFolder


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
_FIRST_OF_ERROR: Final = next(place for place, column in enumerate(COLUMNS) if column.name == "error_type")


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
        run_id = run.read(MANIFEST)["run_id"]
        for lines in read_lines(run.request_files(), progress):
            yield run_id, lines


def values_of(request: Mapping[str, Any], run_id: str, columns: Sequence[Column]) -> list[Any]:
    """Return a line's values of the columns, of which the run's id is the first; None is unknown."""
    error, get = request["error"] or {}, request.get
    values = [get(column.name) for column in columns]
    values[0] = run_id
    values[_FIRST_OF_ERROR : _FIRST_OF_ERROR + len(_OF_ERROR)] = [error.get(key) for key in _OF_ERROR]
    return values
