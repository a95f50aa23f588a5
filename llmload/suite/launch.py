"""Starts a process under a guard; starts an engine, waits until it is ready, checks its identity, stops it."""

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from llmload.access.secrecy import hidden
from llmload.client.said import cut, listed
from llmload.client.settings import EngineInfo, ask_engine, is_ready
from llmload.errors import EngineError, plain
from llmload.scenario.reading import free_port
from llmload.sizing.cards import LocalGpu, local_gpus
from llmload.suite import guard
from llmload.suite.plan import HOST, DeploymentPlan

GUARD_MARGIN_S: Final = 45.0
"""Time for a guard beyond the grace time: for its stop command, and for killed processes to go."""
TAIL_BYTES: Final = 16_384
MAX_LINE: Final = 500
SHORTEST_OVERWRITTEN: Final = 8
"""Characters; a shorter key may be a part of other words."""


class GuardedProcess:
    """A process and its descendants under a guard; leaving its context stops them."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", log: Path, log_start: int, grace_s: float, secrets: Sequence[str]
    ) -> None:
        self.log = log
        self._guard, self._log_start, self._grace_s, self._secrets = process, log_start, grace_s, secrets

    @property
    def guard_pid(self) -> int:
        """The process id of the guard, the ancestor of everything that was started."""
        return self._guard.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, 128 plus the signal's number if it was killed; None while it runs."""
        return self._guard.poll()

    def describe_end(self) -> str | None:
        """Return how it ended, as the end of a sentence; None while it runs."""
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
        """Return the last lines that it has written to its log since its start, plain and without keys."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - TAIL_BYTES))
            lines = file.read(TAIL_BYTES).decode(errors="replace").splitlines()
            return [plain(hidden(line.rstrip(), self._secrets))[:MAX_LINE] for line in lines if line.strip()][-count:]
        return []

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if it has not ended by then."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(timeout_s)
            return True
        return False

    def stop(self) -> None:
        """
        End it and its descendants: SIGTERM first, SIGKILL after the grace time.

        A KeyboardInterrupt meanwhile cuts the grace time short and is raised once all have ended.
        """
        if self._guard.stdin is not None:
            self._guard.stdin.close()  # tells the guard to stop
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
        with contextlib.suppress(OSError):
            overwrite(self.log, self._log_start, self._secrets)
        if interrupted is not None:
            raise interrupted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def overwrite(log: Path, start: int, secrets: Sequence[str]) -> None:
    """Replace every secret of a file by as many asterisks, from a position on; OSError if it cannot be written."""
    with log.open("r+b") as file:
        if file.seek(0, os.SEEK_END) <= start:
            return
        with mmap.mmap(file.fileno(), 0) as content:
            for secret in (each.encode() for each in secrets if len(each) >= SHORTEST_OVERWRITTEN):
                at = content.find(secret, start)
                while at >= 0:
                    content[at : at + len(secret)] = b"*" * len(secret)
                    at = content.find(secret, at + len(secret))


def launch(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    grace_s: float = 30.0,
    stop_command: Sequence[str] = (),
    secrets: Sequence[str] = (),
) -> GuardedProcess:
    """
    Start the command in a new session, with its output appended to the log.

    It is stopped when this process ends, even by SIGKILL. `env` is added to this process's environment; `grace_s` is
    the time between SIGTERM and SIGKILL. A command that cannot be started ends at once with exit code 127, its reason
    in the log. `secrets` that it writes are overwritten in the log at its end, and never in an excerpt.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Isolated and by its path: variables for Python in `env` are for the command, not for its guard.
    guard_command = [sys.executable, "-I", guard.__file__, "--grace-s", f"{grace_s:g}"]
    if stop_command:
        guard_command += ["--stop-command", json.dumps(list(stop_command))]
    with log.open("ab") as out:
        log_start = out.seek(0, os.SEEK_END)
        process = subprocess.Popen(  # noqa: S603 - the user's own command
            [*guard_command, "--", *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        return GuardedProcess(process, log, log_start, grace_s, secrets)


POLL_S: Final = 0.2
MEMORY_FREE_TIMEOUT_S: Final = 60.0
MEMORY_MARGIN_GIB: Final = 0.5


class RunningDeployment:
    """An engine that is ready, with the model and version that it reports."""

    def __init__(
        self,
        url: str,
        process: GuardedProcess | None,
        info: EngineInfo,
        command: str | None,
        secrets: Sequence[str] = (),
    ) -> None:
        self.url, self.process, self.info, self.command, self.secrets = url, process, info, command, secrets

    def describe_end(self) -> str | None:
        """Return how it ended, with its log's last lines; None while it runs or if the suite did not start it."""
        if self.process is None or (ended := self.process.describe_end()) is None:
            return None
        return f"the engine {ended}{log_excerpt(self.process)}"


@contextmanager
def deployed(plan: DeploymentPlan, log: Path) -> Iterator[RunningDeployment]:
    """
    Start the deployment, yield it once it is ready and checked, stop it with everything it started.

    EngineError has the reason and the last lines of the engine's log.
    """
    if plan.entry.kind == "running":
        url = str(plan.entry.url)
        _wait_until_ready(plan, url, None)
        yield RunningDeployment(url, None, _checked_info(plan, url), None, plan.access.secrets())
        return
    port = _port(plan)
    url, command = f"http://{HOST}:{port}", plan.start_command(port)
    _remove_container(plan)
    secrets, stop = plan.access.secrets(), plan.stop_command
    with launch(command, log=log, env=plan.env, grace_s=plan.grace_s, stop_command=stop, secrets=secrets) as process:
        _wait_until_ready(plan, url, process)
        yield RunningDeployment(url, process, _checked_info(plan, url), plan.shown_command(port), secrets)


def log_excerpt(process: GuardedProcess) -> str:
    """Return the last lines of a process's log and its path, as the end of a sentence."""
    lines = process.last_lines()
    if not lines:
        return f"; its log is empty: {process.log}"
    return f"; the last lines of {process.log}:\n" + "\n".join(f"    {line}" for line in lines)


def wait_until_memory_is_free(
    before: Sequence[LocalGpu],
    *,
    timeout_s: float = MEMORY_FREE_TIMEOUT_S,
    read: Callable[[], list[LocalGpu]] = local_gpus,
) -> bool:
    """Wait until no GPU has more memory in use than before, if NVML is available; False if one still has by then."""
    if not before:
        return True
    limit_gib = {gpu.index: gpu.used_gib + MEMORY_MARGIN_GIB for gpu in before}
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
                f"engines.{plan.engine}.port: {plan.entry.port} cannot be used: {error.strerror}"
            ) from None
    return plan.entry.port


def _remove_container(plan: DeploymentPlan) -> None:
    """Remove the container of an earlier start whose guard was killed too."""
    if plan.entry.kind == "docker":
        command = ["docker", "rm", "--force", plan.container]
        try:
            subprocess.run(command, capture_output=True, check=False, timeout=60)  # noqa: S603 - our own command
        except OSError as error:
            raise EngineError(f"docker cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise EngineError("docker does not answer (docker rm took more than 60 s)") from None


def _wait_until_ready(plan: DeploymentPlan, url: str, process: GuardedProcess | None) -> None:
    started, timeout_s = time.monotonic(), plan.entry.ready_timeout_s
    engine = plan.cells[0].scenario.engine
    access = plan.cells[0].scenario.access()
    while True:
        if process is not None and (ended := process.describe_end()) is not None:
            raise EngineError(f"the engine {ended} before it answered{log_excerpt(process)}")
        if is_ready(
            url,
            access=access,
            ca_file=engine.ca_file,
            verify_tls=engine.verify_tls,
            if_it_does_not_say=process is None,  # it runs already
        ):
            return
        if time.monotonic() - started >= timeout_s:
            text = f"no engine was ready at {url} within {timeout_s:g} s"
            raise EngineError(text + (log_excerpt(process) if process is not None else ""))
        time.sleep(POLL_S)


def _checked_info(plan: DeploymentPlan, url: str) -> EngineInfo:
    engine = plan.cells[0].scenario.engine
    found = ask_engine(
        url, access=plan.cells[0].scenario.access(), ca_file=engine.ca_file, verify_tls=engine.verify_tls
    )
    found = replace(found, hide=plan.access.hider())
    difference = describe_mismatch(plan, found)
    if difference is not None:
        raise EngineError(f"the engine at {url} {difference}")
    return found


def describe_mismatch(plan: DeploymentPlan, found: EngineInfo) -> str | None:
    """Return how an engine differs from the plan; None if it does not, or does not report it."""
    wanted = plan.entry.version
    if wanted is not None and found.version is not None and found.version.removeprefix("v") != wanted.removeprefix("v"):
        return f"reports version {found.version}, not {wanted} (engines.{plan.engine}.version)"
    if found.models:
        served = listed(found.models, found.hide)
        return None if plan.served_as in found.models else f"serves {served}, not {plan.served_as!r}"
    if found.loaded is not None and found.loaded not in {plan.loaded, plan.served_as}:
        return f"has loaded {cut(found.loaded, found.hide)}, not {plan.loaded!r}"
    return None
