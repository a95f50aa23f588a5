"""`vllm bench serve`, and `sglang.benchmark.serving` with its Rust port, which grew from it."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from llmload.definitions.sample import Figure, Sample, Section, Values, gaps_s, ratio, statistic
from llmload.units import MS_PER_S

VLLM_TITLES: Final = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
}
SGLANG_TITLES: Final = {
    "e2e_latency": ("E2E Latency", "End-to-End Latency"),
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-Token Latency"),
}


def vllm(sample: Sample) -> list[Section]:
    """
    Return the figures by `calculate_metrics` of vllm/benchmarks/serve.py.

    A chunk counts from the first with choices (an empty role too) to the last with choices (the finish too):
    TTFT = first - start, latency = last - start, ITL = every gap between them, TPOT = (latency - TTFT) / (n - 1).
    """
    stamps = [answer.all_chunks_ns for answer in sample.answers]
    ttft_s = [answer.since_start_s(each[0]) for answer, each in zip(sample.answers, stamps, strict=True)]
    e2el_s = [answer.since_start_s(each[-1]) for answer, each in zip(sample.answers, stamps, strict=True)]
    tpot_s = _tpot(sample, ttft_s, e2el_s)
    series: dict[str, Values] = {
        "ttft": ttft_s,
        "tpot": [t for t in tpot_s if t is not None],
        "itl": gaps_s(stamps),
        "e2el": e2el_s,
    }
    chunks_s = [[a.since_start_s(n) for n in each] for a, each in zip(sample.answers, stamps, strict=True)]
    peak_tokens, peak_requests = peaks(sample, chunks_s, e2el_s)
    duration_s, prompt, output = sample.duration_s(), sample.prompt_tokens(), sample.output_tokens()
    head = [
        _count("completed", "Successful requests:", len(sample.answers)),
        _count("failed", "Failed requests:", sample.failed),
        *([_count("", "Maximum request concurrency:", sample.users)] if sample.users else []),
        *([Figure(key="", row="Request rate configured (RPS):", value=sample.rate_per_s)] if sample.rate_per_s else []),
        Figure(key="duration", row="Benchmark duration (s):", value=duration_s),
        _count("total_input_tokens", "Total input tokens:", prompt),
        _count("total_output_tokens", "Total generated tokens:", output),
        _rate("request_throughput", "Request throughput (req/s):", len(sample.answers), duration_s),
        *_goodput(sample, ttft_s, [t or 0.0 for t in tpot_s], e2el_s),
        _rate("output_throughput", "Output token throughput (tok/s):", output, duration_s),
        Figure(key="max_output_tokens_per_s", row="Peak output token throughput (tok/s):", value=peak_tokens),
        Figure(key="max_concurrent_requests", row="Peak concurrent requests:", value=peak_requests),
        _rate("total_token_throughput", "Total token throughput (tok/s):", _sum(prompt, output), duration_s),
    ]
    wanted = {"mean": "Mean", "median": "Median", "p99": "P99"}
    latencies = _latencies(series, VLLM_TITLES, wanted)
    return [Section(title="Serving Benchmark Result", figures=tuple(head)), *latencies]


def sglang(sample: Sample) -> list[Section]:
    """
    Return the figures by `calculate_metrics` of sglang/benchmark/serving.py.

    Only chunks with text count, but the latency ends with the last line of the stream:
    TTFT = first text - start, ITL = every gap between texts, TPOT = (latency - TTFT) / (n - 1).
    """
    ttft_s = [answer.first_text_s for answer in sample.answers]
    e2e_s = [answer.done_s for answer in sample.answers]
    tpot_s = [t for t in _tpot(sample, ttft_s, e2e_s) if t is not None]
    itl_s = gaps_s([answer.record.chunk_ns for answer in sample.answers])
    chunks_s = [[answer.since_start_s(n) for n in answer.record.chunk_ns] for answer in sample.answers]
    peak_tokens, peak_requests = peaks(sample, chunks_s, e2e_s)
    duration_s, prompt, output = sample.duration_s(), sample.prompt_tokens(), sample.output_tokens()
    head = [
        *([_count("", "Max request concurrency:", sample.users)] if sample.users else []),
        _count("completed", "Successful requests:", len(sample.answers)),
        Figure(key="duration", row="Benchmark duration (s):", value=duration_s),
        _count("total_input_tokens", "Total input tokens:", prompt),
        _count("total_output_tokens", "Total generated tokens:", output),
        _rate("request_throughput", "Request throughput (req/s):", len(sample.answers), duration_s),
        _rate("input_throughput", "Input token throughput (tok/s):", prompt, duration_s),
        _rate("output_throughput", "Output token throughput (tok/s):", output, duration_s),
        Figure(key="max_output_tokens_per_s", row="Peak output token throughput (tok/s):", value=peak_tokens),
        _count("max_concurrent_requests", "Peak concurrent requests:", peak_requests),
        _rate("total_throughput", "Total token throughput (tok/s):", _sum(prompt, output), duration_s),
        _rate("concurrency", "Concurrency:", sum(e2e_s) if e2e_s else None, duration_s),
    ]
    wanted = {"mean": "Mean", "median": "Median", "p90": "P90", "p95": "P95", "p99": "P99"}
    series: dict[str, Values] = {"e2e_latency": e2e_s, "ttft": ttft_s, "tpot": tpot_s, "itl": itl_s}
    latencies = _latencies(series, SGLANG_TITLES, wanted, greatest="itl")
    return [Section(title="Serving Benchmark Result", figures=tuple(head)), *latencies]


def peaks(
    sample: Sample, chunks_s: Sequence[Sequence[float]], latencies_s: Sequence[float]
) -> tuple[float | None, int | None]:
    """
    Return the most chunks and the most requests of a second, counted from the first start.

    A request counts in every second that it touches, so one that follows another within a second counts beside it.
    """
    if not sample.answers:
        return None, None
    first_s = min(sample.starts_s)
    tokens, requests = Counter[int](), Counter[int]()
    for answer, chunks, latency_s in zip(sample.answers, chunks_s, latencies_s, strict=True):
        start_s = answer.start_unix_s - first_s
        tokens.update(int(start_s + moment_s) for moment_s in chunks)
        requests.update(range(int(start_s), int(start_s + latency_s) + 1))
    return float(max(tokens.values())), max(requests.values())


def _tpot(sample: Sample, ttft_s: Sequence[float], latency_s: Sequence[float]) -> list[float | None]:
    """Return (latency - TTFT) / (output tokens - 1) of each answer; None below 2 tokens."""
    tokens = [answer.record.output_tokens or 0 for answer in sample.answers]
    triples = zip(ttft_s, latency_s, tokens, strict=True)
    return [(latency - ttft) / (count - 1) if count > 1 else None for ttft, latency, count in triples]


def _goodput(sample: Sample, ttft_s: Sequence[float], tpot_s: Sequence[float], e2el_s: Sequence[float]) -> list[Figure]:
    if not sample.slo_s:
        return []
    limits = [sample.slo_s.get(name, float("inf")) for name in ("ttft_s", "tpot_s", "e2e_s")]
    triples = zip(ttft_s, tpot_s, e2el_s, strict=True)
    good = sum(all(m <= limit for m, limit in zip(triple, limits, strict=True)) for triple in triples)
    return [_rate("request_goodput", "Request goodput (req/s):", good, sample.duration_s())]


def _latencies(
    series: dict[str, Values], titles: dict[str, tuple[str, str]], wanted: dict[str, str], greatest: str = ""
) -> list[Section]:
    sections = []
    for name, (short, title) in titles.items():
        of = wanted | ({"max": "Max"} if name == greatest else {})
        figures = [
            Figure(key=f"{key}_{name}_ms", row=f"{word} {short} (ms):", value=_ms(statistic(series[name], key)))
            for key, word in of.items()
        ]
        sections.append(Section(title=title, figures=tuple(figures)))
    return sections


def _count(key: str, row: str, value: int | None) -> Figure:
    return Figure(key=key, row=row, value=value, digits=0)


def _rate(key: str, row: str, amount: float | None, duration_s: float | None) -> Figure:
    return Figure(key=key, row=row, value=ratio(amount, duration_s))


def _sum(prompt: int | None, output: int | None) -> int | None:
    return None if prompt is None or output is None else prompt + output


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * MS_PER_S
