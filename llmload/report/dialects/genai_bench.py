"""genai-bench: one figure a request and metric, then the statistics of those, in seconds."""

from typing import Final

from llmload.report.dialects.figures import Figure, Section
from llmload.report.dialects.sample import Sample
from llmload.report.dialects.statistics import Values, ratio, statistic

STATISTICS: Final = {
    "min": "min",
    "max": "max",
    "mean": "mean",
    "stddev": "std",
    **{name: name for name in ("p25", "p50", "p75", "p90", "p95", "p99")},
}
SECONDS: Final = {"ttft", "tpot", "e2e_latency", "output_latency"}
LEAST_OUTPUT_LATENCY_S: Final = 0.001
"""A shorter one is "abnormal" to genai-bench: its TPOT and speed are left out."""


def genai_bench(sample: Sample) -> list[Section]:
    """
    Return the figures by genai_bench/metrics/request_metrics_collector.py and aggregated_metrics_collector.py.

    TTFT = first text - start, e2e latency ends with the usage chunk, TPOT = (e2e - TTFT) / (n - 1).
    """
    per_request = _per_request(sample)
    rows = [
        Figure(
            key=f"stats.{key}.{name}",
            row=key,
            column=name,
            value=statistic(values, of),
            digits=4 if key in SECONDS else 2,
        )
        for key, values in per_request.items()
        for name, of in STATISTICS.items()
    ]
    return [
        Section(title="Aggregated metrics", figures=tuple(_totals(sample))),
        Section(title="Statistics of requests (s, tokens, tokens/s)", figures=tuple(rows)),
    ]


def _per_request(sample: Sample) -> dict[str, Values]:
    answers = sample.answers
    counted = [a for a in answers if a.record.output_tokens is not None]
    prompted = [a for a in answers if a.record.prompt_tokens is not None]
    several = [(a.done_s - a.first_text_s, (a.record.output_tokens or 0) - 1) for a in counted]
    several = [(latency_s, tokens) for latency_s, tokens in several if tokens > 0]
    tpot_s = [latency_s / tokens for latency_s, tokens in several if latency_s >= LEAST_OUTPUT_LATENCY_S]
    return {
        "ttft": [a.first_text_s for a in answers],
        "tpot": tpot_s,
        "e2e_latency": [a.done_s for a in answers],
        "output_latency": [a.done_s - a.first_text_s for a in answers],
        "output_inference_speed": [1 / each for each in tpot_s],
        "num_input_tokens": [a.record.prompt_tokens or 0 for a in prompted],
        "num_output_tokens": [a.record.output_tokens or 0 for a in counted],
        "total_tokens": [
            (a.record.prompt_tokens or 0) + (a.record.output_tokens or 0)
            for a in prompted
            if a.record.output_tokens is not None
        ],
        "input_throughput": [(a.record.prompt_tokens or 0) / a.first_text_s for a in prompted if a.first_text_s],
        "output_throughput": [tokens / latency_s for latency_s, tokens in several if latency_s],
    }


def _totals(sample: Sample) -> list[Figure]:
    duration_s, prompt, output = sample.duration_s(), sample.prompt_tokens(), sample.output_tokens()
    both = None if prompt is None or output is None else prompt + output
    ended = len(sample.answers) + sample.failed
    totals: dict[str, float | None] = {
        "num_concurrency": sample.users,
        "run_duration": duration_s,
        "mean_output_throughput_tokens_per_s": ratio(output, duration_s),
        "mean_input_throughput_tokens_per_s": ratio(prompt, duration_s),
        "mean_total_tokens_throughput_tokens_per_s": ratio(both, duration_s),
        "requests_per_second": ratio(len(sample.answers), duration_s),
        "error_rate": ratio(sample.failed, ended),
        "num_error_requests": sample.failed,
        "num_completed_requests": len(sample.answers),
        "num_requests": ended,
    }
    whole = {"num_concurrency", "num_error_requests", "num_completed_requests", "num_requests"}
    return [Figure(key=key, row=key, value=value, digits=0 if key in whole else 3) for key, value in totals.items()]
