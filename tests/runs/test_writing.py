"""The one policy for files of a run that cannot be written, against real disks, folders and limits."""

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from llmload.metrics.doubts import marks
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level
from llmload.runs import writing
from llmload.runs.folder import RunFolder
from llmload.runs.writing import AppendedFile, Place, WriteFaults, write_reasons

SMALL_BYTES = 65_536
LINE = b"x" * 999 + b"\n"


class SmallDisk:
    """A disk of 64 kB; where nobody may mount one, a folder in which no file may have more than is free."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "none", str(path)]
        self._mounted = not subprocess.run(command, capture_output=True, check=False).returncode
        self._limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.full = "No space left on device" if self._mounted else "File too large"

    def leave(self, free: int) -> None:
        """Fill the disk but for some bytes, whole pages."""
        if self._mounted:
            (self.path / "ballast").write_bytes(bytes(SMALL_BYTES - free))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (free, self._limits[1]))

    def clear(self) -> None:
        """Make room again."""
        (self.path / "ballast").unlink(missing_ok=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)

    def end(self) -> None:
        self.clear()
        if self._mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.end()


@pytest.fixture
def few_descriptors() -> Iterator[list[int]]:
    """A process that has no descriptor left, as when sockets took them all."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    yield taken
    free(taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def free(descriptors: list[int]) -> None:
    """Close them now, which gevent's `os.close` does not."""
    while descriptors:
        os.closerange(descriptors[-1], descriptors.pop() + 1)


def log_in(folder: Path, faults: WriteFaults | None = None) -> AppendedFile:
    file = AppendedFile(Place(folder), "r.jsonl", faults or WriteFaults(), what="lines")
    file.open()
    return file


def lines_in(file: Path) -> int:
    content = file.read_bytes()
    assert content.endswith(b"\n"), "no line is torn"
    assert set(content.splitlines(keepends=True)) == {LINE}
    return content.count(b"\n")


def test_lines_are_held_back_while_the_disk_is_full_and_follow_when_there_is_room(
    small_disk: SmallDisk, caplog: pytest.LogCaptureFixture
) -> None:
    small_disk.leave(8 * 4096)
    faults = WriteFaults()
    file = log_in(small_disk.path, faults)

    for _ in range(40):
        file.append(LINE)
    file.settle(patience_s=0.0)

    assert lines_in(small_disk.path / "r.jsonl") == 8 * 4096 // len(LINE)
    assert file.lost == {small_disk.full: 40 - lines_in(small_disk.path / "r.jsonl")}
    assert list(faults.unwritten) == ["r.jsonl"]
    small_disk.clear()
    file.settle(patience_s=0.0)
    assert lines_in(small_disk.path / "r.jsonl") == 40
    assert not file.lost
    assert not faults.unwritten
    assert len(caplog.messages) == 1


def test_no_more_is_held_back_than_the_limit_and_the_rest_is_counted(
    small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_disk.leave(4096)
    monkeypatch.setattr(writing, "HELD_BYTES", 10 * len(LINE))
    file = log_in(small_disk.path)

    for _ in range(40):
        file.append(LINE)
    small_disk.clear()
    file.settle()

    assert lines_in(small_disk.path / "r.jsonl") == 14, "four on the disk, ten held back"
    assert file.lost == {small_disk.full: 26}


@pytest.mark.parametrize("how", ["deleted", "replaced", "file deleted"])
def test_lines_of_a_folder_that_is_gone_are_lost_and_it_is_not_made_again(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file = log_in(folder)
    file.append(LINE)
    if how == "file deleted":
        (folder / "r.jsonl").unlink()
    else:
        shutil.rmtree(folder)
    if how == "replaced":
        folder.mkdir()

    file.append(LINE)
    file.settle()

    why = {
        "deleted": "the run folder was deleted",
        "replaced": "another folder has taken the run folder's place",
        "file deleted": "the file was deleted or replaced",
    }
    assert file.lost == {why[how]: 2}
    assert not list(tmp_path.rglob("r.jsonl"))


def test_a_folder_that_is_moved_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    file = folder.appended("r.jsonl", what="lines", header=b"")
    file.append(LINE)
    (tmp_path / "run").rename(tmp_path / "other")

    folder.look()
    file.append(LINE)
    folder.write("summary.json", {"a": 1})
    folder.settle()

    assert folder.path == tmp_path / "other"
    assert lines_in(tmp_path / "other" / "r.jsonl") == 2
    assert folder.read("summary.json") == {"a": 1}
    assert not (tmp_path / "run").exists()
    assert not file.lost
    assert caplog.messages == [f"the run folder {tmp_path / 'run'} was moved to {tmp_path / 'other'}"]


def test_lines_that_somebody_cuts_off_are_counted(tmp_path: Path) -> None:
    file = log_in(tmp_path)
    for _ in range(5):
        file.append(LINE)
    os.truncate(tmp_path / "r.jsonl", 2 * len(LINE) + 7)

    file.settle()

    assert file.lost == {"it was cut": 3}


def test_the_last_descriptors_are_kept_for_the_runs_own_files(tmp_path: Path, few_descriptors: list[int]) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    with suppress(OSError):
        while True:
            few_descriptors.append(os.open(os.devnull, os.O_RDONLY))
    with pytest.raises(OSError, match="Too many open files"):
        (tmp_path / "another").touch()

    for number in range(20):
        folder.write("manifest.json", {"number": number})
    folder.append_users(1.0, 2)

    assert not folder.faults.unwritten
    free(few_descriptors)
    assert (tmp_path / "run" / "users.csv").read_text() == "unix_s,users\n1.000,2\n"


def test_a_summary_waits_for_room_and_says_when_there_is_none(small_disk: SmallDisk) -> None:
    folder = RunFolder(small_disk.path)
    folder.create()
    small_disk.leave(0)

    assert not folder.keep("summary.json", {"a": 1}, patience_s=0.1)
    assert folder.faults.unwritten == {"summary.json": small_disk.full}
    assert not (small_disk.path / "summary.tmp").exists(), "a part of it takes no room"
    small_disk.clear()
    assert folder.keep("summary.json", {"a": 1})
    assert not folder.faults.unwritten


def test_the_verdict_counts_lines_and_names_files() -> None:
    totals = RunTotals(completed=9, failed=1)
    totals.lost_lines.update({"No space left on device": 3, "Input/output error": 1})

    lost, unwritten = write_reasons(totals, {"users.csv": "Read-only file system"})

    assert (lost.level, unwritten.level) == (Level.INVALID, Level.DEGRADED)
    assert lost.text == (
        "4 of 10 request lines could not be written: No space left on device (3); Input/output error (1)"
    )
    assert unwritten.text == "not written, or not whole: users.csv (Read-only file system)"
    assert not marks(unwritten), "no figure is in doubt for it"
    assert not list(write_reasons(RunTotals(completed=1), {}))
