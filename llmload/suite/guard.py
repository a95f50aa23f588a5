"""
A process that starts another and sees to its end, so that nothing outlives the program that asked for it.

    python -m llmload.suite.guard --grace-s 30 [--stop-command '["docker", "stop", "NAME"]'] -- COMMAND...

Its standard input is a pipe whose other end the asking program holds. When that closes, because the program wants it
or because it was killed, or at a SIGTERM, the guard ends the command: the stop command where there is one, SIGTERM to
it, then to its whole process group and whatever else it started, SIGKILL to what is left after the grace time. A second
SIGTERM cuts the grace short. It adopts what its children leave behind, so that a process that left the group is found
as well. Its exit code is the command's, 128 more than the signal for one that was killed, 127 for one that could not be
started.

Only the standard library is imported: a guard is there in a few hundredths of a second.
"""

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PERIOD_S: Final = 0.1
NOT_STARTED: Final = 127
KILLED: Final = 128
LEFT_WAIT_S: Final = 5.0
"""How long what a command has started may outlive it before it is asked too."""
STOPPED_WAIT_S: Final = 5.0
"""How long a command may take to notice that the stop command has done its work."""
KILL_WAIT_S: Final = 10.0
"""How long a killed process may take to go: one that waits for a disk or a GPU's driver does not go at once."""


class Guard:
    """One command and everything that it starts."""

    def __init__(self, command: Sequence[str], *, grace_s: float, stop_command: Sequence[str] = ()) -> None:
        self._command, self._grace_s, self._stop_command = list(command), grace_s, list(stop_command)
        self._asked = 0
        self._status: int | None = None
        self._pid = 0

    def run(self) -> int:
        """Start the command, wait until it ends or its end is asked for, leave nothing behind; return its exit code."""
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the asking program to answer
        signal.signal(signal.SIGTERM, self._on_term)
        guard = os.getpid()
        try:
            child = subprocess.Popen(  # noqa: S603 - the user's own command
                self._command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: _end_with(guard),
            )
        except OSError as error:
            sys.stderr.write(f"llmload: cannot start {self._command[0]}: {error.strerror or error}\n")
            return NOT_STARTED
        self._pid = child.pid
        self._wait_until_asked()
        self._end()
        child.returncode = self._status if self._status is not None else KILLED  # it was reaped here, not by Popen
        if self._status is None:
            return KILLED + signal.SIGKILL
        code = os.waitstatus_to_exitcode(self._status)
        return KILLED - code if code < 0 else code

    def _on_term(self, *_: object) -> None:
        self._asked += 1

    def _wait_until_asked(self) -> None:
        pipe: list[int] = [sys.stdin.fileno()]
        while not self._asked and self._status is None:
            readable, _, _ = select.select(pipe, [], [], PERIOD_S)
            if readable and not os.read(pipe[0], 4096):
                self._asked = 1
            self._reap()

    def _end(self) -> None:
        if self._stop_command and self._status is None:
            self._run_stop_command()
            self._wait_until_gone(min(self._grace_s, STOPPED_WAIT_S))
        deadline = time.monotonic() + self._grace_s
        self._ask_the_command(deadline)
        for pid in _descendants():  # the rest of its process group, and who has left it
            _send(pid, signal.SIGTERM)
        self._wait_until_gone(deadline - time.monotonic())
        deadline = time.monotonic() + KILL_WAIT_S
        while not self._gone() and time.monotonic() < deadline:
            for pid in _descendants():
                _send(pid, signal.SIGKILL)
            time.sleep(PERIOD_S / 2)

    def _ask_the_command(self, deadline: float) -> None:
        """Let it end its own: an engine whose workers are ended for it takes that for a crash."""
        if self._status is None:
            _send(self._pid, signal.SIGTERM)
        half_s = (deadline - time.monotonic()) / 2
        ends = time.monotonic() + half_s
        while self._asked < 2 and self._status is None and time.monotonic() < ends:
            self._reap()
            time.sleep(PERIOD_S / 2)
        self._wait_until_gone(min(half_s, LEFT_WAIT_S))

    def _wait_until_gone(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._asked < 2 and time.monotonic() < deadline and not self._gone():
            time.sleep(PERIOD_S / 2)

    def _run_stop_command(self) -> None:
        try:
            stopping = subprocess.Popen(self._stop_command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603 - llmload's own command
        except OSError as error:
            sys.stderr.write(f"llmload: cannot run {self._stop_command[0]}: {error.strerror or error}\n")
            return
        deadline = time.monotonic() + self._grace_s
        while self._asked < 2 and time.monotonic() < deadline and stopping.pid in _descendants():
            self._reap()
            time.sleep(PERIOD_S / 2)
        stopping.returncode = 0  # reaped here, whatever it was

    def _gone(self) -> bool:
        self._reap()
        return not _descendants()

    def _reap(self) -> None:
        """Take in every child that has ended, the command and what it left to this process."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._status = status


def _end_with(guard: int) -> None:
    """In the child: have the kernel send SIGTERM should the guard itself be killed."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != guard:
        os.kill(os.getpid(), signal.SIGTERM)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _descendants() -> set[int]:
    """Return every process below this one that has not ended."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # the name in brackets may hold anything, so fields count from its end: state, parent
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found: set[int] = set()
    left = [os.getpid()]
    while left:
        below = set(children.get(left.pop(), ())) - found
        found |= below
        left += below
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Guard the command that the arguments name; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m llmload.suite.guard", allow_abbrev=False)
    parser.add_argument("--grace-s", type=float, default=30.0)
    parser.add_argument("--stop-command", type=json.loads, default=[])
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(arguments)
    return Guard(asked.command, grace_s=asked.grace_s, stop_command=asked.stop_command).run()


if __name__ == "__main__":
    sys.exit(main())
