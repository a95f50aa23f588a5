"""
What the engine did: counters under vLLM's names for Prometheus, and the truth log, one JSON line a request.

Times in the truth log are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share. Fields:

    request_id path stream status prompt_tokens cached_tokens output_tokens (written) finish fault
    received_ns      the request's last byte was read
    admitted_ns      it got its slot (null: it never did)
    first_due_ns     when the first token was due
    first_write_ns   when it was written (an error: when the error was)
    last_write_ns    the last write
    max_late_ns      the latest that any of its tokens was written after it was due
    chunk_ns         every token's write, with log_chunks

`finish` is stop, length, abort (the client left), error (a fault struck, or an error was answered). A line is written
just after the last byte of its answer: a reader that has the answer may have to wait a moment for the line.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from llmload.units import NS_PER_S

FINISHED_REASONS = ("stop", "length", "abort", "error")

_TTFT_BOUNDS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_ITL_BOUNDS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_E2E_BOUNDS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


class DurationHistogram:
    """Counts durations in vLLM's buckets; their sum is exact."""

    __slots__ = ("_bounds_s", "_counts", "_sum_ns")

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._bounds_s = bounds_s
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration, in nanoseconds."""
        self._counts[bisect_left(self._bounds_s, duration_ns / NS_PER_S)] += 1
        self._sum_ns += duration_ns

    def family(self, name: str, text: str, label: str) -> HistogramMetricFamily:
        """Return the histogram for Prometheus, with cumulative buckets."""
        buckets, total = [], 0
        for bound, count in zip([*map(str, self._bounds_s), "+Inf"], self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family = HistogramMetricFamily(name, text, labels=["model_name"])
        family.add_metric([label], buckets, self._sum_ns / NS_PER_S)
        return family


class EngineTotals:
    """What the engine has done since its start: tokens, requests by finished_reason, three histograms."""

    __slots__ = (
        *("e2e", "finished", "generation_tokens", "itl", "prefix_cache_hits", "prefix_cache_queries"),
        *("decode", "drafts", "preemptions", "prefill", "prompt_tokens", "queue", "ttft"),
    )

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.prefix_cache_queries = 0
        self.prefix_cache_hits = 0
        self.finished = dict.fromkeys(FINISHED_REASONS, 0)
        self.ttft = DurationHistogram(_TTFT_BOUNDS_S)
        self.itl = DurationHistogram(_ITL_BOUNDS_S)
        self.e2e = DurationHistogram(_E2E_BOUNDS_S)
        self.queue, self.prefill, self.decode = (DurationHistogram(_E2E_BOUNDS_S) for _ in range(3))
        self.preemptions = 0
        self.drafts = 0
        """Steps of speculative decoding."""


class BatchGauges:
    """The batch now: requests running and waiting, fraction of the KV cache in use (0 to 1)."""

    __slots__ = ("kv_cache_usage", "running", "waiting")

    def __init__(self, running: int, waiting: int, kv_cache_usage: float) -> None:
        self.running = running
        self.waiting = waiting
        self.kv_cache_usage = kv_cache_usage


class EngineCollector(Collector):
    """Converts totals and gauges to metric families at each scrape."""

    def __init__(
        self, model: str, totals: EngineTotals, gauges: Callable[[], BatchGauges], draft_tokens: int, accepted: int
    ) -> None:
        self._model = model
        self._draft_tokens, self._accepted = draft_tokens, accepted
        self._totals = totals
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield all families, each present from the start."""
        yield from self._now()
        yield from self._counted()
        totals, model = self._totals, self._model
        yield totals.ttft.family("vllm:time_to_first_token_seconds", "Time to first token in seconds.", model)
        yield totals.itl.family("vllm:inter_token_latency_seconds", "Inter-token latency in seconds.", model)
        yield totals.queue.family("vllm:request_queue_time_seconds", "Time in the queue.", model)
        yield totals.prefill.family("vllm:request_prefill_time_seconds", "Time of prefill.", model)
        yield totals.decode.family("vllm:request_decode_time_seconds", "Time of decode.", model)
        if self._draft_tokens:
            yield from self._drafted()
        yield totals.e2e.family("vllm:e2e_request_latency_seconds", "E2e request latency in seconds.", model)

    def _now(self) -> Iterator[Metric]:
        gauges = self._gauges()
        for name, text, value in (
            ("vllm:num_requests_running", "Requests that hold a slot.", gauges.running),
            ("vllm:num_requests_waiting", "Requests that wait for a slot.", gauges.waiting),
            ("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", gauges.kv_cache_usage),
        ):
            family = GaugeMetricFamily(name, text, labels=["model_name"])
            family.add_metric([self._model], value)
            yield family

    def _counted(self) -> Iterator[Metric]:
        for name, text, value in (
            ("vllm:prompt_tokens", "Prompt tokens of requests whose first token came.", self._totals.prompt_tokens),
            ("vllm:generation_tokens", "Tokens generated.", self._totals.generation_tokens),
            ("vllm:prefix_cache_queries", "Prompt tokens looked for in the cache.", self._totals.prefix_cache_queries),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the cache.", self._totals.prefix_cache_hits),
            ("vllm:num_preemptions", "Requests that were put back.", self._totals.preemptions),
        ):
            family = CounterMetricFamily(name, text, labels=["model_name"])
            family.add_metric([self._model], value)
            yield family
        ended = CounterMetricFamily(
            "vllm:request_success", "Requests ended, by reason.", labels=["model_name", "finished_reason"]
        )
        for reason, count in self._totals.finished.items():
            ended.add_metric([self._model, reason], count)
        yield ended

    def _drafted(self) -> Iterator[Metric]:
        drafts = self._totals.drafts
        for name, text, value in (
            ("vllm:spec_decode_num_drafts", "Steps of speculative decoding.", drafts),
            ("vllm:spec_decode_num_draft_tokens", "Tokens drafted.", drafts * self._draft_tokens),
            ("vllm:spec_decode_num_accepted_tokens", "Drafted tokens accepted.", drafts * self._accepted),
        ):
            family = CounterMetricFamily(name, text, labels=["model_name"])
            family.add_metric([self._model], value)
            yield family
        name, labels = "vllm:spec_decode_num_accepted_tokens_per_pos", ["model_name", "position"]
        by_position = CounterMetricFamily(name, "The same, by position.", labels=labels)
        for position in range(self._draft_tokens):
            by_position.add_metric([self._model, str(position)], drafts if position < self._accepted else 0)
        yield by_position


def registry_of(collector: EngineCollector) -> CollectorRegistry:
    """Return a separate registry, so that no metrics of this process mix in."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Return the metrics as Prometheus text."""
    return generate_latest(registry)


class TruthLog:
    """Appends lines to a file; does nothing without one."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("ab", buffering=0)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, visible to readers at once."""
        if self._file is not None:
            self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
