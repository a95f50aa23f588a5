"""A deployment's life: started, waited for, asked who it is, stopped, its memory free again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from llmload.client.engine_info import EngineInfo, ask_engine, is_ready
from llmload.errors import EngineError
from llmload.loadgen.command import free_port
from llmload.sizing.gpus import LocalGpu, local_gpus
from llmload.suite import guard
from llmload.suite.plan import HOST, DeploymentPlan

# Starting an engine, or any other process, so that it can be watched, read and stopped whole.

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


POLL_S: Final = 0.2
FREED_TIMEOUT_S: Final = 60.0
FREED_WITHIN_GIB: Final = 0.5


class RunningDeployment:
    """An engine that answers, and what it says of itself."""

    def __init__(self, url: str, process: Launched | None, answers: EngineInfo, command: str | None) -> None:
        self.url, self.process, self.answers, self.command = url, process, answers, command

    def end_text(self) -> str | None:
        """Return how it ended, with its log's last lines; None while it runs or where it is not ours."""
        if self.process is None or (ended := self.process.end_text()) is None:
            return None
        return f"the engine {ended}{quoted(self.process)}"


@contextmanager
def deployed(plan: DeploymentPlan, log: Path) -> Iterator[RunningDeployment]:
    """
    Start the deployment, yield it when it answers and is what it should be, stop it whole.

    EngineError says why not, with the last lines of its log.
    """
    if plan.entry.kind == "running":
        url = str(plan.entry.url)
        _wait_until_ready(plan, url, None)
        yield RunningDeployment(url, None, _asked(plan, url), None)
        return
    port = _port(plan)
    url, command = f"http://{HOST}:{port}", plan.start_command(port)
    _remove_container(plan)
    with launch(command, log=log, env=plan.env, grace_s=plan.grace_s, stop_command=plan.stop_command) as process:
        _wait_until_ready(plan, url, process)
        yield RunningDeployment(url, process, _asked(plan, url), plan.shown_command(port))


def quoted(process: Launched) -> str:
    """Return the last lines of a process's log for the end of a sentence, and where the rest is."""
    lines = process.last_lines()
    if not lines:
        return f"; its log is empty: {process.log}"
    return f"; the last lines of {process.log}:\n" + "\n".join(f"    {line}" for line in lines)


def wait_until_freed(
    before: Sequence[LocalGpu], *, timeout_s: float = FREED_TIMEOUT_S, read: Callable[[], list[LocalGpu]] = local_gpus
) -> bool:
    """Wait until the GPUs hold no more than before, as far as NVML is there; False if the time was not enough."""
    if not before:
        return True
    limit_gib = {gpu.index: gpu.used_gib + FREED_WITHIN_GIB for gpu in before}
    deadline = time.monotonic() + timeout_s
    while any(gpu.used_gib > limit_gib.get(gpu.index, gpu.total_gib) for gpu in read()):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _port(plan: DeploymentPlan) -> int:
    if plan.entry.port is None:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, plan.entry.port))
        except OSError as error:
            raise EngineError(
                f"engines.{plan.engine}.port: {plan.entry.port} cannot be had: {error.strerror}"
            ) from None
    return plan.entry.port


def _remove_container(plan: DeploymentPlan) -> None:
    """Remove what an earlier start left behind whose guard was killed too."""
    if plan.entry.kind == "docker":
        command = ["docker", "rm", "--force", plan.container]
        try:
            subprocess.run(command, capture_output=True, check=False, timeout=60)  # noqa: S603 - our own command
        except OSError as error:
            raise EngineError(f"docker cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise EngineError("docker does not answer (docker rm took more than 60 s)") from None


def _wait_until_ready(plan: DeploymentPlan, url: str, process: Launched | None) -> None:
    started, timeout_s = time.monotonic(), plan.entry.ready_timeout_s
    engine = plan.cells[0].scenario.engine
    api_key = plan.cells[0].scenario.api_key()
    while True:
        if process is not None and (ended := process.end_text()) is not None:
            raise EngineError(f"the engine {ended} before it answered{quoted(process)}")
        if is_ready(url, api_key=api_key, ca_file=engine.ca_file, verify_tls=engine.verify_tls):
            return
        if time.monotonic() - started >= timeout_s:
            text = f"nothing ready answered at {url} within {timeout_s:g} s"
            raise EngineError(text + (quoted(process) if process is not None else ""))
        time.sleep(POLL_S)


def _asked(plan: DeploymentPlan, url: str) -> EngineInfo:
    engine = plan.cells[0].scenario.engine
    found = ask_engine(
        url, api_key=plan.cells[0].scenario.api_key(), ca_file=engine.ca_file, verify_tls=engine.verify_tls
    )
    complaint = mismatch(plan, found)
    if complaint is not None:
        raise EngineError(f"the engine at {url} {complaint}")
    return found


def mismatch(plan: DeploymentPlan, found: EngineInfo) -> str | None:
    """Return how an engine is not what the plan says; None where it is, or says nothing about it."""
    wanted = plan.entry.version
    if wanted is not None and found.version is not None and found.version.removeprefix("v") != wanted.removeprefix("v"):
        return f"says that its version is {found.version}, not {wanted} (engines.{plan.engine}.version)"
    if found.models:
        return None if plan.served_as in found.models else f"serves {', '.join(found.models)}, not {plan.served_as!r}"
    if found.loaded is not None and found.loaded not in {plan.loaded, plan.served_as}:
        return f"has loaded {found.loaded}, not {plan.loaded!r}"
    return None
