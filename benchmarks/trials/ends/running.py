"""A run of a row: its processes, what they write, and the facts by which its phases are known."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

from benchmarks import ROOT
from benchmarks.tools.controlled_engine import ControlledEngine
from benchmarks.trials.ends.row import Case, Mode, Row
from llmload.runs.folder import SUMMARY
from llmload.scenario.reading import free_port

SCENARIO: Final = """\
[tool.locust]
locustfile = "{locustfile}"
[scenario]
name = "trial"
seed = 1
[engine]
name = "other"
base_url = "{url}"
[model]
name = "{model}"
[prompts]
repeat = true
[load]
{load}
{further}
"""
MARK: Final = "LLMLOAD_TRIAL"
"""The environment variable by which a run's processes are known."""
POLL_S: Final = 0.02
PHASE_S: Final = 20.0
"""How long a phase may take to come about."""
LEAVE_S: Final = 5.0
"""How long processes may outlive the one that was started."""
NO_CODE: Final = -99


class TrialError(Exception):
    """A run that did not come to where its row wanted it."""


@dataclass(slots=True)
class Running:
    """The processes of a case, the one that coordinates first."""

    case: Case
    folder: Path
    engine: ControlledEngine
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)
    began_s: float = field(default_factory=time.monotonic)
    undo: list[list[str]] = field(default_factory=list)
    """Commands that undo, last first, what was done to the disk."""
    acted_s: float = 0.0
    """When the last step was done."""

    @property
    def row(self) -> Row:
        """The row."""
        return self.case.row

    @property
    def disk(self) -> Path:
        """Where run folders are made, or the separate file system that they are on."""
        return self.folder / "disk"

    @property
    def runs(self) -> Path:
        """Where run folders are made."""
        return self.disk / "runs"

    # Start

    def mount(self, kib: int) -> None:
        """Put run folders on a separate file system of this size."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(self.disk)], check=True)
        self.undo.append(["umount", "--lazy", str(self.disk)])

    def start(self) -> None:
        """Write the scenario and start the processes."""
        row = self.row
        users = ROOT / "locustfiles" / row.locustfile
        if row.users:
            users = self.folder / "users.py"
            users.write_text(row.users, encoding="utf-8")
        for name, text in row.files.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        scenario = SCENARIO.format(
            locustfile=users, url=self.engine.base_url, model=row.model, load=row.load, further=row.further
        )
        (self.folder / "scenario.toml").write_text(scenario, encoding="utf-8")
        self._launch("main", self._command())
        if self.case.mode is Mode.WORKERS:
            for _ in range(2):
                self.start_worker()

    def start_worker(self) -> None:
        """Start a worker that connects to the master."""
        options = ["--worker", "--master-host", "127.0.0.1", "--master-port", str(self.port), "--out", str(self.runs)]
        self._launch(f"worker-{len(self.processes)}", [*LOCUST, "--config", "scenario.toml", *options])

    def _command(self) -> list[str]:
        row, mode = self.row, self.case.mode
        common = ["--progress", "0.2", "--metrics-port", "off", "--out", str(self.runs), *row.options]
        if row.as_llmload:
            processes = ["--processes", "2"] if mode is Mode.PROCESSES else []
            return [sys.executable, "-m", "llmload.cli.main", "run", "scenario.toml", "--json", *common, *processes]
        interface = ["--web-port", str(self.web_port)] if row.web else ["--headless", "--summary", "json"]
        ports = {
            Mode.ONE: [],
            Mode.PROCESSES: ["--processes", "2", "--master-port", str(self.port), "--master-bind-port", str(self.port)],
            Mode.WORKERS: ["--master", "--expect-workers", "2", "--master-bind-port", str(self.port)],
        }
        return [*LOCUST, "--config", "scenario.toml", *interface, *ports[mode], *common]

    def _launch(self, name: str, command: list[str]) -> None:
        env = {**os.environ, "HF_HUB_OFFLINE": "1", MARK: self.mark}
        if self.row.descriptors is not None:
            command = ["sh", "-c", f'ulimit -n {self.row.descriptors}; exec "$@"', "sh", *command]
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self.processes.append(process)

    # What is seen of it

    def said(self) -> str:
        """Return what all processes have written to their outputs."""
        files = sorted([*self.folder.glob("*.out"), *self.folder.glob("*.err")])
        return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)

    def wait_until(self, reached: Callable[[], bool], what: str, timeout_s: float = PHASE_S) -> None:
        """Wait for a fact; TrialError if it does not come about, or the run ends before."""
        end_s = time.monotonic() + timeout_s
        while not reached():
            if self.processes[0].poll() is not None and not reached():
                raise TrialError(f"the run ended with exit code {self.processes[0].returncode} before {what}")
            if time.monotonic() > end_s:
                raise TrialError(f"{what} did not come about in {timeout_s:.0f} s")
            time.sleep(POLL_S)

    def wait_until_said(self, pattern: str, timeout_s: float = PHASE_S) -> None:
        """Wait until an output has a text, given as a regular expression."""
        self.wait_until(lambda: re.search(pattern, self.said(), re.MULTILINE) is not None, f"{pattern!r}", timeout_s)

    def maps(self) -> str:
        """Return the files that the first process has mapped: which libraries it has imported by now."""
        try:
            return Path(f"/proc/{self.processes[0].pid}/maps").read_text(encoding="utf-8")
        except OSError:
            return ""

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        if self.case.mode is Mode.WORKERS:
            return [process.pid for process in self.processes[1:]]
        return sorted(set(self.alive()) - {self.processes[0].pid})

    def alive(self) -> list[int]:
        """Return the ids of all processes of the run, children of children included."""
        return [pid for pid in _pids() if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        """Return whether a process has the run's mark in its environment; one that has ended has none."""
        try:
            return f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    def run_folder(self) -> Path:
        """Return the folder of the run; TrialError while there is none."""
        found = sorted(self.runs.glob("*-trial-*")) if self.runs.is_dir() else []
        if not found:
            raise TrialError("there is no run folder")
        return found[-1]

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of every request file; a line that is not JSON raises TrialError."""
        files = sorted(self.runs.glob("*/requests*.jsonl")) if self.runs.is_dir() else []
        try:
            return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
        except ValueError as error:
            raise TrialError(f"a line of the requests is not JSON: {error}") from None

    def printed_summary(self) -> dict[str, Any] | None:
        """Return the summary that the run printed; None if it printed none."""
        for output in ("main.out", "main.err"):
            text = (self.folder / output).read_text(encoding="utf-8", errors="replace")
            if found := _summary_in(text):
                return found
        return None

    def written_summary(self) -> dict[str, Any] | None:
        """Return `summary.json`; None if there is none."""
        files = sorted(self.runs.glob(f"*/{SUMMARY}")) if self.runs.is_dir() else []
        return json.loads(files[-1].read_bytes()) if files else None

    def reported_summary(self) -> dict[str, Any] | None:
        """Return what `llmload report` says of the run's folder; None if it says nothing."""
        command = [sys.executable, "-m", "llmload.cli.main", "report", str(self.run_folder()), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        (self.folder / "report.err").write_text(done.stderr, encoding="utf-8")
        return _summary_in(done.stdout)

    # The web UI

    def ask(self, path: str, form: dict[str, object] | None = None) -> str:
        """Return what the web UI answers; OSError if it does not."""
        data = None if form is None else urlencode(form).encode()
        with urlopen(f"http://127.0.0.1:{self.web_port}/{path}", data=data, timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def answers(self, path: str, wanted: Callable[[str], bool] = lambda _: True) -> bool:
        """Return whether the web UI answers, and so."""
        try:
            return wanted(self.ask(path))
        except OSError:
            return False

    # End

    def finish(self) -> int:
        """Wait for the end of the process that coordinates, and return its exit code; `NO_CODE` if it hangs."""
        try:
            return self.processes[0].wait(max(0.1, self.acted_s + self.row.ends_within_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            return NO_CODE

    def left_behind(self) -> tuple[str, ...]:
        """Return the processes that are still there some seconds after the end: id and command."""
        end_s = time.monotonic() + LEAVE_S
        while (left := self._left()) and time.monotonic() < end_s:
            time.sleep(POLL_S)
        return tuple(f"{pid} {_command_of(pid)}" for pid in left)

    def _left(self) -> list[int]:
        for process in self.processes:
            process.poll()
        return self.alive()

    def kill(self) -> None:
        """Kill what is left, and undo what was done to the disk."""
        for pid in self.alive():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.processes:
            process.wait()
        for command in reversed(self.undo):
            subprocess.run(command, check=False)


LOCUST: Final = (sys.executable, "-m", "locust")


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _command_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(words[2:5])


def _summary_in(text: str) -> dict[str, Any] | None:
    """Return the last JSON object, or the first of a list, that is a summary in a text."""
    decoder = json.JSONDecoder()
    for found in reversed(list(re.finditer(r"^[{\[]", text, re.MULTILINE))):
        try:
            value, _ = decoder.raw_decode(text, found.start())
        except ValueError:
            continue
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, dict) and "verdict" in value:
            return value
    return None
