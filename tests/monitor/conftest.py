"""A real Prometheus (Debian's package) on a port of its own, and real Locust runs for it to scrape."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "grafana" / "prometheus" / "rules"
NO_PROMETHEUS = "needs prometheus and promtool, of Debian's package prometheus"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Prometheus:
    """A running server."""

    url: str

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The samples that an expression gives at a moment, now where none is given."""
        asked = {"query": expression} | ({} if at_s is None else {"time": str(at_s)})
        with urlopen(f"{self.url}/api/v1/query?{urlencode(asked)}", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    def value(self, expression: str, at_s: float | None = None) -> float | None:
        """The one sample's value; None where there is none."""
        samples = self.query(expression, at_s)
        assert len(samples) <= 1, samples
        return float(samples[0]["value"][1]) if samples else None


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Start servers that scrape each second, with our rules, and end with the test."""
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        pytest.skip(NO_PROMETHEUS)
    running: list[subprocess.Popen[bytes]] = []

    def start(*jobs: tuple[str, int], storage: Path | None = None) -> Prometheus:
        scraped = "".join(
            f"  - job_name: {name}\n    static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n" for name, port in jobs
        )
        config = tmp_path / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: ['{RULES}/recording.yml', '{RULES}/alerts.yml']\nscrape_configs:\n{scraped or '  []'}\n"
        )
        port = free_port()
        running.append(
            subprocess.Popen(
                [
                    *("prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"),
                    *(f"--storage.tsdb.path={storage or tmp_path / 'tsdb'}", "--storage.tsdb.retention.time=100y"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        server = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: ready(server), "Prometheus never became ready")
        return server

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


def ready(server: Prometheus) -> bool:
    try:
        with urlopen(f"{server.url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def until(holds: Callable[[], bool], otherwise: str, timeout_s: float = 40.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end_s:
            pytest.fail(otherwise)
        time.sleep(0.2)


@pytest.fixture
def locust(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start Locust in the repository as a user does; its run folders are in the test's own place."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        port = str(free_port())  # another test's master may be listening on Locust's own
        running.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "locust", *arguments, "--out", str(tmp_path / "runs")),
                    *("--master-port", port, "--master-bind-port", port),
                ],
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def summary_in(out: Path) -> dict[str, Any]:
    """The summary of the one run in a folder."""
    (file,) = out.glob("*/summary.json")
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded
