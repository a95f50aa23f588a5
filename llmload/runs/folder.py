"""
A run's folder: its files, the manifest, and reading both contracts, `Summary` and `Manifest`.

Each process that sends requests appends to its own file: `requests.jsonl` where there is one process,
`requests.worker-K.jsonl` for worker K of several.
"""

import errno
import logging
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from io import FileIO
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

import orjson
from pydantic import BaseModel, Field, ValidationError

from llmload.errors import RunFolderError, plain
from llmload.metrics.lines import shown
from llmload.metrics.validity import Verdict
from llmload.prompts.salts import ADDED_CHARS
from llmload.prompts.workload import RepeatMode, Workload
from llmload.record import METRICS_VERSION
from llmload.runs.reading import SMALL_BLOCK_BYTES, is_there, named, read_lines, read_object
from llmload.runs.summary import SCHEMA_VERSION as SUMMARY_VERSION
from llmload.runs.summary import Summary
from llmload.runs.summary_parts import Part, PerSecond, RequestFile, UnixSeconds
from llmload.runs.writing import PATIENCE_S, AppendedFile, Place, WriteFaults, missing_lines, why_of
from llmload.scenario import Scenario

# `manifest.json` as types: what was run, on what, and when; written at a run's start and again with its times.

MANIFEST_VERSION: Final = 1
_PACKAGES: Final = ("llmload", "locust", "gevent", "openai", "datasets", "httptools", "numpy", "pydantic")


class StageTimes(Part):
    """When a stage, a search's step or an edited load's phase ran; `null`: it did not get that far."""

    name: str
    """The name of the stage, step or phase."""
    users: int | None
    """Users of a closed loop."""
    rate_per_s: PerSecond | None
    """Requests a second of an open loop."""
    start_unix_s: UnixSeconds | None
    """When it began."""
    window_start_unix_s: UnixSeconds | None
    """When its warm-up ended."""
    end_unix_s: UnixSeconds | None
    """When it ended."""


class LoadEdit(Part):
    """A change of the load during the run."""

    unix_s: UnixSeconds
    """When it was made."""
    what: str
    """The key of the load: `users`, `spawn_rate_per_s`, `rate_per_s` or `duration_s`."""
    before: float | None
    """Its value before; `null`: there was none."""
    after: float | None
    """Its value from then on; `null`: there was none."""


class RunTimes(Part):
    """When window and stages began and ended; `null`: it did not get that far, or has no set end."""

    window_start_unix_s: UnixSeconds | None
    """When the window began."""
    window_end_unix_s: UnixSeconds | None
    """When the window ended."""
    stages: tuple[StageTimes, ...]
    """Each stage of a staged load, step of a search, or phase of a load that was edited during the run."""


class Techniques(Part):
    """How prompts were changed before they were sent."""

    n_shot: int
    """Solved examples before each prompt."""
    chain_of_thought: str | None
    """The instruction to think step by step, where one was added."""


class Salt(Part):
    """What is needed to salt prompts as this run did."""

    mode: str
    """`request`: a salt for each request; `run`: one for the whole run; `repeats`: for those that repeat another."""
    key: str
    """What the salts were made from, beside the seed."""
    added_chars: int | None
    """Characters that a salt adds to a prompt; `null`: it is words, which a synthetic prompt's length includes."""


class LengthFacts(Part):
    """What lengths in tokens were kept by; `null`: unknown, or not requested."""

    counted_by: str | None
    """Who counted prompts before the load: `usage` (answers of one token), or the engine's `/tokenize`."""
    template_tokens: int | None
    """Tokens of the chat template around a message."""
    least_tokens: int | None
    """Tokens of the shortest prompt that can be made: template, salt and opening."""
    text: str | None
    """What synthetic prompts are made of: `sentences`, filled up with words, or `words` alone."""
    output_fields: tuple[str, ...]
    """Fields that each request has so that its answer does not end early."""


class PromptFacts(Part):
    """What is needed to send the same prompts again."""

    dataset: str
    """The data set's name."""
    source: str
    """Where it came from."""
    split: str | None
    """Its split."""
    sha256: str
    """Hash of its bytes."""
    licence: str | None
    """Its licence, where it names one."""
    rows: int
    """Rows it has."""
    skipped: dict[str, int]
    """Rows that cannot become a request, by reason."""
    changed: dict[str, int] = Field(default_factory=dict)
    """Rows whose text was changed, by what was done."""
    seed: int
    """The seed of the draw."""
    turns: str
    """`first` or `all`: which turns of a dialogue were sent."""
    repeat: bool | RepeatMode
    """Whether the draw starts again once every prompt was sent: `salted`, or `same` for the same bytes."""
    drawn: tuple[int, ...]
    """Rows that were drawn, in the order in which they are sent."""
    requests: int
    """Requests that one pass over them makes."""
    calibration: LengthFacts | None = None
    """What lengths in tokens were kept by; `null`: none were requested."""
    techniques: Techniques
    """How prompts were changed."""
    salt: Salt | None
    """How prompts were salted against prefix caches; `null`: not at all."""


class EngineFacts(Part):
    """What the engine said of itself at the run's start."""

    base_url: str
    """The address that answered."""
    version: str | None
    """The engine's version."""
    models: tuple[str, ...]
    """Models that it serves."""
    simulated: bool
    """Whether it is llmload's simulated engine."""
    answers: dict[str, Any]
    """Its answers in full, by path."""


class Host(Part):
    """The machine of the process that coordinated the run."""

    system: str
    """Operating system and its version."""
    cpus: int | None
    """Logical CPUs."""
    no_packet_ring: str | None
    """Why this process could have no packet ring for its time stamps (docs/stamps.md); `null` where it could."""


class Manifest(Part):
    """A run's `manifest.json`."""

    schema_version: Literal[1]
    """Version of this file's keys; llmload reads no other version than its own."""
    run_id: str
    """The run's name."""
    started_unix_s: UnixSeconds
    """When the run began."""
    ended_unix_s: UnixSeconds | None
    """When it ended; `null` while it runs, or if it crashed."""
    timeline: RunTimes
    """When window and stages began and ended."""
    edits: tuple[LoadEdit, ...] = ()
    """Each change of the load during the run, in the web UI."""
    scenario_file: str
    """Name of the scenario file."""
    scenario: Scenario
    """The whole scenario, with all that was changed on the command line."""
    seed: int
    """The scenario's seed."""
    prompts: PromptFacts
    """The prompts."""
    engine: EngineFacts | None
    """What the engine said of itself; `null` where it said nothing."""
    simulated: bool
    """Whether a simulated engine was measured."""
    metrics_version: int
    """Version of the metrics' definitions."""
    workers: int
    """Processes that sent requests."""
    command: tuple[str, ...]
    """The command line."""
    versions: dict[str, str]
    """Versions of Python and of the packages that matter."""
    host: Host
    """The machine."""

    @classmethod
    def at_start(
        cls,
        *,
        run_id: str,
        started_unix_s: float,
        scenario: Scenario,
        scenario_file: Path,
        workload: Workload,
        engine: Mapping[str, Any] | None,
        simulated: bool,
        workers: int,
        command: Sequence[str] = (),
        no_packet_ring: str | None = None,
    ) -> Self:
        """Return the manifest of a run that starts now, on this machine; its times are not known yet."""
        salt, mode = None, scenario.prompts.salting
        if mode is not None:
            added_chars = None if workload.plan.is_synthetic else ADDED_CHARS
            salt = Salt(mode=mode, key=scenario.prompts.salt_key or run_id, added_chars=added_chars)
        return cls(
            schema_version=MANIFEST_VERSION,
            run_id=run_id,
            started_unix_s=started_unix_s,
            ended_unix_s=None,
            timeline=RunTimes(window_start_unix_s=None, window_end_unix_s=None, stages=()),
            scenario_file=scenario_file.name,
            scenario=scenario,
            seed=scenario.scenario.seed,
            prompts=PromptFacts(**workload.manifest(), salt=salt),
            engine=None if engine is None else EngineFacts.model_validate(engine),
            simulated=simulated,
            metrics_version=METRICS_VERSION,
            workers=workers,
            command=tuple(command),
            versions=_versions(),
            host=Host(system=platform.platform(), cpus=os.cpu_count(), no_packet_ring=no_packet_ring),
        )

    def with_times(self, timeline: RunTimes, ended_unix_s: float | None, edits: Sequence[LoadEdit] = ()) -> Self:
        """Return the same manifest with what is known of its times, and how its load was edited, by now."""
        return self.model_copy(update={"timeline": timeline, "ended_unix_s": ended_unix_s, "edits": tuple(edits)})


def _versions() -> dict[str, str]:
    """Return Python's version, and those of the packages that figures may depend on, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):  # what an extra brings
            versions[name] = version(name)
    return versions


Contract = TypeVar("Contract", bound=BaseModel)

SUMMARY, MANIFEST, REPORT = "summary.json", "manifest.json", "report.html"
ENGINE_METRICS, GPU_METRICS = "engine_metrics.csv", "gpu_metrics.csv"
_OF_THE_START: Final = (MANIFEST, "manifest.tmp", ENGINE_METRICS, GPU_METRICS)
USERS: Final = "users.csv"
"""The number of users, a line each time that it changed."""

_RETRY_S: Final = 0.25

logger = logging.getLogger(__name__)


def new_run_id(scenario: str) -> str:
    """Return a name that sorts by start time and collides with no other run's."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in scenario)
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{safe}-{secrets.token_hex(2)}"


class RunFolder:
    """The files of a run; what is appended or rewritten during the run may fail without ending it."""

    def __init__(self, path: Path) -> None:
        self.place = Place(path)
        self.faults = WriteFaults()
        self._users: AppendedFile | None = None
        self._appended: list[AppendedFile] = []

    @property
    def path(self) -> Path:
        """Where the folder is; one that is moved during its run is followed."""
        return self.place.path

    def create(self) -> None:
        """Make the folder and hold it open; RunFolderError if that cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.place.fd  # noqa: B018 - opens it
        except (OSError, ValueError) as error:
            why = why_of(error) if isinstance(error, OSError) else error
            raise RunFolderError(f"{self.path}: cannot make the run folder: {why}") from None
        self.place.reserve()

    def begin(self, content: Manifest) -> None:
        """Make the folder with its manifest; RunFolderError if that cannot be done: then nothing of it is left."""
        self.create()
        try:
            self.write(MANIFEST, content)
        except OSError as error:
            self.discard()
            text = f"{self.path}: cannot write the run folder: {why_of(error)}"
            raise RunFolderError(f"{text}: make room, or give another with --out") from None

    def discard(self) -> None:
        """Remove the folder of a run that did not start, with what its start wrote; requests that were sent stay."""
        with suppress(OSError):
            empty = [file for file in self.request_files() if not file.stat().st_size]
            for file in (*empty, *(self.path / name for name in _OF_THE_START)):
                file.unlink(missing_ok=True)
            self.path.rmdir()

    def write(self, name: str, content: BaseModel | Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all; OSError if that fails, FileNotFoundError if the folder is gone."""
        if isinstance(content, BaseModel):
            content = content.model_dump(mode="json")
        lines = orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        self.write_whole(name, lines)

    def write_whole(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all; OSError if that fails, FileNotFoundError if the folder is gone."""
        if (gone := self.place.gone()) is not None:
            raise FileNotFoundError(errno.ENOENT, gone)
        draft, folder = Path(name).with_suffix(".tmp").name, self.place.fd
        try:
            self._write_bytes(draft, content)
            os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with suppress(OSError):
                os.unlink(draft, dir_fd=folder)  # what of it is on a full disk is better used otherwise
            raise
        finally:
            self.place.reserve()

    def _write_bytes(self, name: str, content: bytes) -> None:
        # A FileIO is closed at once; gevent's `os.close` waits for its loop.
        with FileIO(self.place.open(name, os.O_TRUNC), "wb") as file:
            while content:
                content = content[file.write(content) :]

    def keep(self, name: str, content: BaseModel | Mapping[str, Any], patience_s: float = PATIENCE_S) -> bool:
        """Write a JSON file, trying for so long unless the folder is gone; return whether it is written."""
        end_s = time.monotonic() + patience_s
        while True:
            try:
                self.write(name, content)
            except OSError as error:
                if isinstance(error, FileNotFoundError) or time.monotonic() >= end_s:
                    self.faults.note(self.path / name, why_of(error), "it is printed instead")
                    return False
                time.sleep(_RETRY_S)
            else:
                self.faults.mended(self.path / name)
                return True

    def appended(self, name: str, *, what: str, header: bytes) -> AppendedFile:
        """Return a file of the folder that gets lines under a header; `what` is what the run lacks without it."""
        self._appended.append(AppendedFile(self.place, name, self.faults, what=what, header=header))
        return self._appended[-1]

    def measured(self, lines: Mapping[str, int]) -> dict[str, RequestFile]:
        """Return how many lines each request file has, by the caller, and its size; without those on other machines."""
        sizes = {}
        for name in lines:
            with suppress(OSError):
                sizes[name] = (self.path / name).stat().st_size
        return {name: RequestFile(lines=lines[name], size_bytes=size) for name, size in sizes.items()}

    def look(self) -> None:
        """Follow the folder if it was moved, and say so."""
        before = self.path
        self.place.gone()
        if self.path != before:
            logger.warning("the run folder %s was moved to %s", before, self.path)

    def settle(self) -> None:
        """Write what was held back of appended files, as far as there is room now."""
        for file in self._appended:
            file.settle(patience_s=0.0)

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file's content, its texts plain; RunFolderError if it is missing or broken."""
        target = self.path / name
        if not is_there(target):
            raise RunFolderError(f"{named(target)}: no such file; is {named(self.path)} a finished run's folder?")
        return read_object(target)

    def has(self, name: str) -> bool:
        """Return whether there is anything of that name in the folder."""
        return is_there(self.path / name)

    def summary(self) -> Summary:
        """
        Return the summary, INVALID where lines that the run wrote are not in its folder any more.

        RunFolderError where it is missing, broken, or of another schema version.
        """
        summary = self._validated(SUMMARY, Summary, SUMMARY_VERSION)
        missing = missing_lines(self.path, summary.request_files or {})
        if missing is None:
            return summary
        verdict = Verdict.of([*summary.verdict.reasons, missing], summary.verdict.doubts)
        return summary.model_copy(update={"verdict": verdict})

    def manifest(self) -> Manifest:
        """Return the manifest; RunFolderError where it is missing, broken, or of another schema version."""
        return self._validated(MANIFEST, Manifest, MANIFEST_VERSION)

    def _validated(self, name: str, model: type[Contract], reads: int) -> Contract:
        content, target = self.read(name), named(self.path / name)
        found = content.get("schema_version")
        if found != reads or isinstance(found, bool):
            raise RunFolderError(
                f"{target}: schema_version is {'missing' if found is None else shown(found)}, and this llmload reads "
                f"version {reads}: the run was made by {'an earlier' if found is None else 'another'} llmload"
            )
        try:
            return model.model_validate(content)
        except ValidationError as error:
            faults = error.errors(include_url=False)
            lines = [f"{target}: {fault_text(fault)}" for fault in faults[:MAX_FAULTS]]
            left = len(faults) - len(lines)
            raise RunFolderError("\n".join([*lines, *([f"{target}: and {left} more"] if left else [])])) from None

    def note_manifest(self, content: Manifest) -> None:
        """Write the manifest as it is now; a fault is logged once."""
        with self.faults.tolerated(self.path / MANIFEST, "the times of its window and stages"):
            self.write(MANIFEST, content)

    def append_users(self, unix_s: float, users: int) -> None:
        """Note how many users run from a moment on; a fault is logged once."""
        if self._users is None:
            self._users = self.appended(USERS, what="its number of users over time", header=b"unix_s,users\n")
        self._users.append(f"{unix_s:.3f},{users}\n".encode())

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield every request's line, checked; a last line that a crash cut short is left out."""
        for file in self.request_files():
            yield from read_lines(file, SMALL_BLOCK_BYTES)

    def request_files(self) -> list[Path]:
        """Return the files that hold requests: one, or one a worker."""
        return sorted(self.path.glob("requests*.jsonl"))


def runs_in(path: Path) -> list[Path]:
    """Return the runs in the folder of a repeated run, in their order; else the folder itself."""
    if is_there(path / MANIFEST) or is_there(path / SUMMARY):
        return [path]
    return sorted(file.parent for file in path.glob(f"*/{SUMMARY}")) or [path]


MAX_FAULTS: Final = 20
"""How many faults of a file are named."""
MAX_KEY: Final = 120
MAX_MESSAGE: Final = 200
"""Characters of a fault's key, and of what is wrong with it."""


def fault_text(fault: Any) -> str:
    """Return what is wrong with a JSON file in a few words: the key, the fault, the value."""
    where = plain(".".join(map(str, fault["loc"])))
    where = where if len(where) <= MAX_KEY else f"{where[:MAX_KEY]}..."
    text = plain(fault["msg"]).removeprefix("Value error, ")[:MAX_MESSAGE]
    got = "" if fault["type"] == "missing" else f", got {shown(fault['input'])}"
    return f"{where}: {text}{got}"
