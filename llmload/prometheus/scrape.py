"""Metrics that the engine and the GPUs serve, read beside a run: when, into which file, and their summary."""

import csv
import io
import logging
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from llmload.access.address import origin_of
from llmload.access.secrecy import NOBODY, Access
from llmload.errors import ConfigError, plain
from llmload.fetch import http_get, ssl_context
from llmload.metrics.totals import RunTotals
from llmload.prometheus.pages import ENGINE, GPU, Page, ScrapedFigure, read_page
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS, RunFolder
from llmload.runs.summary_parts import EngineMetrics, GpuMetrics
from llmload.runs.writing import AppendedFile
from llmload.scenario.sections import Monitor
from llmload.units import GIB, MIB_PER_GIB, MJ_PER_J

TIMEOUT_S: Final = 2.0
"""How long one page may take in all."""
START_WAIT_S: Final = 0.3
"""How long a run's first request waits for pages; a page on the same network takes some milliseconds."""
END_WAIT_S: Final = 1.0
"""How long a run's summary waits for them."""
MAX_RESPONSE_BYTES: Final = 4_000_000
MAX_PARTS: Final = 1_000
"""Different GPUs at one URL, over the whole run."""
NO_METRICS: Final = "no metrics from"
_MAX_REASON: Final = 200
logger = logging.getLogger(__name__)


class ScrapeTarget:
    """One URL: each sample is appended to a file, a line a part (an engine, a GPU), and aggregated for the summary."""

    def __init__(
        self,
        url: str,
        figures: Sequence[ScrapedFigure],
        file: AppendedFile,
        by: str = "",
        tls: ssl.SSLContext | None = None,
        hide: Callable[[str], str] = str,
        access: Access = NOBODY,
    ) -> None:
        """Prepare; `hide` removes keys from what the page says, `access` is sent to it."""
        self._url, self._figures, self._file, self._by, self._tls, self._hide = url, figures, file, by, tls, hide
        self._headers = access.all_headers()
        self._first: dict[str, dict[str, float]] = {}
        self._last: dict[str, dict[str, float]] = {}
        self._max: dict[str, dict[str, float]] = {}
        self._integrals: dict[str, float] = {}
        self._sampled_s: float | None = None
        self._said: set[str] = set()
        self.begun_s = 0.0
        """When the read of the last sample began, monotonic."""
        self.is_whole = True
        """Whether there are samples from before the first request and from after the last."""
        self.is_closed = False
        """Whether it takes no more samples."""
        self.samples = self.failed_reads = 0

    def sample(self) -> None:
        """Read the URL once; a failed read is counted and does not end the run."""
        begun_s = time.monotonic()
        try:
            answer = http_get(
                self._url, timeout_s=TIMEOUT_S, max_bytes=MAX_RESPONSE_BYTES, headers=self._headers, tls=self._tls
            )
            page = read_page(answer.body.decode("utf-8", "replace"), self._figures, self._by, self._hide)
        except Exception as error:  # noqa: BLE001 - no answer, however broken, may end the run
            self.failed_reads += not self.is_closed
            hint = "" if urlsplit(self._url).path.strip("/") else ": the address has no path, engines have /metrics"
            self._say(NO_METRICS, f"{str(error) or type(error).__name__}{hint}")
            return
        self._say_lost(page)
        if begun_s >= self.begun_s:  # not one that was overtaken
            self.begun_s = begun_s
            self.record(page.parts)

    @property
    def has_figures(self) -> bool:
        """Whether the last sample has any figure."""
        return bool(self._last)

    def miss(self, when: str) -> None:
        """Note that there is no sample of a moment that counts; what counters did in the run is then not known."""
        self.is_whole = False
        if NO_METRICS not in self._said:
            self._say(f"no metrics of the run's {when} from", "what its counters did in the run is n/a")

    def _say_lost(self, page: Page) -> None:
        if page.lost:
            lines = "1 line is" if page.lost == 1 else f"{page.lost:,} lines are"
            self._say("a part of the metrics is lost from", f"{lines} not read, of which {page.why}")
        elif not page.parts:
            self._say(NO_METRICS, "the page has none of the series that llmload reads")

    def _say(self, what: str, why: str) -> None:
        """Log something about this URL, once."""
        if what not in self._said and not self.is_closed:
            self._said.add(what)
            logger.warning("%s %s: %s", what, self._url, plain(self._hide(why))[:_MAX_REASON])

    def record(self, parts: dict[str, dict[str, float]]) -> None:
        """Aggregate a sample and append it to the file."""
        if self.is_closed:
            return
        if len(parts.keys() | self._max.keys()) > MAX_PARTS:
            parts = {part: values for part, values in parts.items() if part in self._max}
            self._say("a part of the metrics is lost from", f"it has named more than {MAX_PARTS:,} different GPUs")
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
    """
    Reads every URL of a scenario: `begin` before the first request, `watch` from then on, `end` after the last.

    Each read has its own thread, so that a slow or dead page delays neither the run nor other pages.
    """

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

        `access`, the engine's key and headers, is sent to the origins of `engine_urls` alone, and hidden in what any
        page says.
        """
        own, hide = frozenset(map(origin_of, engine_urls)), access.hider()
        urls = [*monitor.engine_metrics_url, *filter(None, [monitor.dcgm_url])]
        tls = _tls(ca_file, verify_tls) if any(url.startswith("https:") for url in urls) else None
        self._interval_s = monitor.interval_s
        engines, gpus = samples_file(folder, ENGINE_METRICS, ENGINE), samples_file(folder, GPU_METRICS, GPU)

        def target(url: str, figures: Sequence[ScrapedFigure], file: AppendedFile, by: str = "") -> ScrapeTarget:
            return ScrapeTarget(url, figures, file, by, tls, hide, access if origin_of(url) in own else NOBODY)

        self._engines = [target(url, ENGINE, engines) for url in monitor.engine_metrics_url]
        self._gpus = [target(monitor.dcgm_url, GPU, gpus, by="gpu")] if monitor.dcgm_url else []
        self._reads: dict[ScrapeTarget, threading.Thread] = {}
        """The last read of each."""

    def begin(self) -> None:
        """Read every URL once, and wait for that `START_WAIT_S` at most."""
        for target in self._read(START_WAIT_S):
            target.miss("start")

    def watch(self) -> None:
        """Read every interval until killed; return at once if there is no URL."""
        if not self._engines and not self._gpus:
            return
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + self._interval_s, time.monotonic())
            time.sleep(max(0.0, due_s - time.monotonic()))
            for target in (*self._engines, *self._gpus):
                if not self._reads[target].is_alive():
                    self._start(target)

    def end(self) -> None:
        """Read every URL once more, and wait for that `END_WAIT_S` at most; take nothing that comes later."""
        for target in self._read(END_WAIT_S):
            target.failed_reads += self._reads[target].is_alive()
            target.miss("end")
        self.close()

    def close(self) -> None:
        """Take no more samples."""
        for target in (*self._engines, *self._gpus):
            target.is_closed = True

    def _read(self, wait_s: float) -> list[ScrapeTarget]:
        """Read every URL, and return those without figures in time."""
        begun_s, targets = time.monotonic(), (*self._engines, *self._gpus)
        for thread in [self._start(target) for target in targets]:
            thread.join(max(0.0, begun_s + wait_s - time.monotonic()))
        return [target for target in targets if target.begun_s < begun_s or not target.has_figures]

    def _start(self, target: ScrapeTarget) -> threading.Thread:
        self._reads[target] = threading.Thread(target=target.sample, daemon=True)
        self._reads[target].start()
        return self._reads[target]

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
    output, hits = _in_all(engines, "output_tokens"), _increase(engines, "prefix_cache_hits")
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
        preemptions=_in_all(engines, "preemptions"),
        prefix_cache_hit_share=hits / queries if hits is not None and queries else None,
        prompt_tokens=_in_all(engines, "prompt_tokens"),
        client_prompt_tokens=totals.arrived_prompt_tokens,
        output_tokens=output,
        client_output_tokens=totals.arrived_tokens,
        output_tokens_gap=_difference(output, totals.arrived_tokens),
    )


def gpu_summary(
    gpus: Sequence[ScrapeTarget], totals: RunTotals, memory_estimate: Mapping[str, float] | None = None
) -> GpuMetrics:
    """Return the GPUs' figures summed over all of them; the estimate, which is for one GPU, times their number."""
    energy_mj, memory_mib = _in_all(gpus, "energy_mj"), _sum_of_maxima(gpus, "memory_used_mib")
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


def _in_all(targets: Sequence[ScrapeTarget], name: str) -> float | None:
    """Return how much a counter increased from before the first request to after the last; None if not known."""
    return _increase(targets, name) if all(target.is_whole for target in targets) else None


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
    whole = all(target.is_whole for target in targets)
    known = [integral for target in targets if whole and (integral := target.integral(name)) is not None]
    return sum(known) if known else None


def _difference(minuend: float | None, subtrahend: float | None) -> float | None:
    return None if minuend is None or subtrahend is None else minuend - subtrahend
