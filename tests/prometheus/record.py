"""
Record the fixture that the dashboard's expressions are tried on: python tests/prometheus/record.py

llmload's and the simulated engine's lines are those of a real run of 40 s. DCGM's are written by hand in its exporter's
form, since no GPU is at hand where tests run.
"""

import gzip
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from llmload.scenario.reading import free_port
from llmload.simulator import SimulationSettings, spawn

ROOT = Path(__file__).parents[2]
FIXTURE = Path(__file__).with_name("data") / "recorded_run.om.gz"
EVERY_S, SCRAPES = 5.0, 9
SIZED = ("model.name=llama-2-7b", "model.served_as=simulated", "deployment.gpu=A100-SXM4-80GB", "deployment.gpus=1")
GAUGES = {
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.3,
    "DCGM_FI_PROF_NVLINK_TX_BYTES": 2e9,
    "DCGM_FI_PROF_NVLINK_RX_BYTES": 2e9,
    "DCGM_FI_DEV_FB_USED": 70_000,
    "DCGM_FI_DEV_POWER_USAGE": 550,
}


def by_hand() -> str:
    return "".join(f'{name}{{gpu="{gpu}"}} {value}\n' for name, value in GAUGES.items() for gpu in (0, 1))


def answers(url: str) -> bool:
    try:
        with urlopen(url) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def lines_of(text: str, instance: str, at_s: float) -> Iterator[str]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = {**sample.labels, "instance": instance}
                inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
                yield f"{sample.name}{{{inside}}} {sample.value} {at_s:.3f}"


def record() -> list[str]:
    lines: list[str] = []
    faults = {"http_500": 0.05}
    settings = SimulationSettings(model="simulated", slots=24, prefix_cache_tokens=100_000, faults=faults)
    with spawn(settings) as engine, tempfile.TemporaryDirectory() as out:
        command = [
            *(sys.executable, "-m", "locust", "--config", "scenarios/demo-open-loop.toml", "--headless", "--out", out),
            *("--host", engine.url, "--metrics-port", str(port := free_port()), "--run-time", "39s"),
            *(word for setting in SIZED for word in ("--set", setting)),
        ]
        run = subprocess.Popen(command, cwd=ROOT)
        while not answers(f"http://127.0.0.1:{port}/metrics") and run.poll() is None:
            time.sleep(0.5)
        for _ in range(SCRAPES):
            now_s = time.time()
            for url, name in ((f"http://127.0.0.1:{port}/metrics", "llmload"), (f"{engine.url}/metrics", "engine")):
                with urlopen(url) as answer:
                    lines += lines_of(answer.read().decode(), name, now_s)
            lines += lines_of(by_hand(), "by-hand", now_s)
            time.sleep(EVERY_S - (time.time() - now_s))
        run.wait()
    return [*lines, "# EOF"]


if __name__ == "__main__":
    FIXTURE.write_bytes(gzip.compress("\n".join([*record(), ""]).encode(), mtime=0))
