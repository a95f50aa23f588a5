"""
A run's folder: `manifest.json` from the start, `requests*.jsonl` while it goes on, `summary.json` at its end.

Each process that sends requests appends to a file of its own: `requests.jsonl` where there is one process,
`requests.worker-K.jsonl` for worker K of several.
"""

import logging
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from llmload.errors import RunFolderError
from llmload.runs.manifest import SCHEMA_VERSION as MANIFEST_VERSION
from llmload.runs.manifest import Manifest
from llmload.runs.summary import SCHEMA_VERSION as SUMMARY_VERSION
from llmload.runs.summary import Summary

Contract = TypeVar("Contract", bound=BaseModel)

SUMMARY, MANIFEST, REPORT = "summary.json", "manifest.json", "report.html"
ENGINE_METRICS, GPU_METRICS = "engine_metrics.csv", "gpu_metrics.csv"
USERS: Final = "users.csv"
"""The number of users, a line each time that it changed."""

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
            yield from lines_of(file)

    def request_files(self) -> list[Path]:
        """Return the files that hold requests: one, or one a worker."""
        return sorted(self.path.glob("requests*.jsonl"))


def runs_in(path: Path) -> list[Path]:
    """Return the runs in the folder of a repeated run, in their order; else the folder itself."""
    if (path / MANIFEST).is_file() or (path / SUMMARY).is_file():
        return [path]
    return sorted(file.parent for file in path.glob(f"*/{SUMMARY}")) or [path]


def lines_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a request file as JSON objects, without a last one that a crash cut short."""
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield orjson.loads(line)
