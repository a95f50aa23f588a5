"""A scrape shows the figures of the totals, as computed by hand."""

import math
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.trials.exporter import histogram_quantile
from llmload.metrics.doubts import few_values
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Verdict
from llmload.prometheus.export import wsgi_app
from llmload.prometheus.families import INFO_LABELS, LATENCY_S, Snapshot, sample_names
from llmload.record import ErrorType, Outcome, RequestError, RequestRecord, Slo, StampSource, TokenSource, Window
from llmload.stats.histogram import Exemplar, Histogram
from llmload.units import NS_PER_S

LABELS = {"engine": "vLLM", "model": 'a "model"', "scenario": "s"}
SLO = Slo(ttft_s=0.25, e2e_s=1.0)


def scraped(snapshot: Snapshot, accept: str = "") -> str:
    headers: dict[str, str] = {}

    def start_response(status: str, pairs: list[tuple[str, str]]) -> Callable[[bytes], None]:
        assert status == "200 OK"
        headers.update(pairs)
        return lambda _: None

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/metrics", "HTTP_ACCEPT": accept}
    return b"".join(wsgi_app(lambda: snapshot)(environ, start_response)).decode()


def samples(text: str) -> dict[tuple[str, str], float]:
    """Every sample by its name and the values of its labels besides the common ones."""
    return {
        (sample.name, ",".join(v for k, v in sorted(sample.labels.items()) if k not in LABELS)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def record(outcome: Outcome, started_s: float, ttft_s: float = 0.2, gap_s: float = 0.1) -> RequestRecord:
    start_ns = round(started_s * NS_PER_S)
    chunks = np.array([started_s + ttft_s, started_s + ttft_s + gap_s]) * NS_PER_S
    answered = outcome is Outcome.COMPLETED
    return RequestRecord(
        request_id="r",
        prompt_id="1",
        started_ns=start_ns,
        done_ns=int(chunks[-1]),
        outcome=outcome,
        chunk_ns=chunks.astype(np.int64) if answered else np.empty(0, dtype=np.int64),
        prompt_tokens=10 if answered else None,
        cached_tokens=4 if answered else None,
        output_tokens=2 if answered else None,
        token_source=TokenSource.USAGE,
        stamp_source=StampSource.KERNEL,
        error=RequestError(type=ErrorType.RESET, message="gone") if outcome is Outcome.FAILED else None,
    )


def totals() -> RunTotals:
    """Five started: two answered in the warm-up or the window, one failed, one cut, one on its way."""
    counted = RunTotals(started=5)
    for each in (
        record(Outcome.COMPLETED, 0.0),
        record(Outcome.COMPLETED, 2.0, ttft_s=0.4),
        record(Outcome.FAILED, 2.0),
        record(Outcome.CENSORED, 2.0),
    ):
        counted.add(each, window=Window(start_ns=NS_PER_S), slo=SLO, run_start_ns=0)
    return counted


def test_every_series_exists_and_is_0_before_the_first_request() -> None:
    found = samples(scraped(Snapshot(labels=LABELS, users={"target": 0}, cpu_ratio={"local": 0.0})))

    absent = {"llmload_run_info", "llmload_gpu_memory_estimate_bytes"}
    absent |= {name for name in sample_names() if name.startswith("llmload_named_")}
    absent |= {f"llmload_{name}_quantile_seconds" for name in ("time_to_first_answer", "thinking")}
    absent.add("llmload_answer_time_per_output_token_quantile_seconds")
    assert {name for name, _ in found} == sample_names() - absent
    unknown = {name for (name, _), value in found.items() if value != value}
    assert {value for value in found.values() if value == value} == {0.0}
    assert len(unknown) == 6
    assert all(name.endswith("_quantile_seconds") for name in unknown), "None is unknown, zero is zero"
    assert ("llmload_request_errors_total", "reset") in found


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_cached_text_equals_the_librarys(accept: str) -> None:
    labels = {"engine": "a 100 %s \\ engine", "model": 'a "model"\r\u2028', "scenario": "line\nbreak"}
    counter = CounterMetricFamily("llmload_requests_started", "Requests sent.", labels=tuple(labels))
    gauge = GaugeMetricFamily(
        "llmload_worker_cpu_ratio",
        "CPU use of each llmload process, 1 is a whole core; near 1 it sends and counts late.",
        labels=(*labels, "worker"),
    )
    for started, busy in ((0, {"local": 0.5}), (7_000_000, {"0": 0.25, "1": 1e-7}), (7_000_001, {"0": 0.5, "1": 0.0})):
        counter.samples.clear()
        gauge.samples.clear()
        counter.add_metric([*labels.values()], started)
        for worker, ratio in busy.items():
            gauge.add_metric([*labels.values(), worker], ratio)
        registry = CollectorRegistry()
        registry.collect = lambda: [counter, gauge]  # type: ignore[method-assign] # what the library is to write
        own = choose_encoder(accept)[0](registry).decode().removesuffix("# EOF\n").split("\n")

        text = scraped(Snapshot(labels=labels, totals=RunTotals(started=started), cpu_ratio=busy), accept)
        assert set(own) <= set(text.split("\n"))
        assert "%%" not in text


def test_counts_cover_the_whole_run_with_warm_up() -> None:
    found = samples(scraped(Snapshot(labels=LABELS, totals=totals(), slo=SLO)))

    assert found["llmload_requests_started_total", ""] == 5
    outcomes = {outcome.value: found["llmload_requests_total", outcome.value] for outcome in Outcome}
    assert outcomes == {"completed": 2, "failed": 1, "censored": 1}
    assert found["llmload_requests_in_flight", ""] == 1
    assert found["llmload_request_errors_total", "reset"] == 1
    assert found["llmload_requests_good_total", ""] == 1  # the second took 0.4 s to its first token
    tokens = [found[f"llmload_{kind}_tokens_total", ""] for kind in ("prompt", "cached_prompt", "output")]
    assert tokens == [20, 8, 4]


def test_a_histogram_has_the_slo_limit_as_a_bound_and_exact_count_and_sum() -> None:
    found = samples(scraped(Snapshot(labels=LABELS, totals=totals(), slo=SLO)))
    name = "llmload_time_to_first_token_seconds"

    assert found[f"{name}_bucket", "0.25"] == 1
    assert found[f"{name}_bucket", "+Inf"] == found[f"{name}_count", ""] == 2
    assert found[f"{name}_sum", ""] == pytest.approx(0.6)
    assert found["llmload_inter_token_latency_seconds_count", ""] == 2
    assert ("llmload_inter_token_latency_seconds_bucket", "0.25") not in found
    bounds = [value for (of, le), value in found.items() if of == f"{name}_bucket"]
    assert bounds == sorted(bounds)


def test_quantile_gauges_are_those_of_the_window_as_in_the_summary() -> None:
    counted = totals()
    found = samples(scraped(Snapshot(labels=LABELS, totals=counted, slo=SLO)))

    assert found["llmload_time_to_first_token_quantile_seconds", "p99"] == counted.distributions["ttft_s"].quantile(
        0.99
    )
    assert found["llmload_time_to_first_token_quantile_seconds", "p50"] == pytest.approx(0.4, rel=0.003)


@pytest.mark.parametrize("spread", [0.0, 0.01, 0.3, 2.0], ids=["all alike", "close", "some", "wide"])
def test_a_quantile_between_two_bounds_is_within_6_per_cent_of_the_summarys(spread: float) -> None:
    chance = np.random.default_rng(7)
    worst = 0.0
    for middle_s in chance.uniform(np.log(0.002), np.log(20.0), 60):
        values = np.clip(chance.lognormal(middle_s, spread, int(chance.integers(1, 400))), 0.001, 240.0)
        values[: len(values) // 10] = chance.choice(values)  # a crowd, at the edge of a bucket or not
        histogram = Histogram()
        histogram.add_many(values)
        counts = map(float, histogram.counts_at_most(LATENCY_S))
        buckets = [*zip(LATENCY_S, counts, strict=True), (math.inf, float(len(values)))]
        for share in (0.5, 0.95, 0.99):
            said = histogram.quantile(share)
            assert said is not None
            worst = max(worst, abs(histogram_quantile(share, buckets) / said - 1))

    assert 0.0 < worst < 0.06


def test_latency_bounds_reach_from_a_millisecond_to_the_longest_timeout() -> None:
    assert max(high / low for low, high in pairwise(LATENCY_S)) < 1.0513
    assert (len(LATENCY_S), LATENCY_S[0] < 0.00101, LATENCY_S[-1] > 240) == (255, True, True)


def test_bounds_are_those_of_the_totals_own_buckets() -> None:
    histogram = Histogram()
    histogram.add_many(np.array([bound * factor for bound in LATENCY_S for factor in (1.0005, 0.9985)]))

    below = histogram.counts_at_most(LATENCY_S)

    assert below == [2 * index + 1 for index in range(len(LATENCY_S))], "what is above a bound counted below it"
    assert below == [histogram.count_at_most(bound) for bound in LATENCY_S]


def test_recent_slowest_requests_are_exemplars_of_their_buckets_in_openmetrics_only() -> None:
    counted = totals()
    counted.exemplars["ttft_s"].append(Exemplar(1e9, "r" * 120, 1.7e9))  # too long a name for OpenMetrics
    counted.exemplars["ttft_s"].append(Exemplar(0.39999, "less slow, in the same bucket", 1.7e9))
    snapshot = Snapshot(labels=LABELS, totals=counted, slo=SLO)
    text = scraped(snapshot, accept="application/openmetrics-text; version=1.0.0")
    found = {
        family.name: [(sample.labels["le"], sample.exemplar) for sample in family.samples if sample.exemplar]
        for family in open_metrics(text)
    }

    ((bound, ttft),) = found["llmload_time_to_first_token_seconds"]
    assert (ttft.labels, ttft.value) == ({"request_id": "r"}, pytest.approx(0.4))
    assert float(bound) >= 0.4 > LATENCY_S[LATENCY_S.index(float(bound)) - 1]
    assert [len(found[f"llmload_{name}_seconds"]) for name in ("e2e_request_latency", "inter_token_latency")] == [1, 0]
    assert "request_id" not in scraped(snapshot)


def test_run_verdict_and_processes_have_their_labels() -> None:
    info = dict.fromkeys(INFO_LABELS, "") | {"run_id": "r1", "engine": "vLLM"}
    snapshot = Snapshot(
        labels=LABELS,
        info=info,
        running=True,
        started_unix_s=1.7e9,
        users={"running": 3, "target": 8},
        workers={"running": 2, "missing": 1},
        cpu_ratio={"master": 0.2, "0": 0.95},
        memory_estimate_bytes={"weights": 2e9, "kv_cache": 5e9},
        verdict=Verdict(level=Level.DEGRADED, reasons=(), doubts=tuple(few_values(totals()))),
    )

    text = scraped(snapshot)
    found = samples(text)

    assert 'run_id="r1"' in text
    assert [found["llmload_verdict", level.value] for level in Level] == [0, 1, 0]
    assert found["llmload_figure_doubt", "few_values,ttft_s,p99"] == 1  # labels in the order of their names
    assert found["llmload_figure_doubt", "user_stamp_share,ttft_s,p99"] == 0
    assert (found["llmload_users", "running"], found["llmload_users", "target"]) == (3, 8)
    assert (found["llmload_workers", "running"], found["llmload_workers", "missing"]) == (2, 1)
    assert found["llmload_worker_cpu_ratio", "0"] == 0.95
    assert found["llmload_gpu_memory_estimate_bytes", "kv_cache"] == 5e9
    assert found["llmload_run_start_timestamp_seconds", ""] == 1.7e9
    assert found["llmload_run_end_timestamp_seconds", ""] == 0


def test_what_the_network_did_is_counted_by_event_and_side() -> None:
    seen = RunTotals(retransmissions=3, late_segments=2, client_closed_windows=1, resets=Counter(engine=4))

    found = samples(scraped(Snapshot(labels=LABELS, totals=seen)))

    events = {label: value for (name, label), value in found.items() if name == "llmload_network_events_total"}
    assert events == {
        "segment_came_twice": 3,
        "segment_came_late": 2,
        "window_closed_by_engine": 0,
        "window_closed_by_client": 1,
        "reset_by_engine": 4,
        "reset_by_client": 0,
    }


def test_openmetrics_is_served_if_the_accept_header_asks_for_it() -> None:
    text = scraped(Snapshot(labels=LABELS, totals=totals()), accept="application/openmetrics-text; version=1.0.0")

    assert text.endswith("# EOF\n")
    assert {family.name for family in open_metrics(text)} >= {"llmload_requests", "llmload_users"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_promtool_accepts_the_names() -> None:
    snapshot: Any = Snapshot(labels=LABELS, totals=totals(), slo=SLO, cpu_ratio={"local": 0.5})
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=scraped(snapshot), capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
