"""GuideLLM, AIPerf and genai-bench: one figure per request and metric, then statistics of those."""

from typing import Final

import numpy as np

from llmload.definitions.sample import Answer, Figure, Sample, Section, Values, Weighted, ratio, statistic
from llmload.units import MS_PER_S

# GuideLLM: distributions weighted by tokens, and rates over first start to last end.

NAMES: Final = {"mean": "Mean", "median": "Mdn", "p95": "p95"}


def guidellm(sample: Sample) -> list[Section]:
    """
    Return the figures by guidellm/schemas/base/request_stats.py and guidellm/benchmark/schemas/metrics.py.

    The start is the first byte written, after a connection was opened. ITL = (last - first text) / (n - 1) of a
    request, weighted by n - 1; TPOT = (last text - start) / n, the first token included, weighted by n. Percentiles
    are by nearest rank.
    """
    return [_summary(sample), _tokens(sample), _latency(sample), _throughput(sample)]


def _start_s(answer: Answer) -> float:
    """GuideLLM's start, in seconds after llmload's: opening a connection does not count."""
    connected_ns = answer.record.connected_ns
    return 0.0 if connected_ns is None else max(0.0, answer.since_start_s(connected_ns))


def _summary(sample: Sample) -> Section:
    figures = [
        _one("duration", "Timings", "Dur", "Sec", _span(sample)),
        _one("request_totals.successful", "Requests", "Comp", "Tot", len(sample.answers), 0),
        _one("request_totals.errored", "Requests", "Err", "Tot", sample.failed, 0),
        _one("prompt_token_count.successful.total_sum", "Input Tokens", "Comp", "Tot", sample.prompt_tokens()),
        _one("output_token_count.successful.total_sum", "Output Tokens", "Comp", "Tot", sample.output_tokens()),
    ]
    return Section(title="Run Summary Info", figures=tuple(figures))


def _tokens(sample: Sample) -> Section:
    records = [answer.record for answer in sample.answers]
    prompt = [r.prompt_tokens for r in records if r.prompt_tokens is not None]
    output = [r.output_tokens for r in records if r.output_tokens is not None]
    both = [
        (r.prompt_tokens or 0) + r.output_tokens
        for r in records
        if r.prompt_tokens is not None and r.output_tokens is not None
    ]
    figures = [
        *_some("prompt_token_count", "Input Tok", "Per Req", _even(prompt), ("median", "p95")),
        *_some("output_token_count", "Output Tok", "Per Req", _even(output), ("median", "p95")),
        *_some("total_token_count", "Total Tok", "Per Req", _even(both), ("median", "p95")),
        *_some("output_tokens_per_iteration", "Output Tok", "Per Stream Iter", _iterations(sample), ("median", "p95")),
    ]
    return Section(title="Request Token Statistics (Completed Requests)", figures=tuple(figures))


def _latency(sample: Sample) -> Section:
    answers = sample.answers
    counts = [answer.record.output_tokens or 0 for answer in answers]
    ttft = _even([(a.first_text_s - _start_s(a)) * MS_PER_S for a in answers])
    answered = [(a.first_answer_s - _start_s(a)) * MS_PER_S for a in answers if a.first_answer_s is not None]
    several = [(a, n) for a, n in zip(answers, counts, strict=True) if n > 1]
    itl = Weighted(
        values=[(a.last_text_s - a.first_text_s) * MS_PER_S / (n - 1) for a, n in several],
        weights=[float(n - 1) for _, n in several],
    )
    some = [(a, n) for a, n in zip(answers, counts, strict=True) if n]
    tpot = Weighted(
        values=[(a.last_text_s - _start_s(a)) * MS_PER_S / n for a, n in some], weights=[float(n) for _, n in some]
    )
    figures = [
        *_some("request_latency", "Request Latency", "Sec", _even([a.done_s - _start_s(a) for a in answers])),
        *_some("time_to_first_token_ms", "TTFT", "ms", ttft),
        *_some("time_to_first_output_token_ms", "TTFOT", "ms", _even(answered)),
        *_some("inter_token_latency_ms", "ITL", "ms", itl),
        *_some("time_per_output_token_ms", "TPOT", "ms", tpot),
    ]
    return Section(title="Request Latency Statistics (Completed Requests)", figures=tuple(figures))


def _throughput(sample: Sample) -> Section:
    span_s, prompt, output = _span(sample), sample.prompt_tokens(), sample.output_tokens()
    rates = {
        "requests_per_second": ("Requests", len(sample.answers) + sample.failed),
        "prompt_tokens_per_second": ("Input Tokens", prompt),
        "output_tokens_per_second": ("Output Tokens", output),
        "tokens_per_second": ("Total Tokens", None if prompt is None or output is None else prompt + output),
    }
    figures = [
        *_some("request_concurrency", "Requests", "Concurrency", concurrency(sample), ("median", "mean"), "total"),
        *(
            _one(f"{key}.total.mean", group, "Per Sec", "Mean", ratio(amount, span_s))
            for key, (group, amount) in rates.items()
        ),
    ]
    return Section(title="Server Throughput Statistics (All Requests)", figures=tuple(figures))


def concurrency(sample: Sample) -> Weighted:
    """Return the number of answers in flight, weighted by time."""
    starts = [answer.start_unix_s + _start_s(answer) for answer in sample.answers]
    ends = [answer.start_unix_s + answer.done_s for answer in sample.answers]
    moments = np.array([*starts, *ends])
    order = np.argsort(moments, kind="stable")
    running = np.cumsum(np.repeat([1.0, -1.0], len(starts))[order])
    return Weighted(values=running[:-1], weights=np.diff(moments[order]))


def _iterations(sample: Sample) -> Weighted:
    """Tokens per chunk: 1 for the first, the rest spread evenly over the other chunks."""
    values, weights = [], []
    for record in (answer.record for answer in sample.answers if answer.record.output_tokens):
        chunks, tokens = len(record.chunk_ns), record.output_tokens or 0
        if chunks > 1 and tokens > 1:
            values += [1.0, (tokens - 1) / (chunks - 1)]
            weights += [1.0, float(chunks - 1)]
        else:
            values.append(float(tokens))
            weights.append(1.0)
    return Weighted(values=values, weights=weights)


def _span(sample: Sample) -> float | None:
    if not sample.answers:
        return None
    starts = [answer.start_unix_s + _start_s(answer) for answer in sample.answers]
    return max(answer.start_unix_s + answer.done_s for answer in sample.answers) - min(starts)


def _even(values: list[float] | list[int]) -> Weighted:
    return Weighted(values=[float(value) for value in values], weights=np.ones(len(values)))


def _one(key: str, group: str, name: str, unit: str, value: float | None, digits: int = 1) -> Figure:
    return Figure(key=key, row=f"{group}\n{name}\n{unit}", value=value, digits=digits)


def _some(
    key: str,
    group: str,
    name: str,
    of: Weighted,
    wanted: tuple[str, ...] = ("mean", "median", "p95"),
    status: str = "successful",
) -> list[Figure]:
    values = {"mean": of.mean(), "median": of.quantile(0.5), "p95": of.quantile(0.95)}
    keys = {"mean": "mean", "median": "median", "p95": "percentiles.p95"}
    return [_one(f"{key}.{status}.{keys[each]}", group, name, NAMES[each], values[each]) for each in wanted]


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
    ttfo_ms = [a.first_answer_s * MS_PER_S for a in answers if a.first_answer_s is not None]
    return {
        "time_to_first_token": ("Time to First Token", "ms", ttft_ms),
        "time_to_second_token": ("Time to Second Token", "ms", _second_text_ms(answers)),
        "time_to_first_output_token": ("Time to First Output Token", "ms", ttfo_ms),
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
