"""A real Prometheus (Debian's package) on a free port, and real Locust runs for it to scrape."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from llmload.scenario.reading import free_port
from tests.loadgen.conftest import zygote as zygote
from tests.loadgen.forked import ROOT, Forked, Zygote

RULES = ROOT / "grafana" / "prometheus" / "rules"
NO_PROMETHEUS = "needs prometheus and promtool, of Debian's package prometheus"


@dataclass
class Prometheus:
    """A running server."""

    url: str

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The samples that an expression gives at a moment, now where none is given."""
        asked = {"query": expression} | ({} if at_s is None else {"time": str(at_s)})
        found: list[dict[str, Any]] = self._get("query", asked)["result"]
        return found

    def value(self, expression: str, at_s: float | None = None) -> float | None:
        """The one sample's value; None where there is none."""
        samples = self.query(expression, at_s)
        assert len(samples) <= 1, samples
        return float(samples[0]["value"][1]) if samples else None

    def exemplars(self, series: str) -> list[dict[str, Any]]:
        """The exemplars that came with a series in the last minutes."""
        asked = {"query": series, "start": str(time.time() - 600), "end": str(time.time())}
        return [exemplar for found in self._get("query_exemplars", asked) for exemplar in found["exemplars"]]

    def _get(self, what: str, asked: dict[str, str]) -> Any:
        with urlopen(f"{self.url}/api/v1/{what}?{urlencode(asked)}", timeout=10) as answer:
            return json.load(answer)["data"]


@contextmanager
def running_prometheus(folder: Path, *jobs: tuple[str, int], storage: Path | None = None) -> Iterator[Prometheus]:
    """A server that scrapes each second, with our rules."""
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        pytest.skip(NO_PROMETHEUS)
    scraped = "".join(
        f"  - job_name: {name}\n    static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n" for name, port in jobs
    )
    config, port = folder / "prometheus.yml", free_port()
    config.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{RULES}/recording.yml', '{RULES}/alerts.yml']\nscrape_configs:\n{scraped or '  []'}\n"
    )
    process = subprocess.Popen(
        [
            *("prometheus", f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"),
            *(f"--storage.tsdb.path={storage or folder / 'tsdb'}", "--storage.tsdb.retention.time=100y"),
            "--enable-feature=exemplar-storage",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        until(lambda: ready(server), "Prometheus never became ready")
        yield server
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:
        yield lambda *jobs, storage=None: stack.enter_context(running_prometheus(tmp_path, *jobs, storage=storage))


def ready(server: Prometheus) -> bool:
    try:
        with urlopen(f"{server.url}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def until(true: Callable[[], object], otherwise: str, timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end_s:
            pytest.fail(otherwise)
        time.sleep(0.2)


def text_at(url: str) -> str:
    try:
        with urlopen(url, timeout=2) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


@dataclass
class Locust:
    """Starts Locust in the repository as a user does; run folders are below `out`."""

    out: Path
    zygote: Zygote
    running: list[Forked] = field(default_factory=list)

    def __call__(self, *arguments: str, out: str = "runs") -> Forked:
        env = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.running.append(self.zygote.start([*arguments, "--out", str(self.out / out)], env))
        return self.running[-1]

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def locust(tmp_path: Path, zygote: Zygote) -> Iterator[Locust]:
    started = Locust(tmp_path, zygote)
    yield started
    started.end()


def scenario(
    folder: Path, url: str, load: str = 'kind = "closed_loop"\nusers = 1\nrequests = 2', name: str = "scraped"
) -> str:
    """A scenario file for an engine that is watched."""
    file = folder / f"{name}.toml"
    locustfile = "chat_staged" if "staged" in load else "chat"
    file.write_text(
        f'[tool.locust]\nlocustfile = "{ROOT}/locustfiles/{locustfile}.py"\n[scenario]\nname = "{name}"\n'
        f'[engine]\nname = "simulated"\nbase_url = "{url}"\n[model]\nname = "m"\n[prompts]\nrepeat = true\n'
        f'[monitor]\nengine_metrics_url = "{url}/metrics"\n[slo]\nttft_s = 0.06\n[load]\n{load}\n'
    )
    return str(file)


def summary_in(out: Path) -> dict[str, Any]:
    """The summary of the one run in a folder."""
    (file,) = out.glob("*/summary.json")
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded
