"""Metrics that the engine and the GPUs serve, read during a run: which series, their parsing, file and summary."""

import csv
import io
import logging
import re
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from llmload.access.address import origin_of
from llmload.access.secrecy import NOBODY, Access
from llmload.errors import ConfigError
from llmload.fetch import http_get, ssl_context
from llmload.metrics.totals import RunTotals
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS, RunFolder
from llmload.runs.summary_parts import EngineMetrics, GpuMetrics
from llmload.runs.writing import AppendedFile
from llmload.scenario.sections import Monitor
from llmload.units import GIB, MIB_PER_GIB, MJ_PER_J

_UNKNOWN_FROM: Final = 2.0**62
"""DCGM writes a number near 2^63 for an unknown value; NaN and infinity fail the same comparison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapedFigure:
    """A figure, the series it is read from (the first that is served counts), and how label sets are combined."""

    name: str
    series: tuple[str, ...]
    use_max: bool = False
    """Take the maximum over the label sets instead of the sum: ratios do not add up."""


def _durations(name: str, *series: str) -> tuple[ScrapedFigure, ScrapedFigure]:
    return (
        ScrapedFigure(name=f"{name}_sum_s", series=tuple(f"{each}_sum" for each in series)),
        ScrapedFigure(name=f"{name}_count", series=tuple(f"{each}_count" for each in series)),
    )


ENGINE: Final = (
    ScrapedFigure(
        name="running",
        series=(
            *("vllm:num_requests_running", "sglang:num_running_reqs"),
            *("tgi_batch_current_size", "llamacpp:requests_processing"),
        ),
    ),
    ScrapedFigure(
        name="waiting",
        series=(
            *("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
            *("tgi_queue_size", "llamacpp:requests_deferred"),
        ),
    ),
    ScrapedFigure(
        name="kv_cache_usage",
        series=(
            *("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            *("sglang:token_usage", "llamacpp:kv_cache_usage_ratio"),
        ),
        use_max=True,
    ),
    ScrapedFigure(name="preemptions", series=("vllm:num_preemptions_total",)),
    ScrapedFigure(
        name="prompt_tokens",
        series=(
            *("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
            *("tgi_request_input_length_sum", "llamacpp:prompt_tokens_total"),
        ),
    ),
    ScrapedFigure(
        name="output_tokens",
        series=(
            *("vllm:generation_tokens_total", "sglang:generation_tokens_total"),
            *("tgi_request_generated_tokens_sum", "llamacpp:tokens_predicted_total"),
        ),
    ),
    ScrapedFigure(
        name="prefix_cache_queries",
        series=("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total", "sglang:prompt_tokens_total"),
    ),
    ScrapedFigure(
        name="prefix_cache_hits",
        series=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "sglang:cached_tokens_total"),
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
    ScrapedFigure(name="memory_used_mib", series=("DCGM_FI_DEV_FB_USED",)),
    ScrapedFigure(name="power_w", series=("DCGM_FI_DEV_POWER_USAGE",)),
    ScrapedFigure(name="energy_mj", series=("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",)),
    ScrapedFigure(name="gpu_util_percent", series=("DCGM_FI_DEV_GPU_UTIL",)),
    ScrapedFigure(name="tensor_active", series=("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",)),
    ScrapedFigure(name="nvlink_tx_bytes_per_s", series=("DCGM_FI_PROF_NVLINK_TX_BYTES",)),
    ScrapedFigure(name="nvlink_rx_bytes_per_s", series=("DCGM_FI_PROF_NVLINK_RX_BYTES",)),
)


TIMEOUT_S: Final = 2.0
MAX_RESPONSE_BYTES: Final = 16_000_000
logger = logging.getLogger(__name__)


def parse_figures(text: str, figures: Iterable[ScrapedFigure], by: str = "") -> dict[str, dict[str, float]]:
    """
    Parse Prometheus or OpenMetrics text into `{value of the label by: {figure: value}}`; without `by` the key is "".

    Figures that are not served, not finite or not readable are absent.
    """
    figures = tuple(figures)
    found: dict[str, dict[str, list[float]]] = {}
    for line in _lines_of(tuple(name for figure in figures for name in figure.series)).findall(text):
        for name, labels, value in _samples(line):
            if abs(value) < _UNKNOWN_FROM:
                found.setdefault(labels.get(by, ""), {}).setdefault(name, []).append(value)
    return {key: _combined(values, figures) for key, values in found.items()}


@cache
def _lines_of(series: tuple[str, ...]) -> re.Pattern[str]:
    """Match the lines of these series alone: the parser takes 20 us a line and more, and an engine serves hundreds."""
    names = "|".join(map(re.escape, sorted(set(series))))
    return re.compile(rf"^(?:{names})[{{ \t].*$", re.MULTILINE)


def _samples(line: str) -> list[tuple[str, dict[str, str], float]]:
    """
    Return what a line says, nothing if it cannot be parsed.

    The parser of the classic format reads OpenMetrics lines too, past their exemplars. The OpenMetrics parser would
    refuse a line without its family's other lines.
    """
    try:
        return [
            (each.name, each.labels, float(each.value))
            for m in text_string_to_metric_families(line)
            for each in m.samples
        ]
    except (ValueError, IndexError):  # the library's own, for some broken lines
        return []


def _combined(values: Mapping[str, list[float]], figures: Iterable[ScrapedFigure]) -> dict[str, float]:
    combined = {}
    for figure in figures:
        name = next((name for name in figure.series if name in values), None)
        if name is not None:
            combined[figure.name] = max(values[name]) if figure.use_max else sum(values[name])
    return combined


class ScrapeTarget:
    """One URL: each sample is appended to a file, a line a part (an engine, a GPU), and aggregated for the summary."""

    def __init__(
        self,
        url: str,
        figures: Sequence[ScrapedFigure],
        file: AppendedFile,
        by: str = "",
        tls: ssl.SSLContext | None = None,
        access: Access = NOBODY,
    ) -> None:
        self._url, self._figures, self._file, self._by, self._tls = url, figures, file, by, tls
        self._access = access
        self._first: dict[str, dict[str, float]] = {}
        self._last: dict[str, dict[str, float]] = {}
        self._max: dict[str, dict[str, float]] = {}
        self._integrals: dict[str, float] = {}
        self._sampled_s: float | None = None
        self.samples = self.failed_reads = 0

    def sample(self) -> None:
        """Read the URL once; a failed read is counted and does not end the run."""
        try:
            answer = http_get(
                self._url,
                timeout_s=TIMEOUT_S,
                max_bytes=MAX_RESPONSE_BYTES,
                headers=self._access.all_headers(),
                tls=self._tls,
            )
            text = answer.body.decode("utf-8", "replace")
        except Exception as error:  # noqa: BLE001 - no answer, however broken, may end the run
            if not self.failed_reads:
                logger.warning("no metrics from %s: %s", self._url, self._access.hidden(str(error)))
            self.failed_reads += 1
            return
        self.record(parse_figures(text, self._figures, self._by))

    def record(self, parts: dict[str, dict[str, float]]) -> None:
        """Aggregate a sample and append it to the file."""
        self.samples += 1
        now_s = time.monotonic()
        since_s = 0.0 if self._sampled_s is None else now_s - self._sampled_s
        for values in parts.values():
            amounts = {name: value * since_s for name, value in values.items() if name.endswith("_per_s")}
            self._integrals |= {name: self._integrals.get(name, 0.0) + amount for name, amount in amounts.items()}
        self._last, self._sampled_s = parts, now_s
        self._first = self._first or parts
        for part, values in parts.items():
            so_far = self._max.setdefault(part, {})
            so_far |= {name: max(value, so_far.get(name, value)) for name, value in values.items()}
        self._append(parts)

    def _append(self, parts: Mapping[str, Mapping[str, float]]) -> None:
        lines, unix_s = io.StringIO(), f"{time.time():.3f}"
        writer = csv.writer(lines, lineterminator="\n")
        for part, values in parts.items():
            writer.writerow(
                [unix_s, self._url, " ".join(part.split()), *(values.get(figure.name) for figure in self._figures)]
            )
        self._file.append(lines.getvalue().encode())

    def increase(self, name: str) -> float | None:
        """Return how much a counter increased since the first sample; None if it was reset or is not served."""
        increases = [
            values[name] - self._first.get(part, {}).get(name, 0.0)
            for part, values in self._last.items()
            if name in values
        ]
        return sum(increases) if increases and min(increases) >= 0 else None

    def integral(self, name: str) -> float | None:
        """Return the integral of a rate over the samples so far; None if it is not served."""
        return self._integrals.get(name)

    def maxima(self, name: str) -> list[float]:
        """Return the maximum of each part."""
        return [values[name] for values in self._max.values() if name in values]


def samples_file(folder: RunFolder, name: str, figures: Sequence[ScrapedFigure]) -> AppendedFile:
    """Return a run's file of samples, with the figures as columns; it is made with the first sample."""
    header = ",".join(("unix_s", "url", "part", *(figure.name for figure in figures)))
    return folder.appended(name, what="samples of engine or GPUs", header=f"{header}\n".encode())


class EngineScraper:
    """Reads every URL of a scenario: `sample` before the first request and after the last, `watch` in between."""

    def __init__(
        self,
        monitor: Monitor,
        folder: RunFolder,
        *,
        ca_file: str | None = None,
        verify_tls: bool = True,
        engine_urls: Sequence[str] = (),
        access: Access = NOBODY,
    ) -> None:
        """
        Prepare; https URLs are verified as the engine is. ConfigError if the CA file cannot be used.

        `access`, the engine's key and headers, is sent to the origins of `engine_urls` alone.
        """
        own = frozenset(map(origin_of, engine_urls))
        urls = [*monitor.engine_metrics_url, *filter(None, [monitor.dcgm_url])]
        tls = _tls(ca_file, verify_tls) if any(url.startswith("https:") for url in urls) else None
        self._interval_s = monitor.interval_s
        engines, gpus = samples_file(folder, ENGINE_METRICS, ENGINE), samples_file(folder, GPU_METRICS, GPU)

        def target(url: str, figures: Sequence[ScrapedFigure], file: AppendedFile, by: str = "") -> ScrapeTarget:
            return ScrapeTarget(url, figures, file, by, tls, access if origin_of(url) in own else NOBODY)

        self._engines = [target(url, ENGINE, engines) for url in monitor.engine_metrics_url]
        self._gpus = [target(monitor.dcgm_url, GPU, gpus, by="gpu")] if monitor.dcgm_url else []

    def sample(self) -> None:
        """Read every URL once."""
        for target in (*self._engines, *self._gpus):
            target.sample()

    def watch(self) -> None:
        """Read every interval until killed; return at once if there is no URL."""
        if not self._engines and not self._gpus:
            return
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + self._interval_s, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
            self.sample()

    def summary(
        self, totals: RunTotals, memory_estimate: Mapping[str, float] | None = None
    ) -> tuple[EngineMetrics | None, GpuMetrics | None]:
        """
        Return the summary's `engine_metrics` and `gpu_metrics`, None where the scenario names no URL.

        `memory_estimate` is what sizing expects on each GPU: bytes by purpose.
        """
        return (
            engine_summary(self._engines, totals) if self._engines else None,
            gpu_summary(self._gpus, totals, memory_estimate) if self._gpus else None,
        )


def _tls(ca_file: str | None, verify_tls: bool) -> ssl.SSLContext:
    try:
        return ssl_context(ca_file, verify=verify_tls)
    except OSError as error:
        raise ConfigError(f"engine.ca_file: {ca_file} cannot be used: {error.strerror or error}") from None


def engine_summary(engines: Sequence[ScrapeTarget], totals: RunTotals) -> EngineMetrics:
    """Return the engine's figures and the client's for comparison, over the whole run including warm-up."""
    ttft_s, itl_s = _mean(engines, "ttft"), _mean(engines, "itl")
    client_ttft_s, client_itl_s = totals.all_answers("ttft_s").mean, totals.all_answers("itl_s").mean
    output, hits = _increase(engines, "output_tokens"), _increase(engines, "prefix_cache_hits")
    queries = _increase(engines, "prefix_cache_queries")
    return EngineMetrics(
        samples=sum(target.samples for target in engines),
        failed_reads=sum(target.failed_reads for target in engines),
        ttft_mean_s=ttft_s,
        client_ttft_mean_s=client_ttft_s,
        ttft_gap_s=_difference(client_ttft_s, ttft_s),
        itl_mean_s=itl_s,
        client_itl_mean_s=client_itl_s,
        itl_gap_s=_difference(client_itl_s, itl_s),
        e2e_mean_s=_mean(engines, "e2e"),
        running_max=_sum_of_maxima(engines, "running"),
        waiting_max=_sum_of_maxima(engines, "waiting"),
        kv_cache_usage_max=_max(engines, "kv_cache_usage"),
        preemptions=_increase(engines, "preemptions"),
        prefix_cache_hit_share=hits / queries if hits is not None and queries else None,
        prompt_tokens=_increase(engines, "prompt_tokens"),
        client_prompt_tokens=totals.arrived_prompt_tokens,
        output_tokens=output,
        client_output_tokens=totals.arrived_tokens,
        output_tokens_gap=_difference(output, totals.arrived_tokens),
    )


def gpu_summary(
    gpus: Sequence[ScrapeTarget], totals: RunTotals, memory_estimate: Mapping[str, float] | None = None
) -> GpuMetrics:
    """Return the GPUs' figures summed over all of them; the estimate, which is for one GPU, times their number."""
    energy_mj, memory_mib = _increase(gpus, "energy_mj"), _sum_of_maxima(gpus, "memory_used_mib")
    energy_j = None if energy_mj is None else energy_mj / MJ_PER_J
    count = sum(len(target.maxima("memory_used_mib")) for target in gpus)
    parts = None if not memory_estimate or not count else memory_estimate
    needed = None if parts is None else sum(size for part, size in parts.items() if part != "kv_cache")
    return GpuMetrics(
        samples=sum(target.samples for target in gpus),
        failed_reads=sum(target.failed_reads for target in gpus),
        gpus=count,
        memory_used_max_gib=None if memory_mib is None else memory_mib / MIB_PER_GIB,
        memory_estimate_gib=None if needed is None else needed * count / GIB,
        memory_estimate_with_kv_cache_gib=None if parts is None else sum(parts.values()) * count / GIB,
        power_max_w=_sum_of_maxima(gpus, "power_w"),
        energy_j=energy_j,
        energy_j_per_output_token=None
        if energy_j is None or not totals.arrived_tokens
        else energy_j / totals.arrived_tokens,
        tensor_active_max=_max(gpus, "tensor_active"),
        nvlink_tx_max_bytes_per_s=_sum_of_maxima(gpus, "nvlink_tx_bytes_per_s"),
        nvlink_rx_max_bytes_per_s=_sum_of_maxima(gpus, "nvlink_rx_bytes_per_s"),
        nvlink_tx_bytes=_integral(gpus, "nvlink_tx_bytes_per_s"),
        nvlink_rx_bytes=_integral(gpus, "nvlink_rx_bytes_per_s"),
    )


def _increase(targets: Sequence[ScrapeTarget], name: str) -> float | None:
    known = [increase for target in targets if (increase := target.increase(name)) is not None]
    return sum(known) if known and len(known) == len(targets) else None


def _mean(targets: Sequence[ScrapeTarget], name: str) -> float | None:
    total_s, count = _increase(targets, f"{name}_sum_s"), _increase(targets, f"{name}_count")
    return None if total_s is None or not count else total_s / count


def _max(targets: Sequence[ScrapeTarget], name: str) -> float | None:
    return max((value for target in targets for value in target.maxima(name)), default=None)


def _sum_of_maxima(targets: Sequence[ScrapeTarget], name: str) -> float | None:
    maxima = [value for target in targets for value in target.maxima(name)]
    return sum(maxima) if maxima else None


def _integral(targets: Sequence[ScrapeTarget], name: str) -> float | None:
    known = [integral for target in targets if (integral := target.integral(name)) is not None]
    return sum(known) if known else None


def _difference(minuend: float | None, subtrahend: float | None) -> float | None:
    return None if minuend is None or subtrahend is None else minuend - subtrahend
