"""`vllm bench serve`, and `sglang.benchmark.serving` with its Rust port, which grew from it: one body, two layouts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from llmload.definitions.sample import Figure, Sample, Section, Values, gaps_s, ratio, statistic
from llmload.record import StampArray
from llmload.units import MS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table's head: its key in the tool's export, its label, and the name of its value."""

    key: str
    label: str
    value: str
    digits: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a tool prints: the head, the latencies with (short name, title), and statistics by their words."""

    head: tuple[Row, ...]
    latencies: Mapping[str, tuple[str, str]]
    statistics: Mapping[str, str]
    with_maximum: str = ""
    """The latency that has its maximum printed too."""


VLLM: Final = Layout(
    head=(
        Row(key="completed", label="Successful requests:", value="completed", digits=0),
        Row(key="failed", label="Failed requests:", value="failed", digits=0),
        Row(key="", label="Maximum request concurrency:", value="users", digits=0),
        Row(key="", label="Request rate configured (RPS):", value="rate_per_s"),
        Row(key="duration", label="Benchmark duration (s):", value="duration_s"),
        Row(key="total_input_tokens", label="Total input tokens:", value="input_tokens", digits=0),
        Row(key="total_output_tokens", label="Total generated tokens:", value="output_tokens", digits=0),
        Row(key="request_throughput", label="Request throughput (req/s):", value="requests_per_s"),
        Row(key="request_goodput", label="Request goodput (req/s):", value="goodput_per_s"),
        Row(key="output_throughput", label="Output token throughput (tok/s):", value="output_tokens_per_s"),
        Row(key="max_output_tokens_per_s", label="Peak output token throughput (tok/s):", value="peak_chunks_per_s"),
        Row(key="max_concurrent_requests", label="Peak concurrent requests:", value="peak_requests"),
        Row(key="total_token_throughput", label="Total token throughput (tok/s):", value="tokens_per_s"),
    ),
    latencies={
        "ttft": ("TTFT", "Time to First Token"),
        "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
        "itl": ("ITL", "Inter-token Latency"),
        "e2el": ("E2EL", "End-to-end Latency"),
    },
    statistics={"mean": "Mean", "median": "Median", "p99": "P99"},
)
SGLANG: Final = Layout(
    head=(
        Row(key="", label="Max request concurrency:", value="users", digits=0),
        Row(key="completed", label="Successful requests:", value="completed", digits=0),
        Row(key="duration", label="Benchmark duration (s):", value="duration_s"),
        Row(key="total_input_tokens", label="Total input tokens:", value="input_tokens", digits=0),
        Row(key="total_output_tokens", label="Total generated tokens:", value="output_tokens", digits=0),
        Row(key="request_throughput", label="Request throughput (req/s):", value="requests_per_s"),
        Row(key="input_throughput", label="Input token throughput (tok/s):", value="input_tokens_per_s"),
        Row(key="output_throughput", label="Output token throughput (tok/s):", value="output_tokens_per_s"),
        Row(key="max_output_tokens_per_s", label="Peak output token throughput (tok/s):", value="peak_chunks_per_s"),
        Row(key="max_concurrent_requests", label="Peak concurrent requests:", value="peak_requests", digits=0),
        Row(key="total_throughput", label="Total token throughput (tok/s):", value="tokens_per_s"),
        Row(key="concurrency", label="Concurrency:", value="concurrency"),
    ),
    latencies={
        "e2e_latency": ("E2E Latency", "End-to-End Latency"),
        "ttft": ("TTFT", "Time to First Token"),
        "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
        "itl": ("ITL", "Inter-Token Latency"),
    },
    statistics={"mean": "Mean", "median": "Median", "p90": "P90", "p95": "P95", "p99": "P99"},
    with_maximum="itl",
)


def vllm(sample: Sample) -> list[Section]:
    """
    Return the figures by `calculate_metrics` of vllm/benchmarks/serve.py.

    A chunk counts from the first with choices (an empty role too) to the last with choices (the finish too):
    TTFT = first - start, latency = last - start, ITL = every gap between them, TPOT = (latency - TTFT) / (n - 1).
    """
    stamps = [answer.all_chunks_ns for answer in sample.answers]
    ttft_s = [answer.since_start_s(each[0]) for answer, each in zip(sample.answers, stamps, strict=True)]
    latency_s = [answer.since_start_s(each[-1]) for answer, each in zip(sample.answers, stamps, strict=True)]
    return _sections(sample, VLLM, stamps, ttft_s, latency_s)


def sglang(sample: Sample) -> list[Section]:
    """
    Return the figures by `calculate_metrics` of sglang/benchmark/serving.py.

    Only chunks with text count, but the latency ends with the last line of the stream:
    TTFT = first text - start, ITL = every gap between texts, TPOT = (latency - TTFT) / (n - 1).
    """
    stamps = [answer.record.chunk_ns for answer in sample.answers]
    ttft_s = [answer.first_text_s for answer in sample.answers]
    return _sections(sample, SGLANG, stamps, ttft_s, [answer.done_s for answer in sample.answers])


def _sections(
    sample: Sample, layout: Layout, stamps: Sequence[StampArray], ttft_s: Sequence[float], latency_s: Sequence[float]
) -> list[Section]:
    tpot_s = _tpot(sample, ttft_s, latency_s)
    values = _head_values(sample, stamps, ttft_s, latency_s, tpot_s)
    head = tuple(
        Figure(key=row.key, row=row.label, value=values[row.value], digits=row.digits)
        for row in layout.head
        if row.value in values
    )
    series: dict[str, Values] = {
        "ttft": ttft_s,
        "tpot": [each for each in tpot_s if each is not None],
        "itl": gaps_s(stamps),
        "e2el": latency_s,
        "e2e_latency": latency_s,
    }
    latencies = (_latency(layout, name, series[name]) for name in layout.latencies)
    return [Section(title="Serving Benchmark Result", figures=head), *latencies]


def _head_values(
    sample: Sample,
    stamps: Sequence[StampArray],
    ttft_s: Sequence[float],
    latency_s: Sequence[float],
    tpot_s: Sequence[float | None],
) -> dict[str, float | None]:
    """The values that `Row.value` names; a row whose value is missing here is not printed."""
    chunks_s = [[a.since_start_s(n) for n in each] for a, each in zip(sample.answers, stamps, strict=True)]
    peak_chunks, peak_requests = peaks(sample, chunks_s, latency_s)
    duration_s, prompt, output = sample.duration_s(), sample.prompt_tokens(), sample.output_tokens()
    both = None if prompt is None or output is None else prompt + output
    goodput = _goodput(sample, ttft_s, [each or 0.0 for each in tpot_s], latency_s)
    return {
        **({"users": sample.users} if sample.users else {}),
        **({"rate_per_s": sample.rate_per_s} if sample.rate_per_s else {}),
        **({"goodput_per_s": goodput} if sample.slo_s else {}),
        "completed": len(sample.answers),
        "failed": sample.failed,
        "duration_s": duration_s,
        "input_tokens": prompt,
        "output_tokens": output,
        "requests_per_s": ratio(len(sample.answers), duration_s),
        "input_tokens_per_s": ratio(prompt, duration_s),
        "output_tokens_per_s": ratio(output, duration_s),
        "tokens_per_s": ratio(both, duration_s),
        "peak_chunks_per_s": peak_chunks,
        "peak_requests": peak_requests,
        "concurrency": ratio(sum(latency_s) if latency_s else None, duration_s),
    }


def peaks(
    sample: Sample, chunks_s: Sequence[Sequence[float]], latencies_s: Sequence[float]
) -> tuple[float | None, int | None]:
    """
    Return the most chunks and the most requests in one second, counted in whole seconds from the first start.

    A request counts in every second that it touches, so two that follow each other within a second count as two.
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


def _goodput(
    sample: Sample, ttft_s: Sequence[float], tpot_s: Sequence[float], latency_s: Sequence[float]
) -> float | None:
    """Requests per second that meet the scenario's `[slo]`; None without answers."""
    limits = [sample.slo_s.get(name, float("inf")) for name in ("ttft_s", "tpot_s", "e2e_s")]
    triples = zip(ttft_s, tpot_s, latency_s, strict=True)
    good = sum(all(m <= limit for m, limit in zip(triple, limits, strict=True)) for triple in triples)
    return ratio(good, sample.duration_s())


def _latency(layout: Layout, name: str, values_s: Values) -> Section:
    short, title = layout.latencies[name]
    wanted = {**layout.statistics, **({"max": "Max"} if name == layout.with_maximum else {})}
    figures = [
        Figure(key=f"{key}_{name}_ms", row=f"{word} {short} (ms):", value=_ms(statistic(values_s, key)))
        for key, word in wanted.items()
    ]
    return Section(title=title, figures=tuple(figures))


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * MS_PER_S
