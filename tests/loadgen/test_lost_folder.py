"""Real runs whose disk fills or whose folder goes away: every request is on the disk, or said to be lost."""

import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmload.runs.folder import RunFolder
from tests.loadgen.conftest import Ended, Locust, StartEngine, WriteScenario
from tests.loadgen.forked import Zygote

QUICK = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 4}
SALTED = '[prompts]\nrepeat = "salted"'
PROCESSES = pytest.mark.parametrize("processes", [1, 2])
IT_IS_PRINTED = "could not be written, so here it is:\n"


class Faulty:
    """A run under way, and what can be done to it."""

    def __init__(self, locust: Locust, scenario: Path, processes: int, *further: str) -> None:
        own = ["--processes", str(processes)] if processes > 1 else []
        self._locust = locust
        self.process = locust.start("--config", str(scenario), "--headless", *own, *further)
        self.folder = self._once_all_write(processes)

    def _once_all_write(self, processes: int) -> Path:
        end_s = time.monotonic() + 30
        while len([file for file in self._locust.out.glob("*/requests*.jsonl") if file.stat().st_size]) < processes:
            assert time.monotonic() < end_s, "not every process writes"
            time.sleep(0.1)
        return next(self._locust.out.iterdir())

    def limit_files(self, size: int | None) -> None:
        """Let no file of the run grow beyond this size, as on a full disk; None: as far as it likes."""
        for pid in (self.process.pid, *self.children()):
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (most if size is None else size, most))

    def children(self) -> list[int]:
        tasks = Path(f"/proc/{self.process.pid}/task")
        return [int(pid) for pid in (tasks / f"{self.process.pid}" / "children").read_text().split()]

    def end(self) -> Ended:
        return self._locust.finish(self.process)


def summary_of(ended: Ended) -> dict[str, Any]:
    """The summary in the folder, or else on standard error."""
    if IT_IS_PRINTED in ended.err:
        printed: dict[str, Any]
        printed, _ = json.JSONDecoder().raw_decode(ended.err.partition(IT_IS_PRINTED)[2])
        return printed
    return ended.summary


def checks_of(summary: dict[str, Any]) -> list[str]:
    return [reason["check"] for reason in summary["verdict"]["reasons"]]


def lines_in(folder: Path) -> int:
    files = folder.glob("requests*.jsonl")
    return sum(len([json.loads(line) for line in file.read_text().splitlines()]) for file in files)


def check_account(summary: dict[str, Any], lines: int) -> None:
    requests = summary["requests"]
    ended = requests["completed"] + requests["failed"] + requests["censored"]
    assert requests["started"] == ended == lines + requests["lost_lines"]


@pytest.fixture
def start(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> Callable[[int], Faulty]:
    def begin(processes: int) -> Faulty:
        scenario = write_scenario(engine(**QUICK).url, "users = 4\nduration_s = 6", SALTED)
        return Faulty(locust, scenario, processes, "--junit", str(tmp_path / "junit.xml"))

    return begin


@PROCESSES
def test_what_a_full_disk_does_not_take_is_counted_and_the_summary_printed(
    start: Callable[[int], Faulty], processes: int
) -> None:
    run = start(processes)
    run.limit_files(0)
    ended = run.end()

    summary = summary_of(ended)
    lost = summary["requests"]["lost_lines"]
    assert ended.code == 3, ended.err
    assert lost > 0
    check_account(summary, lines_in(run.folder))
    assert checks_of(summary)[0] == "lost_records"
    assert summary["verdict"]["reasons"][0]["text"] == (
        f"{lost} of {summary['requests']['started']} request lines could not be written: File too large"
    )
    unwritten = next(each["text"] for each in summary["verdict"]["reasons"] if each["check"] == "unwritten_files")
    assert all(name in unwritten for name in ("manifest.json", "summary.json", "report.html", "junit.xml"))
    assert not (run.folder / "summary.json").exists()
    assert ended.err.count("jsonl cannot be written") == processes, "one line a file"
    assert "Traceback" not in ended.err


@PROCESSES
def test_nothing_is_lost_where_there_is_room_again_before_the_end(
    start: Callable[[int], Faulty], processes: int
) -> None:
    run = start(processes)
    run.limit_files(0)
    time.sleep(2)
    run.limit_files(None)
    ended = run.end()

    assert ended.code == 0, ended.err
    assert "jsonl cannot be written: File too large" in ended.err
    assert ended.summary["requests"]["lost_lines"] == 0
    check_account(ended.summary, lines_in(run.folder))
    held = {name: file["lines"] for name, file in ended.summary["request_files"].items()}
    assert held == {file.name: lines for file in run.folder.glob("*.jsonl") if (lines := file.read_text().count("\n"))}


@PROCESSES
@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_was_deleted_has_lost_every_line_and_is_not_made_again(
    start: Callable[[int], Faulty], processes: int, *, replaced: bool
) -> None:
    run = start(processes)
    while run.folder.exists():  # a file may be made between the look and the removal
        shutil.rmtree(run.folder, ignore_errors=True)
    if replaced:
        run.folder.mkdir()
    ended = run.end()

    summary = summary_of(ended)
    assert ended.code == 3, ended.err
    check_account(summary, lines=0)
    assert checks_of(summary)[0] == "lost_records"
    assert list(run.folder.iterdir()) == [] if replaced else not run.folder.exists()
    assert "Traceback" not in ended.err


@PROCESSES
def test_a_folder_that_was_moved_has_everything(start: Callable[[int], Faulty], processes: int) -> None:
    run = start(processes)
    moved = run.folder.with_name("moved")
    run.folder.rename(moved)
    ended = run.end()

    summary = RunFolder(moved).read("summary.json")
    assert ended.code == 0, ended.err
    check_account(summary, lines_in(moved))
    assert summary["requests"]["lost_lines"] == 0
    assert {"manifest.json", "report.html", "users.csv"} <= {file.name for file in moved.iterdir()}
    assert not run.folder.exists()
    assert f"run folder: {moved}" in "".join(ended.out.splitlines())


def test_lines_that_a_killed_worker_held_back_are_said_to_be_lost(start: Callable[[int], Faulty]) -> None:
    run = start(2)
    run.limit_files(0)
    time.sleep(3.5)  # after a report
    victim, *_ = run.children()
    os.kill(victim, signal.SIGKILL)
    ended = run.end()

    summary = summary_of(ended)
    assert ended.code == 3, ended.err
    check_account(summary, lines_in(run.folder))
    assert {"lost_records", "missing_workers"} <= set(checks_of(summary))


@pytest.mark.parametrize("how", ["a file", "too long", "no permission", "full"])
def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_sent(
    engine: StartEngine, zygote: Zygote, write_scenario: WriteScenario, tmp_path: Path, how: str
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 4\nrequests = 8", SALTED)
    (tmp_path / "file").write_text("")
    out, why = {
        "a file": (tmp_path / "file", "Not a directory"),
        "too long": (tmp_path / ("x" * 300), "File name too long"),
        "no permission": (Path("/proc/self"), "No such file or directory"),
        "full": (tmp_path / "full", "File too large"),
    }[how]
    arguments = ["--config", str(scenario), "--headless", "--out", str(out)]

    process = zygote.start(arguments, dict(os.environ), {"RLIMIT_FSIZE": 0} if how == "full" else None)
    _, err = process.communicate(timeout=60)

    said = [line for line in err.splitlines() if line.startswith("llmload: ")]
    assert process.returncode == 2, err
    assert len(said) == 1
    assert str(out) in said[0]
    assert why in said[0]
    assert not list(tmp_path.rglob("requests*.jsonl"))


def test_more_users_than_open_files_are_refused_before_anything_is_sent(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    scenario = write_scenario(engine(**QUICK).url, "users = 100\nrequests = 100", SALTED)

    ended = locust.run("--config", str(scenario), limits={"RLIMIT_NOFILE": 96})

    assert ended.code == 2, ended.err
    assert "llmload: load: 100 users need a connection each" in ended.err
    assert "(ulimit -n is 96): raise it with ulimit -n 1000, or give --processes 2" in ended.err
    assert not list(tmp_path.glob("runs/*"))
