"""An open loop on two processes: do the arrivals at the engine follow the schedule, and what does that cost?"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from click import ClickException
from rich.table import Table

from benchmarks.tools.cpu_time import MachineTime, process_time_s
from benchmarks.tools.truth_engine.engine import Schedule, TruthEngine
from benchmarks.tools.truth_engine.log import TrueAnswer
from benchmarks.trials.runs.settings import Local, StartedRun
from llmload.units import NS_PER_S

RATES_PER_S: Final = (10, 100, 500, 1000, 5000)
KINDS: Final = ("constant", "poisson")
PROCESSES: Final = 2
ANSWER: Final = Schedule(tokens=8, ttft_s=0.020, ttft_spread_s=0.010, gap_s=0.005, jitter_s=0.002)
SHORT_ANSWER: Final = Schedule(tokens=2, ttft_s=0.010, ttft_spread_s=0.002, gap_s=0.005)
"""At thousands of requests/s: it is the arrivals that are tested there, not the reading of tokens."""
SHORT_BEYOND_PER_S: Final = 1000
REQUESTS: Final = {"constant": 1_000, "poisson": 3_600}
"""Minimum number: 3,600 give the coefficient of variation of Poisson gaps to 0.017 (one standard error)."""
MIN_S: Final = 40.0
"""Minimum length of a run."""
SETTLE_S: Final = 2.0
"""Left out at both ends, since processes do not start and stop at the same moment."""
FINEST_S: Final = 10e-6
"""Smallest denominator of a relative error: chunks that were read together have a gap of 0."""
START_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.2
LOCUSTFILE: Final = Path(__file__).with_name("chat_report_sizes.py")
LATENCIES: Final = ("ttft_s", "tpot_s", "e2e_s", "itl_s", "schedule_lag_s")
QUANTILES: Final = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
Seconds = npt.NDArray[np.float64]
SCENARIO: Final = """\
[tool.locust]
locustfile = "{locustfile}"
[scenario]
name = "arrivals-benchmark"
seed = {seed}
[engine]
name = "simulated"
base_url = "{url}"
[model]
name = "truth"
[prompts]
repeat = true
[load]
kind = "open_loop"
rate_per_s = {rate_per_s}
arrivals = "{kind}"
requests = {requests}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """Arrivals in the steady part of a run."""

    count: int
    rate_per_s: float
    cv: float
    """Standard deviation of the gaps over their mean: 0 for a constant rate, 1 for Poisson."""

    @classmethod
    def of(cls, times_s: Seconds) -> "Gaps":
        """Return rate and CV of sorted arrival times."""
        gaps_s = np.diff(times_s)
        if len(gaps_s) < 2:
            raise ClickException(f"{len(times_s)} arrivals in the steady part of the run: too few for gaps")
        mean_s = float(gaps_s.mean())
        return cls(count=len(times_s), rate_per_s=1 / mean_s, cv=float(gaps_s.std()) / mean_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How long after they were due requests arrived, by the engine's log; the start of the run counts."""

    p50_s: float
    p99_s: float
    max_s: float

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]], answers: Iterable[TrueAnswer]) -> "Lag":
        """Match records with the log; ClickException for a request that has no record."""
        due_ns = {line["request_id"]: line["scheduled_ns"] for line in lines}
        answered = list(answers)
        if missing := [each.request_id for each in answered if each.request_id not in due_ns]:
            raise ClickException(f"{len(missing)} requests that the engine answered have no record: {missing[0]}")
        late_s = np.array([each.received_ns - due_ns[each.request_id] for each in answered]) / NS_PER_S
        p50_s, p99_s, max_s = map(float, np.quantile(late_s, (0.5, 0.99, 1.0)))
        return cls(p50_s=p50_s, p99_s=p99_s, max_s=max_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The figures of one run."""

    kind: str
    target_per_s: float
    seen: Gaps
    """By the engine's log."""
    drawn: Gaps
    """By the schedule, before anything could be late."""
    lag: Lag
    percentile_error: float
    """Greatest relative error of the summary's percentiles against the raw records."""
    report_bytes: int
    own_report_bytes: int
    master_cpu_share: float
    worker_cpu_share: float
    """Of the busiest worker."""
    others_cpu_share: float
    """Of programs outside the benchmark: where it is large, they may have caused the lateness."""
    level: str


def steady(times_s: Mapping[str, Seconds]) -> Seconds:
    """Return all workers' arrivals, sorted, from the last worker's start to the first worker's end, less `SETTLE_S`."""
    first_s = max(float(each.min()) for each in times_s.values()) + SETTLE_S
    last_s = min(float(each.max()) for each in times_s.values()) - SETTLE_S
    together = np.sort(np.concatenate(list(times_s.values())))
    return together[(together >= first_s) & (together <= last_s)]


def by_worker(named_times_ns: Iterable[tuple[str, int]]) -> dict[str, Seconds]:
    """Return times in seconds by worker, which the request's id contains."""
    found: dict[str, list[int]] = {}
    for request_id, time_ns in named_times_ns:
        found.setdefault(request_id.rsplit("-", 2)[-2], []).append(time_ns)
    return {worker: np.array(times_ns) / NS_PER_S for worker, times_ns in found.items()}


def percentile_error(summary: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> float:
    """Return the greatest relative error of the summary's percentiles against the raw records."""
    worst = 0.0
    for name in LATENCIES:
        raw = np.fromiter(raw_values(name, lines), dtype=float)
        for quantile, share in QUANTILES.items():
            true = float(np.quantile(raw, share, method="inverted_cdf"))
            worst = max(worst, abs(summary[name][quantile] - true) / max(true, FINEST_S))
    return worst


def raw_values(name: str, lines: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """Yield each value of a latency in the records."""
    for line in lines:
        if name == "itl_s":
            yield from (gap_ns / NS_PER_S for gap_ns in line["chunk_gaps_ns"][1:])
        elif name == "schedule_lag_s":
            yield (line["started_ns"] - line["scheduled_ns"]) / NS_PER_S
        else:
            yield line[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTime:
    """CPU time that processes, and the whole machine, have used up to a moment."""

    at_s: float
    used_s: tuple[float, ...]
    machine_s: float
    """With what the host stole: neither was there for the benchmark."""

    @classmethod
    def now(cls, pids: Sequence[int]) -> "CpuTime":
        """Return the CPU time so far, user and system."""
        machine = MachineTime.now()
        used_s = tuple(map(process_time_s, pids))
        return cls(at_s=time.monotonic(), used_s=used_s, machine_s=machine.busy_s + machine.stolen_s)

    def shares_since(self, earlier: "CpuTime") -> list[float]:
        """Return each process's share of a core since `earlier`, then that of all others together."""
        wall_s = self.at_s - earlier.at_s
        used_s = [now_s - then_s for now_s, then_s in zip(self.used_s, earlier.used_s, strict=True)]
        return [each / wall_s for each in (*used_s, self.machine_s - earlier.machine_s - sum(used_s))]


def measure(kind: str, rate_per_s: int, scale: float, seed: int, folder: Path) -> Reading:
    """Run one open loop to its end, and return its figures."""
    folder.mkdir(parents=True)
    length_s = max(MIN_S, REQUESTS[kind] / rate_per_s) * scale
    answer = ANSWER if rate_per_s <= SHORT_BEYOND_PER_S else SHORT_ANSWER
    with TruthEngine(answer, folder) as engine:
        scenario = SCENARIO.format(
            locustfile=LOCUSTFILE,
            seed=seed,
            url=engine.base_url,
            rate_per_s=rate_per_s,
            kind=kind,
            requests=round(length_s * rate_per_s),
        )
        running = Local("processes", workers=PROCESSES).start(folder, scenario, ["--headless"])
        try:
            shares = cpu_shares(running, engine.pid, length_s)
            code = running.wait(START_TIMEOUT_S + 2 * length_s)
        finally:
            running.kill()
    if code not in {0, 3}:
        raise ClickException(f"{folder}: exit code {code}")
    return read(running, engine, kind, rate_per_s, shares)


def cpu_shares(running: StartedRun, engine_pid: int, length_s: float) -> list[float]:
    """Return the shares of a core of engine, master, each worker and all others, in the middle of the run."""
    end_s = time.monotonic() + START_TIMEOUT_S
    while len(running.request_files()) < PROCESSES:
        if time.monotonic() > end_s:
            raise ClickException(f"no requests after {START_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)
    time.sleep(length_s / 4)
    pids = [engine_pid, running.processes[0].pid, *running.workers()]
    before = CpuTime.now(pids)
    time.sleep(length_s / 2)
    return CpuTime.now(pids).shares_since(before)


def read(running: StartedRun, engine: TruthEngine, kind: str, rate_per_s: int, shares: Sequence[float]) -> Reading:
    """Return a run's figures from the engine's log, the records, the summary and the reports."""
    _, master, *workers, others = shares
    summary, lines = running.summary(), list(running.lines())
    seen = by_worker((answer.request_id, answer.received_ns) for answer in engine.log.answers)
    sizes = [
        tuple(map(int, line.split()))
        for file in running.folders[0].glob("report-bytes.*.txt")
        for line in file.read_text(encoding="ascii").splitlines()
    ]
    return Reading(
        kind=kind,
        target_per_s=rate_per_s,
        seen=Gaps.of(steady(seen)),
        drawn=Gaps.of(steady(by_worker((line["request_id"], line["scheduled_ns"]) for line in lines))),
        lag=Lag.of(lines, engine.log.answers),
        percentile_error=percentile_error(summary, lines),
        report_bytes=max(whole for whole, _ in sizes),
        own_report_bytes=max(own for _, own in sizes),
        master_cpu_share=master,
        worker_cpu_share=max(workers),
        others_cpu_share=others,
        level=summary["verdict"]["level"],
    )


def readings_table(readings: Sequence[Reading]) -> Table:
    """Return a row per run."""
    title = f"Open loop on {PROCESSES} processes and a master, {os.cpu_count()} cores"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = (
        "seen, and lag from when it was due: by the engine's log; drawn: by the schedule; "
        "report: a worker's largest, with Locust's tables; CPU in shares of a core"
    )
    table.add_column("arrivals")
    for column in (
        *(
            "target /s",
            "requests",
            "seen /s",
            "of drawn",
            "CV seen",
            "CV drawn",
            "lag p50 ms",
            "p99",
            "max",
            "percentiles off by",
        ),
        *("report B", "llmload's B", "master CPU", "worker CPU", "others' CPU", "verdict"),
    ):
        table.add_column(column, justify="right")
    for each in readings:
        table.add_row(
            each.kind,
            f"{each.target_per_s:g}",
            str(each.seen.count),
            f"{each.seen.rate_per_s:.2f}",
            f"{each.seen.rate_per_s / each.drawn.rate_per_s - 1:+.3%}",
            f"{each.seen.cv:.3f}",
            f"{each.drawn.cv:.3f}",
            *(f"{late_s * 1000:.2f}" for late_s in (each.lag.p50_s, each.lag.p99_s, each.lag.max_s)),
            f"{each.percentile_error:.2%}",
            str(each.report_bytes),
            str(each.own_report_bytes),
            f"{each.master_cpu_share:.1%}",
            f"{each.worker_cpu_share:.1%}",
            f"{each.others_cpu_share:.1%}",
            each.level,
        )
    return table
