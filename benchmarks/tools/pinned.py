"""A program pinned to one core, and the CPU time and memory that it used."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from resource import struct_rusage
from typing import Final

from click import ClickException

POLL_S: Final = 0.1
LINGER_S: Final = 5.0
"""How long a program's children may outlive it."""
PR_SET_CHILD_SUBREAPER: Final = 36
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
OUTPUT: Final = "output.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySample:
    """The resident memory of the process at a moment of CLOCK_MONOTONIC."""

    at_ns: int
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a program and its children used."""

    exit_code: int
    cpu_s: float
    kernel_s: float
    """The part in the kernel."""
    wall_s: float
    memory: tuple[MemorySample, ...]
    output: Path

    @property
    def peak_rss_bytes(self) -> int:
        """Peak resident memory of the process, without children."""
        return max((sample.rss_bytes for sample in self.memory), default=0)


def adopt_orphans() -> None:
    """Become the parent of orphaned processes, so that their usage can be counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def run_pinned(
    command: Sequence[str],
    *,
    cpu: int,
    folder: Path,
    environment: Mapping[str, str],
    timeout_s: float,
    meanwhile: Callable[[int], None] | None = None,
) -> Usage:
    """
    Run the program in `folder` on one core, its output in `OUTPUT`; ClickException if it takes too long.

    `meanwhile` is called with its process id every tenth of a second while it runs.
    """
    output = folder / OUTPUT
    started_s = time.monotonic()
    with output.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )
    group = _Group(process)
    while group.lives():
        if time.monotonic() - started_s > timeout_s:
            group.kill()
            raise ClickException(f"{command[0]} did not end within {timeout_s:.0f} s\n{last_lines(output)}")
        if meanwhile is not None and process.returncode is None:
            meanwhile(process.pid)
        time.sleep(POLL_S)
    return Usage(
        exit_code=process.returncode,
        cpu_s=group.cpu_s,
        kernel_s=group.kernel_s,
        wall_s=time.monotonic() - started_s,
        memory=tuple(group.memory),
        output=output,
    )


class _Group:
    """A program and its children, as one process group. Popen.wait would discard their usage."""

    def __init__(self, leader: "subprocess.Popen[bytes]") -> None:
        self.cpu_s = self.kernel_s = 0.0
        self.memory: list[MemorySample] = []
        self._leader = leader
        self._ended_s: float | None = None

    def lives(self) -> bool:
        """Count ended processes, kill children that outlive the program for long; return whether any is left."""
        try:
            while (ended := os.wait4(-self._leader.pid, os.WNOHANG))[0]:
                self._count(*ended)
        except ChildProcessError:
            return False
        if self._ended_s is None:
            self.memory += _sample(self._leader.pid)
        elif time.monotonic() - self._ended_s > LINGER_S:
            self._kill()
        return True

    def kill(self) -> None:
        """Kill all of them."""
        self._kill()
        while self.lives():
            time.sleep(POLL_S)

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._leader.pid, signal.SIGKILL)

    def _count(self, pid: int, status: int, used: struct_rusage) -> None:
        self.cpu_s += used.ru_utime + used.ru_stime
        self.kernel_s += used.ru_stime
        if pid == self._leader.pid:
            self._leader.returncode = os.waitstatus_to_exitcode(status)
            self._ended_s = time.monotonic()


def last_lines(output: Path, lines: int = 15) -> str:
    """Return the last lines of an output."""
    return "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _sample(pid: int) -> list[MemorySample]:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):  # it has ended since
        return []
    return [MemorySample(at_ns=time.monotonic_ns(), rss_bytes=pages * PAGE_BYTES)]
