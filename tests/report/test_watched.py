"""The metrics of engine and GPUs are shown beside the client's figures; missing ones are n/a."""

import io
from typing import Any

import numpy as np
from rich.console import Console

from llmload.metrics.totals import RunTotals
from llmload.prometheus.scrape import engine_summary, gpu_summary
from llmload.report.terminal import sampled_tables
from tests.run_files import summary_of

ENGINE: dict[str, Any] = {
    "samples": 61,
    "failed_reads": 2,
    "ttft_mean_s": 0.1,
    "client_ttft_mean_s": 0.1234,
    "ttft_gap_s": 0.0234,
    "itl_mean_s": None,
    "client_itl_mean_s": 0.02,
    "itl_gap_s": None,
    "running_max": 7.0,
    "waiting_max": 0.0,
    "kv_cache_usage_max": 0.456,
    "preemptions": 3.0,
    "prefix_cache_hit_share": 0.25,
    "output_tokens": 12_345.0,
    "client_output_tokens": 12_300,
    "output_tokens_gap": 45.0,
}
GPUS: dict[str, Any] = {
    "samples": 60,
    "failed_reads": 0,
    "gpus": 2,
    "memory_used_max_gib": 143.5,
    "memory_estimate_gib": 131.25,
    "memory_estimate_with_kv_cache_gib": 142.0,
    "power_max_w": 900.5,
    "energy_j": 50_000.0,
    "energy_j_per_output_token": 4.065,
    "tensor_active_max": 0.31,
    "nvlink_tx_max_bytes_per_s": 2.5e9,
    "nvlink_rx_max_bytes_per_s": None,
    "nvlink_tx_bytes": 30e9,
    "nvlink_rx_bytes": None,
}


def shown(**changes: Any) -> str:
    summary = summary_of(**changes)
    text = io.StringIO()
    console = Console(width=120, file=text)
    for table in sampled_tables(summary):
        console.print(table)
    return " ".join(text.getvalue().split())


def test_every_figure_is_shown_with_its_unit() -> None:
    text = shown(engine_metrics=ENGINE, gpu_metrics=GPUS)

    for line in (
        "TTFT, mean 100.00 ms, client's 123.40 ms, gap 23.40 ms",
        "ITL, mean n/a, client's 20.00 ms, gap n/a",
        "running, waiting 7, 0 at most",
        "KV cache in use 45.6% at most",
        "preemptions 3",
        "prefix cache hits 25.0%",
        "output tokens 12,345, client's 12,300, gap 45",
        "read 61 times, 2 reads failed",
        "143.50 GiB at most; sizing expects 131.25 GiB, and 142 GiB with the KV cache",
        "power 900.50 W at most",
        "energy 50,000 J, 4.07 J an output token",
        "NVLink, sent 2.50 GB/s at most, 30.00 GB in all",
    ):
        assert line in text


def test_an_unmonitored_run_shows_nothing_and_an_engine_without_metrics_shows_failed_reads() -> None:
    assert shown(engine_metrics=None, gpu_metrics=None) == shown() == ""
    silent = engine_summary([], RunTotals()).model_dump() | {"failed_reads": 12}
    assert "none: 12 reads failed, as for an engine that serves no metrics" in shown(engine_metrics=silent)


def test_every_shown_key_is_one_of_the_summarys() -> None:
    totals = RunTotals(arrived_tokens=3)
    totals.distributions["ttft_s"].add_many(np.array([0.1]))
    engine, gpus = (of([], totals).model_dump() | {"samples": 1} for of in (engine_summary, gpu_summary))

    text = shown(engine_metrics=engine, gpu_metrics=gpus)

    assert "TTFT, mean n/a, client's 100.00 ms, gap n/a" in text
    assert set(ENGINE) <= set(engine)
    assert set(GPUS) <= set(gpus)
