"""A temporary Prometheus, from the distribution's package, and queries to it."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from urllib.request import urlopen

from click import ClickException

from benchmarks import ROOT
from llmload.scenario.reading import free_port

RULES: Final = ROOT / "grafana" / "prometheus" / "rules"
READY_S: Final = 60.0
STOP_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server, by its address."""

    url: str

    def over_time(self, expression: str, from_s: float, to_s: float, step_s: float) -> list[dict[str, Any]]:
        """Return each series' labels and values between two moments."""
        query = {"query": expression, "start": f"{from_s:.3f}", "end": f"{to_s:.3f}", "step": f"{step_s:g}"}
        with urlopen(f"{self.url}/api/v1/query_range?{urlencode(query)}", timeout=30) as answer:  # noqa: S310 - its own address
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return found

    def version(self) -> str:
        """Return the version that it reports."""
        with urlopen(f"{self.url}/api/v1/status/buildinfo", timeout=10) as answer:  # noqa: S310 - its own address
            return str(json.load(answer)["data"]["version"])


@contextmanager
def running(folder: Path, jobs: dict[str, str], scrape_s: float) -> Iterator[Prometheus]:
    """Run a server with llmload's rules that scrapes each address, until the context ends."""
    if not shutil.which("prometheus"):
        raise ClickException("prometheus is not installed: apt-get install prometheus")
    scraped = [{"job_name": name, "static_configs": [{"targets": [address]}]} for name, address in jobs.items()]
    config = {
        "global": {"scrape_interval": f"{scrape_s:g}s", "evaluation_interval": f"{scrape_s:g}s"},
        "rule_files": [str(RULES / name) for name in ("recording.yml", "alerts.yml")],
        "scrape_configs": scraped,
    }
    file, port = folder / "prometheus.yml", free_port()
    file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    command = ["prometheus", f"--config.file={file}", f"--web.listen-address=127.0.0.1:{port}"]
    command += [f"--storage.tsdb.path={folder / 'tsdb'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(STOP_S)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            with urlopen(f"{url}/-/ready", timeout=2) as answer:  # noqa: S310 - its own address
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise ClickException("Prometheus never became ready")
