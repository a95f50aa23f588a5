"""The simulated engine, started by its command on a host of the benchmark."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from click import ClickException

from benchmarks.tools.hosts import Host

READY: Final = re.compile(r"^simulated engine ready at (\S+)$", re.MULTILINE)
START_TIMEOUT_S: Final = 30.0
IDLE_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.1


class LoggedEngine:
    """`llmload engine simulate --log` while its context lasts; `log` is complete when the context has ended."""

    def __init__(self, host: Host, folder: Path, flags: Mapping[str, object], faults: Mapping[str, float]) -> None:
        self._host, self._folder = host, folder
        self._output, self._log_file = folder / "engine.txt", folder / "engine.jsonl"
        self._command = [sys.executable, "-m", "llmload.cli.main", "engine", "simulate"]
        self._command += ["--host", host.address, "--port", "0", "--log", str(self._log_file)]
        for name, value in flags.items():
            self._command += [f"--{name.replace('_', '-')}", str(value)]
        for kind, share in faults.items():
            self._command += ["--fault", f"{kind}={share}"]

    def __enter__(self) -> Self:
        self._process = self._host.start(self._command, folder=self._folder, output=self._output)
        self.url = self._printed_url()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def log(self) -> list[dict[str, Any]]:
        """A line for each request that the engine has read, in the order in which they ended."""
        return [json.loads(line) for line in self._log_file.read_text(encoding="utf-8").splitlines()]

    @property
    def in_flight(self) -> int:
        """Requests that run or wait in the engine."""
        metrics = self._host.fetch(f"{self.url}/metrics")
        found = re.findall(r"^vllm:num_requests_(?:running|waiting)\S* (\S+)$", metrics, re.MULTILINE)
        return round(sum(map(float, found)))

    def wait_for_first_request(self, timeout_s: float) -> None:
        """Wait until the first request has arrived."""
        self._wait(lambda: bool(self.log) or self.in_flight > 0, timeout_s, "got no request")

    def wait_until_idle(self) -> None:
        """Wait until every request has left the engine, so that its log has a line for each."""
        self._wait(lambda: self.in_flight == 0, IDLE_TIMEOUT_S, "still had requests")

    def _printed_url(self) -> str:
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s and self._process.poll() is None:
            if found := READY.search(self._output.read_text(encoding="utf-8")):
                return found[1]
            time.sleep(POLL_S)
        self._process.kill()
        raise ClickException(f"the simulated engine did not start:\n{self._output.read_text(encoding='utf-8')}")

    def _wait(self, done: Any, timeout_s: float, fault: str) -> None:
        end_s = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end_s:
                raise ClickException(f"the simulated engine {fault} for {timeout_s:.0f} s")
            time.sleep(POLL_S)
