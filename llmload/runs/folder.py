"""
A run's folder: `manifest.json` from the start, `requests*.jsonl` while it goes on, `summary.json` at its end.

Each process that sends requests appends to a file of its own: `requests.jsonl` where there is one process,
`requests.worker-K.jsonl` for worker K of several.
"""

import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from llmload.errors import RunFolderError
from llmload.record import (
    NO_CHUNKS,
    ErrorType,
    Outcome,
    RequestError,
    RequestRecord,
    StampSource,
    TokenSource,
    stamps_of,
)
from llmload.runs.manifest import SCHEMA_VERSION as MANIFEST_VERSION
from llmload.runs.manifest import Manifest
from llmload.runs.summary import SCHEMA_VERSION as SUMMARY_VERSION
from llmload.runs.summary import Summary
from llmload.units import NS_PER_S

Contract = TypeVar("Contract", bound=BaseModel)

SUMMARY, MANIFEST, REPORT = "summary.json", "manifest.json", "report.html"
ENGINE_METRICS, GPU_METRICS = "engine_metrics.csv", "gpu_metrics.csv"
USERS: Final = "users.csv"
"""How many users ran, a line each time that changed."""

logger = logging.getLogger(__name__)


def new_run_id(scenario: str) -> str:
    """Return a name that sorts by start time and collides with no other run's."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in scenario)
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{safe}-{secrets.token_hex(2)}"


class WriteFaults:
    """Lets a run continue without a file that cannot be written: the first fault of each file is logged."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    @contextmanager
    def tolerated(self, file: Path, what: str) -> Iterator[None]:
        """Log an OSError, naming what the file then lacks, instead of raising it."""
        try:
            yield
        except OSError as error:
            if file.name not in self._logged:
                self._logged.add(file.name)
                logger.error("%s cannot be written: %s; the run continues without %s", file, error.strerror, what)  # noqa: TRY400 - no traceback


class RunFolder:
    """The files of a run; what is appended or rewritten during the run may fail without ending it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._faults = WriteFaults()

    def create(self) -> None:
        """Make the folder; RunFolderError if it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot make the run folder: {error.strerror}") from None

    def write(self, name: str, content: BaseModel | Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        target = self.path / name
        if isinstance(content, BaseModel):
            content = content.model_dump(mode="json")
        draft = target.with_suffix(".tmp")
        draft.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        draft.replace(target)

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file's content; RunFolderError if it is missing or broken."""
        target = self.path / name
        try:
            content = orjson.loads(target.read_bytes())
        except FileNotFoundError:
            raise RunFolderError(f"{target}: no such file; is {self.path} a finished run's folder?") from None
        except OSError as error:
            raise RunFolderError(f"{target}: cannot be read: {error.strerror}") from None
        except orjson.JSONDecodeError as error:
            raise RunFolderError(f"{target}: is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise RunFolderError(f"{target}: holds no JSON object")
        return content

    def summary(self) -> Summary:
        """Return the summary; RunFolderError where it is missing, broken, or of another schema version."""
        return self._validated(SUMMARY, Summary, SUMMARY_VERSION)

    def manifest(self) -> Manifest:
        """Return the manifest; RunFolderError where it is missing, broken, or of another schema version."""
        return self._validated(MANIFEST, Manifest, MANIFEST_VERSION)

    def _validated(self, name: str, model: type[Contract], reads: int) -> Contract:
        content, target = self.read(name), self.path / name
        found = content.get("schema_version")
        if found != reads:
            raise RunFolderError(
                f"{target}: schema_version is {'missing' if found is None else found}, and this llmload reads version "
                f"{reads}: the run was made by {'an earlier' if found is None else 'another'} llmload"
            )
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise RunFolderError(
                "\n".join(
                    f"{target}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
                    for fault in error.errors(include_url=False)
                )
            ) from None

    def note_manifest(self, content: Manifest) -> None:
        """Write the manifest as it is now; a fault is logged once."""
        with self._faults.tolerated(self.path / MANIFEST, "the times of its window and stages"):
            self.write(MANIFEST, content)

    def append_users(self, unix_s: float, users: int) -> None:
        """Note how many users run from a moment on; a fault is logged once."""
        path = self.path / USERS
        with self._faults.tolerated(path, "its number of users over time"), path.open("a", encoding="utf-8") as file:
            if not file.tell():
                file.write("unix_s,users\n")
            file.write(f"{unix_s:.3f},{users}\n")

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield every request's line; a last line that a crash cut short is left out."""
        for file in self.request_files():
            yield from _lines(file)

    def request_files(self) -> list[Path]:
        """Return the files that hold requests: one, or one a worker."""
        return sorted(self.path.glob("requests*.jsonl"))


def runs_in(path: Path) -> list[Path]:
    """Return the runs in the folder of a repeated run, in their order; else the folder itself."""
    if (path / MANIFEST).is_file() or (path / SUMMARY).is_file():
        return [path]
    return sorted(file.parent for file in path.glob(f"*/{SUMMARY}")) or [path]


class RequestLog:
    """Appends a line per request to a file, whole ones with each write, so that a crash cuts at most the last."""

    def __init__(self, path: Path, *, with_chunks: bool) -> None:
        self._path, self._faults = path, WriteFaults()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._with_chunks = with_chunks
        self._unix_offset_ns = time.time_ns() - time.monotonic_ns()

    def append(self, records: Iterable[RequestRecord]) -> None:
        """Write the records' lines, together and whole or not at all; a fault is logged once."""
        form = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        lines = b"".join([orjson.dumps(self._line(record), option=form) for record in records])
        with self._faults.tolerated(self._path, "lines of requests that it counts"):
            self._write(lines)

    def _write(self, lines: bytes) -> None:
        end = os.fstat(self._file).st_size
        try:
            while lines:
                lines = lines[os.write(self._file, lines) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, end)  # half a line would make the next one unreadable too
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _line(self, record: RequestRecord) -> dict[str, Any]:
        error = record.error
        line: dict[str, Any] = {
            "request_id": record.request_id,
            "prompt_id": record.prompt_id,
            "outcome": str(record.outcome),
            "time_s": (record.started_ns + self._unix_offset_ns) / NS_PER_S,
            "ttft_s": record.ttft_s,
            "tpot_s": record.tpot_s,
            "e2e_s": record.e2e_s,
            "output_tokens_per_s": record.output_tokens_per_s,
            "prompt_tokens": record.prompt_tokens,
            "output_tokens": record.output_tokens,
            "cached_tokens": record.cached_tokens,
            "reasoning_tokens": record.reasoning_tokens,
            "token_source": str(record.token_source),
            "finish_reason": record.finish_reason,
            "stamp_source": str(record.stamp_source),
            "chunks": len(record.chunk_ns),
            "coalesced_chunks": record.coalesced_chunks,
            "reconnects": record.reconnects,
            "retries": record.retries,
            "error": None
            if error is None
            else {
                "type": error.type.value,
                "message": error.message,
                "http_status": error.http_status,
                "retry_after_s": error.retry_after_s,
            },
            "stage": record.stage,
            "scheduled_ns": record.scheduled_ns,
            "started_ns": record.started_ns,
            "connected_ns": record.connected_ns,
            "sent_ns": record.sent_ns,
            "done_ns": record.done_ns,
        }
        if self._with_chunks:
            line["chunk_gaps_ns"] = record.chunk_gaps_ns
            line["chunk_tokens"] = record.chunk_tokens
            line["textless_gaps_ns"] = record.textless_gaps_ns
        return line


def read_records(folder: RunFolder, name: str) -> Iterator[RequestRecord] | None:
    """Return the records of one of the folder's request files, None where there is no such file."""
    file = folder.path / name
    return (record_of(line) for line in _lines(file)) if file.is_file() else None


def record_of(line: Mapping[str, Any]) -> RequestRecord:
    """Return the record that a line was written from; without its chunks, if those were not kept."""
    error, gaps, textless = line["error"], line.get("chunk_gaps_ns"), line.get("textless_gaps_ns")
    return RequestRecord(
        **{name: line[name] for name in _SAME_IN_LINE},
        outcome=Outcome(line["outcome"]),
        token_source=TokenSource(line["token_source"]),
        stamp_source=StampSource(line["stamp_source"]),
        chunk_ns=stamps_of(line["started_ns"], gaps) if gaps else NO_CHUNKS,
        textless_ns=None if textless is None else stamps_of(line["started_ns"], textless),
        error=None if error is None else RequestError(**{**error, "type": ErrorType(error["type"])}),
    )


_SAME_IN_LINE: Final = (
    "request_id",
    "prompt_id",
    "started_ns",
    "done_ns",
    "stage",
    "scheduled_ns",
    "connected_ns",
    "sent_ns",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "finish_reason",
    "reconnects",
    "retries",
)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield orjson.loads(line)
