"""Works for llmload alone: a stalled reader, many streams, long answers, https, large messages."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.comparisons.client_cost.comparison import Requests, compare
from benchmarks.comparisons.client_cost.requirements import STALLED_ERROR_S, accuracy, exact_stamps
from benchmarks.tools.bench_run import Bench, ClientRun, run_client
from benchmarks.tools.llmload_client import Llmload, request_lines
from benchmarks.tools.requirements import Requirement, at_most, exactly
from benchmarks.tools.truth_engine.build import has_tls
from benchmarks.tools.work import Work

KB, MB = 1e3, 1e6
STALLING: Final = Path(__file__).parent / "locustfiles" / "chat_stalled.py"
STALLED: Final = {stamps: Llmload(stamps=stamps, locustfile=STALLING) for stamps in ("packet", "socket")}
RETURNED_MB: Final = 10.0
"""How much memory of 20 MB answers, or of 100 long prompts, may remain once they are done."""
HANDSHAKES_S: Final = 2.0
"""Left out at the start of the run over TLS: a handshake is part of TTFT, but not in the engine's log."""
SLOW: Final = Work(streams=10_000, tokens_per_s=2, tokens=60, prompts=10_000, ramp_s=20)
SLOW_ERROR_S: Final = 0.0002
FEW: Final = 10
"""Streams of the small run that memory per stream is measured against."""


def run_llmload(bench: Bench, name: str, work: Work, requests: int, client: Llmload | None = None) -> ClientRun:
    """Run llmload once."""
    bench.say(f"{name}: {work.label}, {requests} requests ...")
    return run_client(client or Llmload(), work, requests, bench=bench, subfolder=name)


def stalled_reader(bench: Bench) -> list[Requirement]:
    """Stall the client for 200 ms of every second: the packet ring does not notice, stamped reads say so."""
    return [judgement for stamps in STALLED for judgement in _stalled(bench, f"stalled, {stamps} stamps", stamps)]


def _stalled(bench: Bench, name: str, stamps: str) -> list[Requirement]:
    run = run_llmload(bench, name, Work(streams=200, tokens_per_s=100, tokens=128), 2000, STALLED[stamps])
    share = run.reported.coalesced_share
    if stamps == "packet":
        return [*exact_stamps(name, run, STALLED_ERROR_S), at_most(name, "coalesced share", share, 0, "{:.3%}")]
    return [
        *exact_stamps(name, run, STALLED_ERROR_S),
        Requirement(
            work=name,
            name="coalesced chunks counted",
            figure=f"{share or 0:.1%}",
            limit="> 0 %",
            passed=bool(share),
        ),
        exactly(name, "verdict", run.reported.verdict, "DEGRADED"),
    ]


def slow_streams(bench: Bench) -> list[Requirement]:
    """Run 10,000 streams of 2 tokens/s in one process."""
    name = f"{SLOW.streams:,} slow streams"
    run, judgements = _memory_per_stream(bench, name, SLOW, requests=2 * SLOW.streams, limit_kb=30)
    return [
        *judgements,
        *exact_stamps(name, run, SLOW_ERROR_S),
        at_most(name, "coalesced share", run.reported.coalesced_share, 0, "{:.3%}"),
    ]


def long_answers(bench: Bench) -> list[Requirement]:
    """Run 1,000 streams of 4,000-token answers."""
    work = Work(streams=1000, tokens_per_s=25, tokens=4000, prompts=1000)
    return _memory_per_stream(bench, "1,000 long answers", work, requests=1000, limit_kb=200)[1]


def _memory_per_stream(
    bench: Bench, name: str, work: Work, *, requests: int, limit_kb: float
) -> tuple[ClientRun, list[Requirement]]:
    """Compare the peak with that of a run of few streams and the same prompts."""
    few = run_llmload(bench, f"{name}, few", replace(work, streams=FEW, tokens=40), 2 * FEW)
    many = run_llmload(bench, name, work, requests)
    grown = many.usage.peak_rss_bytes - few.usage.peak_rss_bytes
    kb = grown / (work.streams - FEW) / KB
    return many, [
        at_most(name, "failed requests", many.reported.failed, 0, "{:.0f}"),
        exactly(name, "streams at a time, as the engine saw it", many.max_streams, work.streams),
        at_most(name, "memory a stream, kB", kb, limit_kb, "{:.1f}"),
    ]


def https(bench: Bench) -> list[Requirement]:
    """Run the first work over TLS and in clear."""
    if not has_tls():
        return [exactly("https", "truth engine", "built without OpenSSL", "apt-get install libssl-dev")]
    work, requests = Work(streams=200, tokens_per_s=100, tokens=128), Requests(short=1000, long=3000)
    client = Llmload(warmup_s=HANDSHAKES_S)
    clear, secret = (compare([client], each, requests, bench) for each in (work, replace(work, tls=True)))
    costs = [each.median("llmload", "cpu_us_per_token") or 0.0 for each in (clear, secret)]
    cost = Requirement(
        work=secret.work.label,
        name="CPU us/token, beside that in clear",
        figure=f"{costs[1]:.1f} beside {costs[0]:.1f}",
        limit="stated",
        passed=True,
    )
    return [*accuracy(secret), cost]


def large_messages(bench: Bench) -> list[Requirement]:
    """Require that the memory of 20 MB answers and 100k-token prompts is given back."""
    answers = Work(streams=1, tokens_per_s=1000, tokens=2000, chunk_bytes=10_000, large_first=4)
    prompts = Work(streams=4, tokens_per_s=100, tokens=20, prompt_words=100_000, prompts=1)
    return [
        *_memory_returns(bench, "20 MB answers", answers, requests=8),
        *_memory_returns(bench, "100k-token prompts", prompts, requests=100),
        _long_prompts_arrived(bench, "100k-token prompts", prompts),
    ]


def _memory_returns(bench: Bench, name: str, work: Work, *, requests: int) -> list[Requirement]:
    run = run_llmload(bench, name, work, requests)
    first_ns = min(answer.received_ns for answer in run.truth.answers)
    last_ns = max(answer.done_ns for answer in run.truth.answers)
    before = [sample.rss_bytes for sample in run.usage.memory if sample.at_ns < first_ns]
    during = [sample.rss_bytes for sample in run.usage.memory if first_ns <= sample.at_ns <= last_ns]
    peak_mb, left_mb = ((value - before[-1]) / MB for value in (max(during), during[-1]))
    return [
        exactly(name, "answers complete", run.reported.completed, requests),
        at_most(name, f"memory left at the end, MB (peak {peak_mb:.0f})", left_mb, RETURNED_MB, "{:.1f}"),
    ]


def _long_prompts_arrived(bench: Bench, name: str, work: Work) -> Requirement:
    tokens = min(line["prompt_tokens"] or 0 for line in request_lines(bench.folder / name))
    return Requirement(
        work=name,
        name="prompt tokens, as the engine counted",
        figure=str(tokens),
        limit=f">= {work.prompt_words}",
        passed=tokens >= work.prompt_words,
    )


ALONE: Final[dict[str, Callable[[Bench], Sequence[Requirement]]]] = {
    "stalled": stalled_reader,
    "slow": slow_streams,
    "long": long_answers,
    "https": https,
    "large": large_messages,
}
