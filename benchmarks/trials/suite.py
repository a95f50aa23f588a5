"""A suite that is killed in one cell, whose engine is killed in another, and that is resumed to full tables."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks import ROOT

PERIOD_S = 0.1
GONE_TIMEOUT_S = 60.0
"""The engines of a killed suite have a grace period."""


@dataclass
class SuiteTrial:
    """One suite under trial, with the result of each check."""

    suite: Path
    out: Path
    checks: dict[str, bool] = field(default_factory=dict)

    def check(self, text: str, passed: bool) -> None:
        """Record and print the result of a check."""
        self.checks[text] = passed
        click.echo(f"{'ok  ' if passed else 'FAIL'}  {text}")

    @contextmanager
    def started(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run the suite's command while the context lasts."""
        command = [sys.executable, "-m", "llmload.cli.main", "suite", str(self.suite), "--out", str(self.out)]
        click.echo(f"$ {shlex.join(['llmload', *command[3:]])}")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()

    def cells(self) -> dict[str, Any]:
        """Return the cells of the state file; none before there is one."""
        file = self.out / "state.json"
        return dict(json.loads(file.read_text())["cells"]) if file.exists() else {}

    def wait_for(self, cell: str, process: "subprocess.Popen[bytes]") -> None:
        """Wait until the cell is being measured; ClickException if the suite ended before."""
        while process.poll() is None:
            if self.cells().get(cell, {}).get("status") == "running":
                return
            time.sleep(PERIOD_S)
        raise click.ClickException(f"the suite ended with exit code {process.returncode} before it reached {cell}")

    def killed_and_resumed(self, kill_at: str, fail_at: str) -> int:
        """Kill the suite in one cell, resume it, kill the engine in another; return the exit code of the end."""
        with self.started() as process:
            self.wait_for(kill_at, process)
            below = descendants(process.pid)
            process.kill()
            process.wait()
        before = {name: cell for name, cell in self.cells().items() if cell["status"] != "running"}
        self.check("the suite had started other processes when it was killed", bool(below))
        self.check("none of them is left after its SIGKILL", until(lambda: not below & set(all_processes())))
        with self.started() as process:
            self.wait_for(fail_at, process)
            time.sleep(1.0)  # let some of it be measured
            for guard in guards_of(process.pid):
                for engine in children(guard):
                    if "locust" not in command_line(engine):
                        os.kill(engine, signal.SIGKILL)
            code = process.wait()
        after = self.cells()
        kept = all(after.get(name) == cell for name, cell in before.items())
        self.check(f"the {len(before)} cells that were done before the kill were not measured again", kept)
        self.check(f"{kill_at} was measured again", after[kill_at]["status"] in {"good", "invalid"})
        reason = after[fail_at]["reason"] or ""
        failed = after[fail_at]["status"] == "failed"
        self.check(f"{fail_at} failed, since its engine was killed", failed and "was killed by SIGKILL" in reason)
        others = {cell["status"] for name, cell in after.items() if name != fail_at}
        self.check("every other cell was measured", others <= {"good", "invalid"})
        self.check("the exit code says that a cell failed or is INVALID", code == (3 if "invalid" in others else 1))
        return code


def until(true: Callable[[], bool], timeout_s: float = GONE_TIMEOUT_S) -> bool:
    """Wait until a condition is true; return False after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(PERIOD_S)
    return True


def all_processes() -> dict[tuple[int, str], int]:
    """Return the parent of every process that has not ended, by process id and start time."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                found[int(entry.name), fields[19]] = int(fields[1])
    return found


def children(parent: int) -> list[int]:
    """Return the running children of a process."""
    return [pid for (pid, _), above in all_processes().items() if above == parent]


def descendants(parent: int) -> set[tuple[int, str]]:
    """Return all descendants of a process, by process id and start time."""
    processes = all_processes()
    found: set[tuple[int, str]] = set()
    left = [parent]
    while left:
        above = left.pop()
        below = {key for key, its in processes.items() if its == above} - found
        found |= below
        left += [pid for pid, _ in below]
    return found


def guards_of(suite: int) -> list[int]:
    """Return the guard processes of a suite: of its engine, and of the run."""
    return [pid for pid in children(suite) if "guard.py" in command_line(pid)]


def command_line(pid: int) -> str:
    """Return a process's command line; empty if it has ended."""
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@click.command()
@click.option("--suite", type=click.Path(path_type=Path), default=Path("benchmarks/cpu-suite.toml"), show_default=True)
@click.option("--kill-at", default="transformers/SmolLM2-135M-Instruct/throughput", show_default=True)
@click.option("--fail-at", default="transformers/tiny-random-llama/throughput", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("suites/trial"), show_default=True)
def main(suite: Path, kill_at: str, fail_at: str, out: Path) -> None:
    """Kill a suite in one cell and an engine in another, resume, and check the result; exit code 1 if a check fails."""
    os.chdir(ROOT)
    if (out / "state.json").exists():
        raise click.UsageError(f"--out: {out} already has a suite; name a new folder")
    started = time.monotonic()
    trial = SuiteTrial(suite, out)
    trial.killed_and_resumed(kill_at, fail_at)
    click.echo(f"\n{time.monotonic() - started:.0f} s\n\n{(out / 'suite.md').read_text()}")
    sys.exit(0 if all(trial.checks.values()) else 1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.suite")
