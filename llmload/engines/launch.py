"""Starting an engine, or any other process, so that it can be watched, read and stopped whole."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from llmload.engines import guard

GUARD_MARGIN_S: Final = 45.0
"""What a guard may take beyond the grace time: a stop command, and killed processes that the kernel still holds."""
TAIL_BYTES: Final = 16_384


class Launched:
    """A process with everything that it starts, under a guard of its own; leaving its context stops it."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, log_start: int, grace_s: float) -> None:
        self.log = log
        self._guard, self._log_start, self._grace_s = process, log_start, grace_s

    @property
    def guard_pid(self) -> int:
        """The process id of the guard; whatever was started stands below it."""
        return self._guard.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128 and the signal's number for a process that was killed; None while it runs."""
        return self._guard.poll()

    def end_text(self) -> str | None:
        """Return how it ended, for a sentence; None while it runs."""
        code = self.exit_code
        if code is None:
            return None
        if code == guard.NOT_STARTED:
            return "could not be started"
        number = -code if code < 0 else code - guard.KILLED
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(number).name}"
        return f"ended with exit code {code}"

    def last_lines(self, count: int = 10) -> list[str]:
        """Return the last lines that it wrote to its log, without what stood there before its start."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
            return [line.rstrip() for line in lines if line.strip()][-count:]
        return []

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if the time was not enough."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout_s)
            return True
        return False

    def stop(self) -> None:
        """
        End it and everything that it started: asked first, killed after the grace time.

        A KeyboardInterrupt meanwhile cuts the grace time short and is raised when all is gone.
        """
        if self._guard.stdin is not None:
            self._guard.stdin.close()  # the guard's sign
        interrupted: KeyboardInterrupt | None = None
        deadline = time.monotonic() + self._grace_s + GUARD_MARGIN_S
        while self.exit_code is None and time.monotonic() < deadline:
            try:
                self.wait(0.2)
            except KeyboardInterrupt as error:
                interrupted = error
                for _ in range(2):
                    self._guard.terminate()
                    time.sleep(0.05)
        if self.exit_code is None:
            self._guard.kill()
            self._guard.wait()
        if interrupted is not None:
            raise interrupted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def launch(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    grace_s: float = 30.0,
    stop_command: Sequence[str] = (),
) -> Launched:
    """
    Start the command in a session of its own, what it writes appended to the log.

    It is stopped when this process ends, in whatever way. `env` is laid over this process's environment; `grace_s` is
    the time between SIGTERM and SIGKILL. A command that cannot be started ends at once with exit code 127, its reason
    in the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Isolated, and by its file: what `env` says to a Python is for the command, not for its guard.
    guarding = [sys.executable, "-I", guard.__file__, "--grace-s", f"{grace_s:g}"]
    if stop_command:
        guarding += ["--stop-command", json.dumps(list(stop_command))]
    with log.open("ab") as out:
        log_start = out.seek(0, os.SEEK_END)
        process = subprocess.Popen(  # noqa: S603 - the user's own command
            [*guarding, "--", *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        return Launched(process, log, log_start, grace_s)
