"""Requirements on the arrivals, and whether they are met."""

from collections.abc import Iterator
from typing import Final

from benchmarks.tools.requirements import Requirement, at_most
from benchmarks.trials.runs.arrivals import Reading

RATE_ERROR: Final = 0.01
CV_ERROR: Final = 0.05
LAG_P99_S: Final = 0.0005
LIMITED_UP_TO_PER_S: Final = 1000
"""Above this rate the rate itself, lag, gaps and the master's CPU are stated, without a limit."""
REPORT_BYTES: Final = 15_000
MASTER_CPU_SHARE: Final = 0.05
PERCENTILE_ERROR: Final = 0.01


def judge_arrivals(each: Reading) -> Iterator[Requirement]:
    """
    Yield the requirements on a run.

    A Poisson run of n arrivals has a rate that chance alone moves by 1 / sqrt(n): it is compared with
    the rate of its schedule, and only a constant rate with the target.
    """
    work = f"{each.kind} {each.target_per_s:g}/s"
    wanted_per_s = each.drawn.rate_per_s if each.kind == "poisson" else each.target_per_s
    yield at_most(work, "a worker's report, bytes", each.report_bytes, REPORT_BYTES, "{:.0f}")
    if each.target_per_s <= LIMITED_UP_TO_PER_S:
        yield at_most(work, "rate off by", abs(each.seen.rate_per_s / wanted_per_s - 1), RATE_ERROR, "{:.3%}")
        if each.kind == "poisson":
            yield at_most(work, "CV of gaps off 1 by", abs(each.seen.cv - 1), CV_ERROR)
        yield at_most(work, "lag p99, s", each.lag.p99_s, LAG_P99_S, "{:.5f}")
        yield at_most(work, "master's CPU, of a core", each.master_cpu_share, MASTER_CPU_SHARE, "{:.1%}")
    yield at_most(work, "merged percentiles off by", each.percentile_error, PERCENTILE_ERROR, "{:.2%}")
