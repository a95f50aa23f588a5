"""GuideLLM: distributions weighted by tokens, and rates over first start to last end."""

from typing import Final

import numpy as np

from llmload.definitions.sample import Answer, Figure, Sample, Section, Weighted, ratio
from llmload.units import MS_PER_S

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
    reasoned = any(a.record.reasoning_tokens for a in answers)  # then the first text is not the first output
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
        *_some("time_to_first_output_token_ms", "TTFOT", "ms", _even([]) if reasoned else ttft),
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
