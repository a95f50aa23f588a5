"""Locust in a fork of a process that has done its imports."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

from gevent.monkey import get_original

ROOT = Path(__file__).parents[2]
close = get_original("os", "close")
"""Gevent's own waits for its loop, and the other end for an end of file."""


class Forked:
    """
    A Locust process, with what a test needs of `subprocess.Popen`; it leads a separate session.

    It is waited for with `select`, so that greenlets run meanwhile where gevent has patched this process.
    """

    def __init__(self, out: int, err: int, said: int) -> None:
        self.stdout = os.fdopen(out, "rb", buffering=0)
        self.stderr = os.fdopen(err, "rb", buffering=0)
        self._said = os.fdopen(said, "rb", buffering=0)
        self.pid = int(self._said.readline())
        self.returncode: int | None = None
        self._texts = {out: b"", err: b""}
        self._open = {out, err}

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        if self.returncode is None and select.select([self._said], [], [], 0)[0]:
            self.returncode = int(self._said.readline() or -1)  # nothing is said by a zygote that is gone
            self._said.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            select.select([self._said], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("locust", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it wrote to stdout and stderr and was not read yet; raises `subprocess.TimeoutExpired`."""
        end_s = None if timeout is None else time.monotonic() + timeout
        while self._open:
            left_s = None if end_s is None else max(end_s - time.monotonic(), 0)
            ready, _, _ = select.select(list(self._open), [], [], left_s)
            if not ready:
                raise subprocess.TimeoutExpired("locust", timeout or 0)
            for descriptor in ready:
                piece = os.read(descriptor, 1 << 16)
                self._texts[descriptor] += piece
                if not piece:
                    self._open.remove(descriptor)
        self.wait(None if end_s is None else max(end_s - time.monotonic(), 0))
        self.stdout.close()
        self.stderr.close()
        out, err = (text.decode(errors="replace") for text in self._texts.values())
        return out, err


class Zygote:
    """Starts Locust in forks of a process that has done its imports."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, str(Path(__file__).with_name("zygote.py")), str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()

    def start(self, arguments: list[str], env: dict[str, str], limits: dict[str, int] | None = None) -> Forked:
        """Start Locust; `limits` are of the process's resources, by their names in `resource`."""
        (out, their_out), (err, their_err), (said, their_said) = os.pipe(), os.pipe(), os.pipe()
        request = {"arguments": arguments, "cwd": str(ROOT), "env": env, "limits": limits or {}}
        descriptors = [their_out, their_err, their_said]
        socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
        for descriptor in descriptors:
            close(descriptor)
        return Forked(out, err, said)

    def end(self) -> None:
        """Let the zygote end: it has no requester any more."""
        self._process.terminate()
        self._process.wait()
        self._control.close()
