"""AIPerf and genai-bench: one figure per request and metric, then statistics of those."""

from typing import Final

from llmload.definitions.sample import Answer, Figure, Sample, Section, Values, ratio, statistic
from llmload.units import MS_PER_S

AIPERF_STATISTICS: Final = ("avg", "min", "max", "p99", "p90", "p50", "std")


def aiperf(sample: Sample) -> list[Section]:
    """
    Return the figures by aiperf/metrics/types.

    Only chunks with text count, and the last of them ends the request: request latency = last text - start,
    ITL = (request latency - TTFT) / (n - 1) is one figure per request; throughputs are over first start to last text.
    """
    per_request = _aiperf_per_request(sample)
    rows = [
        Figure(key=f"{key}.{name}", row=f"{title} ({unit})", column=name, value=statistic(values, name))
        for key, (title, unit, values) in per_request.items()
        for name in AIPERF_STATISTICS
    ]
    return [Section(title="NVIDIA AIPerf | LLM Metrics", figures=(*rows, *_aiperf_totals(sample)))]


def _aiperf_per_request(sample: Sample) -> dict[str, tuple[str, str, Values]]:
    answers = sample.answers
    several = [a for a in answers if (a.record.output_tokens or 0) > 1]
    itl_s = [(a.last_text_s - a.first_text_s) / ((a.record.output_tokens or 0) - 1) for a in several]
    counted = [a for a in answers if a.record.output_tokens is not None]
    prompts = [a.record.prompt_tokens for a in answers if a.record.prompt_tokens is not None]
    ttft_ms = [a.first_text_s * MS_PER_S for a in answers]
    reasoned = any(a.record.reasoning_tokens for a in answers)  # then the first text is not the first output
    return {
        "time_to_first_token": ("Time to First Token", "ms", ttft_ms),
        "time_to_second_token": ("Time to Second Token", "ms", _second_text_ms(answers)),
        "time_to_first_output_token": ("Time to First Output Token", "ms", [] if reasoned else ttft_ms),
        "request_latency": ("Request Latency", "ms", [a.last_text_s * MS_PER_S for a in answers]),
        "decode_duration": ("Decode Duration", "ms", [(a.last_text_s - a.first_text_s) * MS_PER_S for a in answers]),
        "inter_token_latency": ("Inter Token Latency", "ms", [each * MS_PER_S for each in itl_s]),
        "output_token_throughput_per_user": (
            *("Output Token Throughput Per User", "tokens/sec/user"),
            [1 / each for each in itl_s if each],
        ),
        "e2e_output_token_throughput": (
            *("E2E Output Token Throughput", "tokens/sec/user"),
            [(a.record.output_tokens or 0) / a.last_text_s for a in counted],
        ),
        "output_sequence_length": ("Output Sequence Length", "tokens", [a.record.output_tokens or 0 for a in counted]),
        "input_sequence_length": ("Input Sequence Length", "tokens", prompts),
    }


def _second_text_ms(answers: tuple[Answer, ...]) -> list[float]:
    return [float(a.record.itl_s[0]) * MS_PER_S for a in answers if len(a.record.chunk_ns) > 1]


def _aiperf_totals(sample: Sample) -> list[Figure]:
    answers, duration_s = sample.answers, _duration_s(sample)
    ended = len(answers) + sample.failed
    totals: dict[str, tuple[str, float | None]] = {
        "output_token_throughput": ("Output Token Throughput (tokens/sec)", ratio(sample.output_tokens(), duration_s)),
        "input_token_throughput": ("Input Token Throughput (tokens/sec)", ratio(sample.prompt_tokens(), duration_s)),
        "request_throughput": ("Request Throughput (requests/sec)", ratio(len(answers), duration_s)),
        "completed_request_count": ("Completed Requests (Success + Error) (requests)", ended),
        "request_error_rate": ("Request Error Rate (%)", ratio(100.0 * sample.failed, ended)),
        "request_count": ("Request Count (requests)", len(answers)),
        "benchmark_duration": ("Benchmark Duration (sec)", duration_s),
    }
    return [Figure(key=f"{key}.avg", row=row, column="avg", value=value) for key, (row, value) in totals.items()]


def _duration_s(sample: Sample) -> float | None:
    """Return the time from the first start to the last text; None without answers."""
    if not sample.answers:
        return None
    return max(each.start_unix_s + each.last_text_s for each in sample.answers) - min(sample.starts_s)


GENAI_BENCH_STATISTICS: Final = {
    "min": "min",
    "max": "max",
    "mean": "mean",
    "stddev": "std",
    **{name: name for name in ("p25", "p50", "p75", "p90", "p95", "p99")},
}
SECONDS: Final = {"ttft", "tpot", "e2e_latency", "output_latency"}
MIN_OUTPUT_LATENCY_S: Final = 0.001
"""genai-bench calls a shorter one "abnormal" and leaves out its TPOT and speed."""


def genai_bench(sample: Sample) -> list[Section]:
    """
    Return the figures by genai_bench/metrics/request_metrics_collector.py and aggregated_metrics_collector.py.

    TTFT = first text - start, e2e latency ends with the usage chunk, TPOT = (e2e - TTFT) / (n - 1).
    """
    per_request = _genai_bench_per_request(sample)
    rows = [
        Figure(
            key=f"stats.{key}.{name}",
            row=key,
            column=name,
            value=statistic(values, of),
            digits=4 if key in SECONDS else 2,
        )
        for key, values in per_request.items()
        for name, of in GENAI_BENCH_STATISTICS.items()
    ]
    return [
        Section(title="Aggregated metrics", figures=tuple(_genai_bench_totals(sample))),
        Section(title="Statistics of requests (s, tokens, tokens/s)", figures=tuple(rows)),
    ]


def _genai_bench_per_request(sample: Sample) -> dict[str, Values]:
    answers = sample.answers
    counted = [a for a in answers if a.record.output_tokens is not None]
    prompted = [a for a in answers if a.record.prompt_tokens is not None]
    several = [(a.done_s - a.first_text_s, (a.record.output_tokens or 0) - 1) for a in counted]
    several = [(latency_s, tokens) for latency_s, tokens in several if tokens > 0]
    tpot_s = [latency_s / tokens for latency_s, tokens in several if latency_s >= MIN_OUTPUT_LATENCY_S]
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


def _genai_bench_totals(sample: Sample) -> list[Figure]:
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
