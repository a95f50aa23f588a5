"""
A process that starts a command and ends it with everything it started, so that nothing outlives the calling program.

    python -m llmload.suite.guard --grace-s 30 [--stop-command '["docker", "stop", "NAME"]'] -- COMMAND...

Its standard input is a pipe from the calling program. When the pipe closes, because the program closes it or was
killed, or at a SIGTERM, the guard ends the command: it runs the stop command if there is one, sends SIGTERM to the
command, then to all its descendants, and SIGKILL to what is left after the grace time. A second SIGTERM cuts the grace
time short. The guard is a subreaper: it adopts orphans of the command, so that a process that left the process group is
found too. Its exit code is the command's, 128 plus the signal's number if it was killed, 127 if it did not start.

Beside the standard library only one small module is imported, so that a guard starts within a few hundredths of a
second.
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

from llmload.parent import signal_at_end_of

PR_SET_CHILD_SUBREAPER: Final = 36
POLL_S: Final = 0.1
NOT_STARTED: Final = 127
KILLED: Final = 128
LEFT_WAIT_S: Final = 5.0
"""Time for the command's descendants to end by themselves before they get SIGTERM."""
STOPPED_WAIT_S: Final = 5.0
"""Time for the command to end after the stop command has ended."""
KILL_WAIT_S: Final = 10.0
"""Time for killed processes to go: one that waits for a disk or a GPU driver stays for a while."""


class Guard:
    """One command and its descendants."""

    def __init__(self, command: Sequence[str], *, grace_s: float, stop_command: Sequence[str] = ()) -> None:
        self._command, self._grace_s, self._stop_command = list(command), grace_s, list(stop_command)
        self._stop_requests = 0
        self._status: int | None = None
        self._pid = 0

    def run(self) -> int:
        """Start the command, wait until it ends or is to be stopped, end all descendants; return its exit code."""
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling program handles Ctrl-C
        signal.signal(signal.SIGTERM, self._on_term)
        guard = os.getpid()
        try:
            child = subprocess.Popen(  # noqa: S603 - the user's own command
                self._command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=lambda: signal_at_end_of(guard, signal.SIGTERM),
            )
        except OSError as error:
            sys.stderr.write(f"llmload: cannot start {self._command[0]}: {error.strerror or error}\n")
            return NOT_STARTED
        self._pid = child.pid
        self._wait_for_stop_request()
        self._end()
        child.returncode = self._status if self._status is not None else KILLED  # reaped here, not by Popen
        if self._status is None:
            return KILLED + signal.SIGKILL
        code = os.waitstatus_to_exitcode(self._status)
        return KILLED - code if code < 0 else code

    def _on_term(self, *_: object) -> None:
        self._stop_requests += 1

    def _wait_for_stop_request(self) -> None:
        pipe: list[int] = [sys.stdin.fileno()]
        while not self._stop_requests and self._status is None:
            readable, _, _ = select.select(pipe, [], [], POLL_S)
            if readable and not os.read(pipe[0], 4096):
                self._stop_requests = 1
            self._reap()

    def _end(self) -> None:
        if self._stop_command and self._status is None:
            self._run_stop_command()
            self._wait_until_gone(min(self._grace_s, STOPPED_WAIT_S))
        deadline = time.monotonic() + self._grace_s
        self._terminate_command(deadline)
        for pid in _descendants():  # in its process group or not
            _send(pid, signal.SIGTERM)
        self._wait_until_gone(deadline - time.monotonic())
        deadline = time.monotonic() + KILL_WAIT_S
        while not self._gone() and time.monotonic() < deadline:
            for pid in _descendants():
                _send(pid, signal.SIGKILL)
            time.sleep(POLL_S / 2)

    def _terminate_command(self, deadline: float) -> None:
        """Let the command end its own workers: an engine whose workers are terminated reports a crash."""
        if self._status is None:
            _send(self._pid, signal.SIGTERM)
        half_s = (deadline - time.monotonic()) / 2
        ends = time.monotonic() + half_s
        while self._stop_requests < 2 and self._status is None and time.monotonic() < ends:
            self._reap()
            time.sleep(POLL_S / 2)
        self._wait_until_gone(min(half_s, LEFT_WAIT_S))

    def _wait_until_gone(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._stop_requests < 2 and time.monotonic() < deadline and not self._gone():
            time.sleep(POLL_S / 2)

    def _run_stop_command(self) -> None:
        try:
            stopping = subprocess.Popen(self._stop_command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603 - llmload's own command
        except OSError as error:
            sys.stderr.write(f"llmload: cannot run {self._stop_command[0]}: {error.strerror or error}\n")
            return
        deadline = time.monotonic() + self._grace_s
        while self._stop_requests < 2 and time.monotonic() < deadline and stopping.pid in _descendants():
            self._reap()
            time.sleep(POLL_S / 2)
        stopping.returncode = 0  # reaped here, whatever its status

    def _gone(self) -> bool:
        self._reap()
        return not _descendants()

    def _reap(self) -> None:
        """Reap every child that has ended: the command and adopted orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                self._status = status


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _descendants() -> set[int]:
    """Return every process below this one that has not ended."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # the name in brackets may contain anything, so fields are counted from its end: state, parent
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
    """Guard the command of the arguments; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m llmload.suite.guard", allow_abbrev=False)
    parser.add_argument("--grace-s", type=float, default=30.0)
    parser.add_argument("--stop-command", type=json.loads, default=[])
    parser.add_argument("command", nargs="+")
    given = parser.parse_args(arguments)
    return Guard(given.command, grace_s=given.grace_s, stop_command=given.stop_command).run()


if __name__ == "__main__":
    sys.exit(main())
