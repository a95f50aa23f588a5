"""
What a scrape costs, and how far quantiles read from its buckets are off: `python -m benchmarks.trials.exporter`.

Cost: totals of eight workers, merged and rendered as Prometheus asks for them. Accuracy: three loads on the simulated
engine, the last scrape's quantiles, by the formula of Prometheus' histogram_quantile, beside those of summary.json.
"""

import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import numpy as np

from llmload.metrics.requests import WITH_EXEMPLARS
from llmload.metrics.totals import RunTotals
from llmload.prometheus.export import wsgi_app
from llmload.prometheus.families import HISTOGRAMS, Snapshot
from llmload.scenario.reading import free_port
from llmload.simulator import SimulationSettings, spawn
from llmload.stats.histogram import Exemplar, Histogram

WORKERS, SCRAPES = 8, 50
SETTLED_S: Final = 0.05
"""How long a process may work on after the scrape's response was read."""
MAX_SCRAPE_MS: Final = 6.0
MAX_ERROR: Final = 0.06
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0"
LOADS: Final = {
    "closed loop, 8 users": ("demo", ["--run-time", "15s"]),
    "open loop, 6 requests/s": ("demo-open-loop", ["--run-time", "15s", "--set", "load.rate_per_s=6"]),
    "stages of 2, 4, 8 users": ("demo-staged", []),
}
QUANTILES: Final = (("ttft_s", "p95"), ("ttft_s", "p99"), ("itl_s", "p99"))
SERIES: Final = {family.distribution: family.name for family in HISTOGRAMS}


def full_totals() -> RunTotals:
    """Return totals with values in every distribution, as a master has for a busy worker."""
    totals, chance = RunTotals(started=20_000, completed=20_000), np.random.default_rng(1)
    totals.out_of_window |= {name: Histogram() for name in totals.distributions}
    for histogram in (*totals.distributions.values(), *totals.out_of_window.values()):
        histogram.add_many(chance.lognormal(-3, 1, 20_000))
    totals.exemplars |= {name: [Exemplar(0.5, "20261123-041833-demo-2fe2-0-17", 1.7e9)] for name in WITH_EXEMPLARS}
    return RunTotals.from_message(totals.to_message())


def busy_snapshot() -> Callable[[], Snapshot]:
    """Return a function that merges the totals of all workers, as a master does for a scrape."""
    parts = [full_totals() for _ in range(WORKERS)]

    def snapshot() -> Snapshot:
        whole = RunTotals()
        whole.merge(*parts)
        return Snapshot(labels={"engine": "vLLM", "model": "some/model", "scenario": "s"}, totals=whole)

    return snapshot


def scrape_ms() -> tuple[list[float], int]:
    """Return the processor time of each scrape without HTTP, in ms, and the number of series."""
    app = wsgi_app(busy_snapshot())
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "HTTP_ACCEPT": OPEN_METRICS}
    times_ms, body = [], b""
    for _ in range(SCRAPES):
        begun_ns = time.thread_time_ns()
        (body,) = app(environ, lambda *_: None)
        times_ms.append((time.thread_time_ns() - begun_ns) / 1e6)
    return times_ms, sum(not line.startswith(b"#") for line in body.splitlines())


def served_scrape_ms() -> list[float]:
    """Return the processor time of each scrape over HTTP, in ms, of a process that serves as a master does."""
    command, times_ms = [sys.executable, "-m", "benchmarks.trials.served_metrics"], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - Popen made a pipe
            url, used = (
                f"http://127.0.0.1:{int(process.stdout.readline())}/metrics",
                Path(f"/proc/{process.pid}/schedstat"),
            )
            for _ in range(SCRAPES + 1):
                before_ns = int(used.read_text().split()[0])
                with urlopen(Request(url, headers={"Accept": OPEN_METRICS}), timeout=10) as answer:
                    answer.read()
                time.sleep(SETTLED_S)
                times_ms.append((int(used.read_text().split()[0]) - before_ns) / 1e6)
        finally:
            process.kill()
    return times_ms[1:]  # the first includes the start of the process


def run_and_scrape(scenario: str, further: list[str], url: str) -> tuple[dict[str, Any], str]:
    """Return a headless run's summary and its last scrape."""
    seen, port = threading.Event(), free_port()
    with tempfile.TemporaryDirectory() as out:
        command = [
            *(sys.executable, "-m", "locust", "--config", f"scenarios/{scenario}.toml", "--headless", "--host", url),
            *("--out", out, "--set", "load.warmup_s=0", "--metrics-port", str(port), "--llmload-linger", "30"),
            *further,
        ]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (summaries := list(Path(out).glob("*/summary.json"))) and run.poll() is None:
            seen.wait(0.2)
        seen.wait(1.0)
        with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        run.wait()
        return json.loads(summaries[0].read_text()), text


def histogram_quantile(share: float, buckets: list[tuple[float, float]]) -> float:
    """Return Prometheus' quantile: linear between the bounds of the bucket that contains the rank."""
    rank = share * buckets[-1][1]
    index = next(i for i, (_, count) in enumerate(buckets) if count >= rank)
    low, below = buckets[index - 1] if index else (0.0, 0.0)
    high, upto = buckets[index]
    return low if high == float("inf") else low + (high - low) * (rank - below) / (upto - below)


def buckets_of(text: str, series: str) -> list[tuple[float, float]]:
    """Return a histogram's bounds and counts from Prometheus text."""
    pattern = re.compile(rf'^{series}_bucket{{.*le="([^"]+)".*}} (\S+)$', re.MULTILINE)
    return [(float(bound), float(count)) for bound, count in pattern.findall(text)]


def gauge_of(text: str, series: str, quantile: str) -> float:
    """Return the exact quantile that is exported beside a histogram."""
    pattern = rf'^{series.removesuffix("_seconds")}_quantile_seconds{{.*percentile="{quantile}".*}} (\S+)$'
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return float(found)


def rows() -> Iterator[tuple[str, float]]:
    """Yield a line of the accuracy table for each load and quantile, and how far that is off."""
    for name, (scenario, further) in LOADS.items():
        with spawn(SimulationSettings(model="simulated")) as engine:
            summary, text = run_and_scrape(scenario, further, engine.url)
        for distribution, quantile in QUANTILES:
            true = summary[distribution][quantile]
            read = histogram_quantile(int(quantile[1:]) / 100, buckets_of(text, SERIES[distribution]))
            gauge = gauge_of(text, SERIES[distribution], quantile)
            off = read / true - 1
            yield f"| {name} | {distribution} {quantile} | {true:.4f} | {read:.4f} | {off:+.1%} | {gauge:.4f} |", off


def main() -> None:
    """Print both tables, and PASS or FAIL for each requirement."""
    times_ms, series = scrape_ms()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    middle, worst = statistics.median(times_ms), max(times_ms)
    served_ms = served_scrape_ms()
    print(f"a scrape of {series} series from {WORKERS} workers: {middle:.1f} ms of processor time, worst {worst:.1f};")
    print(f"served over HTTP: {statistics.median(served_ms):.1f} ms, worst {max(served_ms):.1f}")
    print("| load | quantile | summary.json, s | from buckets, s | off | gauge, s |\n|---|---|---|---|---|---|")
    largest_error = 0.0
    for row, off in rows():
        print(row, flush=True)
        largest_error = max(largest_error, abs(off))
    for name, figure in (("median", statistics.median(served_ms)), ("worst", max(served_ms))):
        print(f"{verdict(figure, MAX_SCRAPE_MS)}: a scrape takes at most {MAX_SCRAPE_MS:g} ms, {name}: {figure:.1f}")
    print(f"{verdict(largest_error, MAX_ERROR)}: every quantile within {MAX_ERROR:.0%}: {largest_error:.1%}")


def verdict(figure: float, limit: float) -> str:
    """Return PASS or FAIL."""
    return "PASS" if figure <= limit else "FAIL"


if __name__ == "__main__":
    main()
