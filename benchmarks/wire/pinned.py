"""A program held to one core, and what it used."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from click import ClickException

POLL_S: Final = 0.1
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySample:
    """The resident memory of the process at a moment of CLOCK_MONOTONIC."""

    at_ns: int
    rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a program used, with the children that it waited for."""

    exit_code: int
    cpu_s: float
    wall_s: float
    memory: tuple[MemorySample, ...]
    output: Path

    @property
    def peak_rss_bytes(self) -> int:
        """The most resident memory of the process, without children."""
        return max((sample.rss_bytes for sample in self.memory), default=0)


def run_pinned(
    command: Sequence[str], *, cpu: int, folder: Path, environment: Mapping[str, str], timeout_s: float
) -> Usage:
    """Run the program in `folder` on one core, its output in `output.txt`; ClickException if it takes too long."""
    output = folder / "output.txt"
    started_s = time.monotonic()
    memory: list[MemorySample] = []
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
        while True:
            # Popen.wait would throw the child's usage away.
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - started_s > timeout_s:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise ClickException(f"{command[0]} was not done in {timeout_s:.0f} s\n{last_lines(output)}")
            memory += _sample(process.pid)
            time.sleep(POLL_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(
        exit_code=process.returncode,
        cpu_s=used.ru_utime + used.ru_stime,
        wall_s=time.monotonic() - started_s,
        memory=tuple(memory),
        output=output,
    )


def last_lines(output: Path, lines: int = 15) -> str:
    """Return how an output ends."""
    return "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _sample(pid: int) -> list[MemorySample]:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):  # it has ended since
        return []
    return [MemorySample(at_ns=time.monotonic_ns(), rss_bytes=pages * PAGE_BYTES)]
