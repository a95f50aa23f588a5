"""What a token costs each client, from paired runs: every repetition runs all clients, one after the other."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
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
class Reading:
    """One client in one repetition: cost from both runs, everything else from the long one."""

    client: str
    cpu_us_per_token: float
    kernel_us_per_token: float
    """The part in the kernel: mostly sockets."""
    startup_cpu_s: float
    carried_tokens_per_s: float
    ttft_mean_s: float | None
    true_ttft_mean_s: float
    ttft_p99_s: float | None
    true_ttft_p99_s: float
    itl_p50_s: float | None
    true_itl_p50_s: float
    itl_p99_s: float | None
    true_itl_p99_s: float
    coalesced_share: float | None
    engine_late_p99_s: float
    """How late the engine wrote; large values mean that the machine was busy."""
    peak_rss_mb: float
    failed: int
    verdict: str | None


def reading(short: ClientRun, long: ClientRun) -> Reading:
    """Return one client's reading from its short and its long run."""
    tokens = long.truth.chunks - short.truth.chunks
    cpu_s_per_token = (long.usage.cpu_s - short.usage.cpu_s) / tokens
    truth, reported = long.truth, long.reported
    return Reading(
        client=long.client,
        cpu_us_per_token=cpu_s_per_token * 1e6,
        kernel_us_per_token=(long.usage.kernel_s - short.usage.kernel_s) / tokens * 1e6,
        startup_cpu_s=short.usage.cpu_s - cpu_s_per_token * short.truth.chunks,
        carried_tokens_per_s=truth.steady_chunks_per_s(),
        ttft_mean_s=reported.ttft_mean_s,
        true_ttft_mean_s=float(truth.ttft_s.mean()),
        ttft_p99_s=reported.ttft_p99_s,
        true_ttft_p99_s=float(np.quantile(truth.ttft_s, 0.99)),
        itl_p50_s=reported.itl_p50_s,
        true_itl_p50_s=float(np.quantile(truth.gaps_s, 0.5)),
        itl_p99_s=reported.itl_p99_s,
        true_itl_p99_s=float(np.quantile(truth.gaps_s, 0.99)),
        coalesced_share=reported.coalesced_share,
        engine_late_p99_s=float(np.quantile(truth.worst_late_s, 0.99)),
        peak_rss_mb=long.usage.peak_rss_bytes / 1e6,
        failed=reported.failed,
        verdict=reported.verdict,
    )


class Comparison:
    """All readings of one work."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.readings: dict[str, list[Reading]] = {}

    def add(self, reading: Reading) -> None:
        """Add a client's reading; readings of one repetition have the same index in each client's list."""
        self.readings.setdefault(reading.client, []).append(reading)

    def median(self, client: str, field: str) -> float | None:
        """Return the median of a figure over the repetitions; None where the client does not give it."""
        values = [getattr(reading, field) for reading in self.readings[client]]
        return None if None in values else float(median(values))

    def error(self, client: str, field: str, *, relative: bool) -> float | None:
        """Return the median over repetitions of the distance between a reported figure and the true one of that run."""
        errors = []
        for reading in self.readings[client]:
            reported, true = getattr(reading, field), getattr(reading, f"true_{field}")
            if reported is None:
                return None
            errors.append(abs(reported - true) / (true if relative else 1.0))
        return float(median(errors))

    def cost_ratio(self, client: str, against: str = BASELINE) -> float | None:
        """Return the median ratio of the cost to the baseline's in the same repetition; None without the baseline."""
        if against not in self.readings:
            return None
        pairs = zip(self.readings[client], self.readings[against], strict=True)
        return float(median(own.cpu_us_per_token / baseline.cpu_us_per_token for own, baseline in pairs))


def compare(clients: Sequence[LoadClient], work: Work, requests: Requests, bench: Bench) -> Comparison:
    """Run every client `bench.repeat` times in turn, the order reversed each time."""
    comparison = Comparison(work)
    for repetition in range(bench.repeat):
        for client in clients if repetition % 2 == 0 else clients[::-1]:
            subfolder = f"{work.label}/{client.name}-{repetition}"
            short, long = (
                run_client(client, work, count, bench=bench, subfolder=f"{subfolder}/{count}")
                for count in (requests.short, requests.long)
            )
            latest = reading(short, long)
            comparison.add(latest)
            if not bench.keep:
                shutil.rmtree(bench.folder / subfolder)
            bench.say(
                f"{work.label}  {repetition + 1}/{bench.repeat}  {client.name}: "
                f"{latest.cpu_us_per_token:.2f} us/token, {latest.carried_tokens_per_s / 1000:.1f}k tokens/s"
            )
    return comparison
