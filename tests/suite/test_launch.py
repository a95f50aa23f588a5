"""A started process can be watched and stopped with its descendants, and never outlives the program that started it."""

import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from llmload.access.secrecy import Access
from llmload.suite.launch import GuardedProcess, launch

MARK = "3141.5926"
"""A duration of `sleep` that no other process uses."""


def sleepers(mark: str) -> list[int]:
    """Every `sleep MARK` on this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"sleep") and mark.encode() in words:
            found.append(int(entry.name))
    return found


def until(true: Callable[[], object], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    return f"{MARK}{abs(hash(request.node.name)) % 10**6}{os.getpid()}"


def test_the_end_of_a_process_is_described_with_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    for _ in range(2):
        with launch(["sh", "-c", "echo one; echo two >&2; exit 3"], log=log) as process:
            assert process.wait(20)

    assert process.describe_end() == "ended with exit code 3"
    assert process.last_lines() == ["one", "two"], "of this start, not of the one before"
    assert log.read_text() == "one\ntwo\n" * 2


@pytest.mark.parametrize(
    ("command", "text"),
    [(["sh", "-c", "kill -9 $$"], "was killed by SIGKILL"), (["/no/such/engine"], "could not be started")],
)
def test_death_by_a_signal_and_a_failed_start_are_different_ends(tmp_path: Path, command: list[str], text: str) -> None:
    with launch(command, log=tmp_path / "x.log") as process:
        assert process.wait(20)

    assert process.describe_end() == text


def test_a_key_that_an_engine_writes_is_neither_in_its_log_nor_in_an_excerpt(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    secrets = Access(secret_headers={"HF_TOKEN": "hf_hunter2hunter2"}).secrets()
    encoded = b64encode(b"Bearer hf_hunter2hunter2").decode()
    log.write_text("before: hf_hunter2hunter2\n")
    said = f"key hf_hunter2hunter2\n\033[31m{encoded}\npart hf_hunter2hu"

    with launch(["printf", said], log=log, secrets=secrets) as process:
        process.wait(20)
        assert process.last_lines()[:2] == ["key ***", "\\x1b[31mQmVhcmVyIG***"]
        assert process.last_lines()[2] == "part ***"
        size = log.stat().st_size

    assert log.stat().st_size == size
    begin, key, coded, part = log.read_text().splitlines()
    assert begin == "before: hf_hunter2hunter2", "not of this process"
    assert key == f"key {'*' * 17}"
    assert "*" * 20 in coded
    assert part == "part hf_hunter2hu"


def test_a_missing_command_is_named_in_the_log(tmp_path: Path) -> None:
    with launch(["/no/such/engine"], log=tmp_path / "x.log") as process:
        assert process.wait(20)

    assert process.last_lines() == ["llmload: cannot start /no/such/engine: No such file or directory"]


def test_the_environment_applies_to_the_command_and_not_to_its_guard(tmp_path: Path) -> None:
    with launch(["sh", "-c", "echo $PYTHONHOME"], log=tmp_path / "x.log", env={"PYTHONHOME": "/nowhere"}) as process:
        assert process.wait(20)

    assert process.last_lines() == ["/nowhere"]


def test_a_stop_ends_processes_outside_the_group_and_those_that_ignore_sigterm(tmp_path: Path, mark: str) -> None:
    stubborn = f"trap '' TERM; setsid sleep {mark} & sleep {mark}; sleep {mark}"
    process = launch(["sh", "-c", stubborn], log=tmp_path / "x.log", grace_s=0.3)
    assert until(lambda: len(sleepers(mark)) == 2)

    process.stop()

    assert sleepers(mark) == []
    assert process.describe_end() == "was killed by SIGKILL"


def test_an_engine_that_handles_sigterm_has_the_grace_time(tmp_path: Path) -> None:
    polite = "trap 'sleep 0.3; echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    process = launch(["sh", "-c", polite], log=tmp_path / "x.log", grace_s=20)
    assert until(process.last_lines)

    process.stop()

    assert (process.describe_end(), process.last_lines()[-1]) == ("ended with exit code 0", "bye")


def test_orphans_of_a_dead_engine_are_ended_too(tmp_path: Path, mark: str) -> None:
    with launch(["sh", "-c", f"sleep {mark} & exit 1"], log=tmp_path / "x.log", grace_s=1) as process:
        assert process.wait(20)

    assert process.describe_end() == "ended with exit code 1"
    assert sleepers(mark) == []


def start_elsewhere(log: Path, mark: str) -> "subprocess.Popen[bytes]":
    program = (
        "import sys, time; from pathlib import Path; from llmload.suite.launch import launch\n"
        f"launch(['sh', '-c', 'setsid sleep {mark} & sleep {mark}; echo'], log=Path(sys.argv[1]), grace_s=1)\n"
        "time.sleep(600)"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(log)])


def test_nothing_outlives_a_program_that_is_killed(tmp_path: Path, mark: str) -> None:
    starter = start_elsewhere(tmp_path / "x.log", mark)
    assert until(lambda: len(sleepers(mark)) == 2)

    starter.kill()
    starter.wait()

    assert until(lambda: not sleepers(mark))


def test_an_engine_gets_sigterm_when_its_guard_is_killed(tmp_path: Path, mark: str) -> None:
    process = launch(["sleep", mark], log=tmp_path / "x.log")
    assert until(lambda: sleepers(mark))

    os.kill(process.guard_pid, signal.SIGKILL)

    assert until(lambda: not sleepers(mark))
    process.stop()
    assert process.describe_end() == "was killed by SIGKILL"


def test_a_ctrl_c_while_it_stops_cuts_the_grace_time_short(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = launch(["sh", "-c", f"trap '' TERM; sleep {mark}; sleep {mark}"], log=tmp_path / "x.log", grace_s=600)
    assert until(lambda: sleepers(mark))
    waits = iter([KeyboardInterrupt()])
    really = GuardedProcess.wait

    def interrupted_once(self: GuardedProcess, timeout_s: float) -> bool:
        for interrupt in waits:
            raise interrupt
        return really(self, timeout_s)

    monkeypatch.setattr(GuardedProcess, "wait", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        process.stop()

    assert sleepers(mark) == []


def test_the_stop_command_runs_before_the_signals(tmp_path: Path) -> None:
    up, asked = tmp_path / "up", tmp_path / "asked"
    command = ["sh", "-c", f"touch {up}; while [ ! -e {asked} ]; do sleep 0.05; done; echo stopped by command"]
    process = launch(command, log=tmp_path / "x.log", grace_s=20, stop_command=["touch", str(asked)])
    assert until(up.exists)

    process.stop()

    assert process.describe_end() == "ended with exit code 0"
    assert process.last_lines() == ["stopped by command"]
