"""What a token costs each client, from paired runs: every repetition runs all clients, one after the other."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

import numpy as np

from benchmarks.tools.bench_run import Bench, ClientRun, run_client
from benchmarks.tools.load_client import LoadClient
from benchmarks.tools.work import Work

BASELINE: Final = "sglang-bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """The lengths of the two runs whose difference is the cost: what both have in common is start-up."""

    short: int
    long: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a client carried and reported in one run, and what was true."""

    client: str
    carried_tokens_per_s: float
    ttft_mean_s: float | None
    true_ttft_mean_s: float
    ttft_p99_s: float | None
    true_ttft_p99_s: float
    ttft_wire_mean_s: float | None
    itl_p50_s: float | None
    true_itl_p50_s: float | None
    """None, as for the other true gaps, where answers have one token."""
    itl_p99_s: float | None
    true_itl_p99_s: float | None
    itl_max_s: float | None
    true_itl_max_s: float | None
    coalesced_share: float | None
    engine_late_p99_s: float
    """How late the engine wrote; large values mean that the machine was busy."""
    peak_rss_mb: float
    failed: int
    stamps: str | None
    verdict: str | None
    reasons: tuple[str, ...]
    doubted: tuple[str, ...]

    @staticmethod
    def of(run: ClientRun) -> "Figures":
        """Return the figures of a run."""
        reported = run.reported
        truth = run.truth.of(reported.counted)
        gaps_s = truth.gaps_s
        p50_s, p99_s, max_s = map(float, np.quantile(gaps_s, (0.5, 0.99, 1.0))) if len(gaps_s) else (None, None, None)
        return Figures(
            client=run.client,
            carried_tokens_per_s=run.truth.steady_chunks_per_s(),
            ttft_mean_s=reported.ttft_mean_s,
            true_ttft_mean_s=float(truth.ttft_s.mean()),
            ttft_p99_s=reported.ttft_p99_s,
            true_ttft_p99_s=float(np.quantile(truth.ttft_s, 0.99)),
            ttft_wire_mean_s=reported.ttft_wire_mean_s,
            itl_p50_s=reported.itl_p50_s,
            true_itl_p50_s=p50_s,
            itl_p99_s=reported.itl_p99_s,
            true_itl_p99_s=p99_s,
            itl_max_s=reported.itl_max_s,
            true_itl_max_s=max_s,
            coalesced_share=reported.coalesced_share,
            engine_late_p99_s=float(np.quantile(truth.worst_late_s, 0.99)),
            peak_rss_mb=run.usage.peak_rss_bytes / 1e6,
            failed=reported.failed,
            stamps=reported.stamps,
            verdict=reported.verdict,
            reasons=reported.reasons,
            doubted=reported.doubted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Figures):
    """One client in one repetition: cost from both runs, everything else from the long one."""

    cpu_us_per_token: float
    kernel_us_per_token: float
    """The part in the kernel: mostly sockets."""
    engine_us_per_token: float
    """Of the engine's process: what a packet log costs on loopback is in it, since the sender delivers to the log."""
    machine_us_per_token: float
    """Of client, engine and interrupts together, by /proc/stat: nothing can hide from it."""
    startup_cpu_s: float


def reading(short: ClientRun, long: ClientRun) -> Reading:
    """Return one client's reading from its short and its long run."""
    tokens = long.truth.chunks - short.truth.chunks
    cpu_s_per_token = (long.usage.cpu_s - short.usage.cpu_s) / tokens
    return Reading(
        **asdict(Figures.of(long)),
        cpu_us_per_token=cpu_s_per_token * 1e6,
        kernel_us_per_token=(long.usage.kernel_s - short.usage.kernel_s) / tokens * 1e6,
        engine_us_per_token=(long.engine_cpu_s - short.engine_cpu_s) / tokens * 1e6,
        machine_us_per_token=(long.machine_cpu_s - short.machine_cpu_s) / tokens * 1e6,
        startup_cpu_s=short.usage.cpu_s - cpu_s_per_token * short.truth.chunks,
    )


class Comparison:
    """All readings of one work."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.readings: dict[str, list[Figures]] = {}

    def add(self, reading: Figures) -> None:
        """Add a client's reading; readings of one repetition have the same index in each client's list."""
        self.readings.setdefault(reading.client, []).append(reading)

    def median(self, client: str, field: str) -> float | None:
        """Return the median of a figure over the repetitions; None where the client does not give it."""
        values = [getattr(reading, field) for reading in self.readings[client]]
        return None if None in values else float(median(values))

    def error(self, client: str, field: str, *, relative: bool, true_field: str | None = None) -> float | None:
        """
        Return the median over repetitions of the distance between a reported figure and the true one of that run.

        None where one of them is not known.
        """
        errors = []
        for reading in self.readings[client]:
            reported, true = getattr(reading, field), getattr(reading, true_field or f"true_{field}")
            if reported is None or true is None:
                return None
            errors.append(abs(reported - true) / (true if relative else 1.0))
        return float(median(errors))

    def ratio(self, client: str, against: str, field: str = "cpu_us_per_token") -> float | None:
        """Return the median ratio of a figure to another client's in the same repetition; None without that client."""
        if against not in self.readings:
            return None
        pairs = zip(self.readings[client], self.readings[against], strict=True)
        return float(median(getattr(own, field) / getattr(other, field) for own, other in pairs))


def compare(
    clients: Sequence[LoadClient], work: Work, requests: Requests, bench: Bench, *, name: str | None = None
) -> Comparison:
    """Run every client `bench.repeat` times in turn, the order reversed each time; files and lines say `name`."""
    comparison, name = Comparison(work), name or work.label
    for repetition in range(bench.repeat):
        for client in clients if repetition % 2 == 0 else clients[::-1]:
            subfolder = f"{name}/{client.name}-{repetition}"
            short, long = (
                run_client(client, work, count, bench=bench, subfolder=f"{subfolder}/{count}")
                for count in (requests.short, requests.long)
            )
            latest = reading(short, long)
            comparison.add(latest)
            if not bench.keep:
                shutil.rmtree(bench.folder / subfolder)
            bench.say(
                f"{name}  {repetition + 1}/{bench.repeat}  {client.name}: "
                f"{latest.cpu_us_per_token:.2f} us/token, {latest.carried_tokens_per_s / 1000:.1f}k tokens/s"
            )
    return comparison
