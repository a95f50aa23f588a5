"""The engine's own series and the GPUs', read while a run goes on: on its time axis, in its folder, in its summary."""

import csv
import logging
import re
import ssl
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from llmload.errors import ConfigError
from llmload.metrics.totals import RunTotals
from llmload.scenario.sections import Monitor
from llmload.units import GIB, MIB_PER_GIB, MJ_PER_J

# The engines' names for one and the same figure, and DCGM's, read from Prometheus text.

_BLANK: Final = 2.0**62
"""DCGM says "not known" by numbers near 2^63; NaN and infinity are no lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A figure, the names it goes by (the first that is served counts), and how several label sets make one."""

    name: str
    names: tuple[str, ...]
    greatest: bool = False
    """Take the greatest of several label sets instead of their sum: shares do not add up."""


def _durations(name: str, *names: str) -> tuple[Series, Series]:
    return (
        Series(name=f"{name}_sum_s", names=tuple(f"{each}_sum" for each in names)),
        Series(name=f"{name}_count", names=tuple(f"{each}_count" for each in names)),
    )


ENGINE: Final = (
    Series(
        name="running",
        names=(
            *("vllm:num_requests_running", "sglang:num_running_reqs"),
            *("tgi_batch_current_size", "llamacpp:requests_processing"),
        ),
    ),
    Series(
        name="waiting",
        names=(
            *("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
            *("tgi_queue_size", "llamacpp:requests_deferred"),
        ),
    ),
    Series(
        name="kv_cache_usage",
        names=(
            *("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            *("sglang:token_usage", "llamacpp:kv_cache_usage_ratio"),
        ),
        greatest=True,
    ),
    Series(name="preemptions", names=("vllm:num_preemptions_total",)),
    Series(
        name="prompt_tokens",
        names=(
            *("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
            *("tgi_request_input_length_sum", "llamacpp:prompt_tokens_total"),
        ),
    ),
    Series(
        name="output_tokens",
        names=(
            *("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
            *("tgi_request_generated_tokens_sum", "llamacpp:tokens_predicted_total"),
        ),
    ),
    Series(
        name="prefix_cache_queries",
        names=("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total", "sglang:prompt_tokens_total"),
    ),
    Series(
        name="prefix_cache_hits",
        names=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "sglang:cached_tokens_total"),
    ),
    *_durations("ttft", "vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds"),
    *_durations(
        "itl",
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
        "sglang:inter_token_latency_seconds",
        "sglang:time_per_output_token_seconds",
    ),
    *_durations(
        "e2e", "vllm:e2e_request_latency_seconds", "sglang:e2e_request_latency_seconds", "tgi_request_duration"
    ),
)
GPU: Final = (
    Series(name="memory_used_mib", names=("DCGM_FI_DEV_FB_USED",)),
    Series(name="power_w", names=("DCGM_FI_DEV_POWER_USAGE",)),
    Series(name="energy_mj", names=("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",)),
    Series(name="gpu_util_percent", names=("DCGM_FI_DEV_GPU_UTIL",)),
    Series(name="tensor_active", names=("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",)),
    Series(name="nvlink_tx_bytes_per_s", names=("DCGM_FI_PROF_NVLINK_TX_BYTES",)),
    Series(name="nvlink_rx_bytes_per_s", names=("DCGM_FI_PROF_NVLINK_RX_BYTES",)),
)


def read(text: str, table: Iterable[Series], by: str = "") -> dict[str, dict[str, float]]:
    """
    Return what the text says of each figure, for each value of the label `by`; without it, under "".

    What is not served is not there; what is no finite number is left out.
    """
    table = tuple(table)
    found: dict[str, dict[str, list[float]]] = {}
    for match in _pattern(tuple(name for series in table for name in series.names)).finditer(text):
        name, labels, value = match.groups()
        number = _number(value)
        if number is not None:
            found.setdefault(_label(labels, by), {}).setdefault(name, []).append(number)
    return {key: _combined(values, table) for key, values in found.items()}


def _combined(values: Mapping[str, list[float]], table: Iterable[Series]) -> dict[str, float]:
    combined = {}
    for series in table:
        name = next((name for name in series.names if name in values), None)
        if name is not None:
            combined[series.name] = max(values[name]) if series.greatest else sum(values[name])
    return combined


@cache
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(map(re.escape, sorted(set(names), key=len, reverse=True)))
    return re.compile(rf"^({either})(?:\{{(.*)\}})?[ \t]+(\S+)", re.MULTILINE)


def _label(labels: str | None, by: str) -> str:
    match = re.search(rf'(?:^|,){by}="([^"]*)"', labels or "") if by else None
    return match[1] if match else ""


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < _BLANK else None


TIMEOUT_S: Final = 2.0
MOST_BYTES: Final = 16_000_000
ENGINE_FILE, GPU_FILE = "engine_metrics.csv", "gpu_metrics.csv"
logger = logging.getLogger(__name__)


class Source:
    """One address: what it says of itself goes to a file, a line a sample and part, and is kept to be summed up."""

    def __init__(
        self, url: str, table: Sequence[Series], file: Path, by: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self._url, self._table, self._file, self._by, self._tls = url, table, file, by, tls
        self._names = [series.name for series in table]
        self._first: dict[str, dict[str, float]] = {}
        self._last: dict[str, dict[str, float]] = {}
        self._most: dict[str, dict[str, float]] = {}
        self._flowed: dict[str, float] = {}
        self._taken_s: float | None = None
        self.samples = self.failed_reads = 0

    def sample(self) -> None:
        """Read once; an address that does not answer is no error of the run."""
        try:
            with urllib.request.urlopen(self._url, timeout=TIMEOUT_S, context=self._tls) as answer:  # noqa: S310 - the scenario allows http and https only
                text = answer.read(MOST_BYTES).decode("utf-8", "replace")
        except Exception as error:  # noqa: BLE001 - whatever speaks there must not end the run
            if not self.failed_reads:
                logger.warning("no metrics from %s: %s", self._url, error)
            self.failed_reads += 1
            return
        self.take(read(text, self._table, self._by))

    def take(self, parts: dict[str, dict[str, float]]) -> None:
        """Keep a sample, and write it down."""
        self.samples += 1
        now_s = time.monotonic()
        since_s = 0.0 if self._taken_s is None else now_s - self._taken_s
        for values in parts.values():
            flows = {name: value * since_s for name, value in values.items() if name.endswith("_per_s")}
            self._flowed |= {name: self._flowed.get(name, 0.0) + flow for name, flow in flows.items()}
        self._last, self._taken_s = parts, now_s
        self._first = self._first or parts
        for part, values in parts.items():
            most = self._most.setdefault(part, {})
            most |= {name: max(value, most.get(name, value)) for name, value in values.items()}
        new = not self._file.exists()
        with self._file.open("a", newline="", encoding="utf-8") as lines:
            writer = csv.writer(lines)
            if new:
                writer.writerow(["unix_s", "url", "part", *self._names])
            unix_s = f"{time.time():.3f}"
            for part, values in parts.items():
                writer.writerow([unix_s, self._url, part, *(values.get(name) for name in self._names)])

    def grown(self, name: str) -> float | None:
        """Return by how much a counter has grown since the first sample; None where it was reset or is not served."""
        grown = [
            values[name] - self._first.get(part, {}).get(name, 0.0)
            for part, values in self._last.items()
            if name in values
        ]
        return sum(grown) if grown and min(grown) >= 0 else None

    def flowed(self, name: str) -> float | None:
        """Return how much a rate has come to, each sample's taken since the one before; None where it is not served."""
        return self._flowed.get(name)

    def most(self, name: str) -> list[float]:
        """Return the greatest value of each part."""
        return [values[name] for values in self._most.values() if name in values]


class EngineScraper:
    """Reads all addresses of a scenario; `sample` before the first request and after the last, `watch` between."""

    def __init__(self, monitor: Monitor, folder: Path, *, ca_file: str | None = None, verify_tls: bool = True) -> None:
        """Prepare; whoever speaks https proves itself as the engine does. ConfigError for a CA file of no use."""
        urls = [*monitor.engine_metrics_url, *filter(None, [monitor.dcgm_url])]
        tls = _tls(ca_file, verify_tls) if any(url.startswith("https:") for url in urls) else None
        self._interval_s = monitor.interval_s
        self._engines = [Source(url, ENGINE, folder / ENGINE_FILE, tls=tls) for url in monitor.engine_metrics_url]
        self._gpus = [Source(monitor.dcgm_url, GPU, folder / GPU_FILE, by="gpu", tls=tls)] if monitor.dcgm_url else []

    def sample(self) -> None:
        """Read every address once."""
        for source in (*self._engines, *self._gpus):
            source.sample()

    def watch(self) -> None:
        """Read again and again, until killed; return at once where there is nothing to read."""
        if not self._engines and not self._gpus:
            return
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + self._interval_s, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
            self.sample()

    def summary(self, totals: RunTotals, memory_estimate: Mapping[str, float] | None = None) -> dict[str, Any]:
        """
        Return what `summary.json` says of engine and GPUs, each None where the scenario names no address.

        `memory_estimate` is what sizing expects on each GPU, in bytes, by what it is for.
        """
        return {
            "engine_metrics": engine_summary(self._engines, totals) if self._engines else None,
            "gpu_metrics": gpu_summary(self._gpus, totals, memory_estimate) if self._gpus else None,
        }


def _tls(ca_file: str | None, verify_tls: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"engine.ca_file: {ca_file} cannot be used: {error.strerror or error}") from None
    if not verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def engine_summary(engines: Sequence[Source], totals: RunTotals) -> dict[str, Any]:
    """Return the engine's figures beside the client's, over the whole run, warm-up included."""
    ttft_s, itl_s = _mean(engines, "ttft"), _mean(engines, "itl")
    client_ttft_s, client_itl_s = totals.whole("ttft_s").mean, totals.whole("itl_s").mean
    output, hits = _grown(engines, "output_tokens"), _grown(engines, "prefix_cache_hits")
    queries = _grown(engines, "prefix_cache_queries")
    return {
        "samples": sum(source.samples for source in engines),
        "failed_reads": sum(source.failed_reads for source in engines),
        "ttft_mean_s": ttft_s,
        "client_ttft_mean_s": client_ttft_s,
        "ttft_gap_s": _less(client_ttft_s, ttft_s),
        "itl_mean_s": itl_s,
        "client_itl_mean_s": client_itl_s,
        "itl_gap_s": _less(client_itl_s, itl_s),
        "e2e_mean_s": _mean(engines, "e2e"),
        "running_max": _summed(engines, "running"),
        "waiting_max": _summed(engines, "waiting"),
        "kv_cache_usage_max": max((most for each in engines for most in each.most("kv_cache_usage")), default=None),
        "preemptions": _grown(engines, "preemptions"),
        "prefix_cache_hit_share": hits / queries if hits is not None and queries else None,
        "prompt_tokens": _grown(engines, "prompt_tokens"),
        "client_prompt_tokens": totals.arrived_prompt_tokens,
        "output_tokens": output,
        "client_output_tokens": totals.arrived_tokens,
        "output_tokens_gap": _less(output, totals.arrived_tokens),
    }


def gpu_summary(
    gpus: Sequence[Source], totals: RunTotals, memory_estimate: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return what the run took of the GPUs, added up over them; the estimate is multiplied by how many there are."""
    energy_mj, memory_mib = _grown(gpus, "energy_mj"), _summed(gpus, "memory_used_mib")
    energy_j = None if energy_mj is None else energy_mj / MJ_PER_J
    count = sum(len(source.most("memory_used_mib")) for source in gpus)
    parts = None if not memory_estimate or not count else memory_estimate
    needed = None if parts is None else sum(size for part, size in parts.items() if part != "kv_cache")
    return {
        "samples": sum(source.samples for source in gpus),
        "failed_reads": sum(source.failed_reads for source in gpus),
        "gpus": count,
        "memory_used_max_gib": None if memory_mib is None else memory_mib / MIB_PER_GIB,
        "memory_estimate_gib": None if needed is None else needed * count / GIB,
        "memory_estimate_with_kv_cache_gib": None if parts is None else sum(parts.values()) * count / GIB,
        "power_max_w": _summed(gpus, "power_w"),
        "energy_j": energy_j,
        "energy_j_per_output_token": None
        if energy_j is None or not totals.arrived_tokens
        else energy_j / totals.arrived_tokens,
        "tensor_active_max": max((most for each in gpus for most in each.most("tensor_active")), default=None),
        "nvlink_tx_max_bytes_per_s": _summed(gpus, "nvlink_tx_bytes_per_s"),
        "nvlink_rx_max_bytes_per_s": _summed(gpus, "nvlink_rx_bytes_per_s"),
        "nvlink_tx_bytes": _flowed(gpus, "nvlink_tx_bytes_per_s"),
        "nvlink_rx_bytes": _flowed(gpus, "nvlink_rx_bytes_per_s"),
    }


def _grown(sources: Sequence[Source], name: str) -> float | None:
    grown = [source.grown(name) for source in sources]
    known = [each for each in grown if each is not None]
    return sum(known) if known and len(known) == len(grown) else None


def _mean(sources: Sequence[Source], name: str) -> float | None:
    total_s, count = _grown(sources, f"{name}_sum_s"), _grown(sources, f"{name}_count")
    return None if total_s is None or not count else total_s / count


def _summed(sources: Sequence[Source], name: str) -> float | None:
    most = [value for source in sources for value in source.most(name)]
    return sum(most) if most else None


def _flowed(sources: Sequence[Source], name: str) -> float | None:
    known = [flowed for source in sources if (flowed := source.flowed(name)) is not None]
    return sum(known) if known else None


def _less(of: float | None, less: float | None) -> float | None:
    return None if of is None or less is None else of - less
