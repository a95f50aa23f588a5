"""AIPerf: one figure a request and metric, then the statistics of those."""

from typing import Final

from llmload.report.dialects.figures import Figure, Section
from llmload.report.dialects.sample import Answer, Sample
from llmload.report.dialects.statistics import Values, ratio, statistic

STATISTICS: Final = ("avg", "min", "max", "p99", "p90", "p50", "std")
MS_PER_S: Final = 1000


def aiperf(sample: Sample) -> list[Section]:
    """
    Return the figures by aiperf/metrics/types.

    Only chunks with text count, and the last of them ends the request: request latency = last text - start,
    ITL = (request latency - TTFT) / (n - 1) as one figure a request, throughputs over first start to last text.
    """
    per_request = _per_request(sample)
    rows = [
        Figure(key=f"{key}.{name}", row=f"{title} ({unit})", column=name, value=statistic(values, name))
        for key, (title, unit, values) in per_request.items()
        for name in STATISTICS
    ]
    return [Section(title="NVIDIA AIPerf | LLM Metrics", figures=(*rows, *_totals(sample)))]


def _per_request(sample: Sample) -> dict[str, tuple[str, str, Values]]:
    answers = sample.answers
    several = [a for a in answers if (a.record.output_tokens or 0) > 1]
    itl_s = [(a.last_text_s - a.first_text_s) / ((a.record.output_tokens or 0) - 1) for a in several]
    counted = [a for a in answers if a.record.output_tokens is not None]
    prompts = [a.record.prompt_tokens for a in answers if a.record.prompt_tokens is not None]
    ttft_ms = [a.first_text_s * MS_PER_S for a in answers]
    reasoned = any(a.record.reasoning_tokens for a in answers)  # whose first text is not the first output
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


def _totals(sample: Sample) -> list[Figure]:
    answers, duration_s = sample.answers, duration(sample)
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


def duration(sample: Sample) -> float | None:
    """Return the span from the first start to the last text; None without answers."""
    if not sample.answers:
        return None
    return max(each.start_unix_s + each.last_text_s for each in sample.answers) - min(sample.starts_s)
