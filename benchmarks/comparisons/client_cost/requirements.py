"""Requirements on llmload's cost and accuracy, and whether they are met."""

from typing import Final

from benchmarks.comparisons.client_cost.comparison import BASELINE, Comparison
from benchmarks.comparisons.client_cost.stamps import Stamps
from benchmarks.tools.bench_run import ClientRun
from benchmarks.tools.requirements import Requirement, at_most

CARRIED: Final = 0.99
"""Fraction of the offered tokens/s that counts as all: closing one stream and opening the next takes a moment."""
TTFT_ERROR_S: Final = 0.0003
ITL_ERROR: Final = 0.01
STALLED_ERROR_S: Final = 0.001
COALESCED: Final = 0.005
OWN: Final = "llmload"


def cost_and_truth(comparison: Comparison, cost_ratio: float | None, *, ttft: bool = True) -> list[Requirement]:
    """Judge the cost of a token against the baseline's, and the accuracy; no limit on the cost where None."""
    work, offered = comparison.work.label, comparison.work.offered_tokens_per_s
    carried = comparison.median(OWN, "carried_tokens_per_s") or 0.0
    judgements = [
        Requirement(
            work=work,
            name="tokens/s carried, of offered",
            figure=f"{carried / offered:.2%}",
            limit=f">= {CARRIED:.0%}",
            passed=carried >= CARRIED * offered,
        ),
        at_most(work, "failed requests", sum(reading.failed for reading in comparison.readings[OWN]), 0, "{:.0f}"),
        *(each for each in accuracy(comparison) if ttft or not each.name.startswith("TTFT")),
        at_most(work, "coalesced share", comparison.median(OWN, "coalesced_share"), COALESCED, "{:.3%}"),
    ]
    if cost_ratio is not None:
        ratio = comparison.cost_ratio(OWN)
        judgements.insert(0, at_most(work, f"CPU a token, x {BASELINE}", ratio, cost_ratio, "{:.2f}"))
    return judgements


def accuracy(comparison: Comparison) -> list[Requirement]:
    """Judge the run's own summary against the truth log."""
    work = comparison.work.label
    return [
        at_most(
            work, "TTFT mean off by, s", comparison.error(OWN, "ttft_mean_s", relative=False), TTFT_ERROR_S, "{:.5f}"
        ),
        *(
            at_most(
                work,
                f"pooled ITL {name} off by",
                comparison.error(OWN, f"itl_{name}_s", relative=True),
                ITL_ERROR,
                "{:.2%}",
            )
            for name in ("p50", "p99")
        ),
    ]


def exact_stamps(name: str, run: ClientRun, limit_s: float) -> list[Requirement]:
    """Judge the stamp of every chunk that was read alone against the engine's write of it."""
    stamps = Stamps.of(run)
    form = "{:.6f}"
    return [
        at_most(name, "TTFT off by at p99, s", stamps.p99(stamps.ttft_error_s), limit_s, form),
        at_most(name, "ITL off by at p99, s", stamps.p99(stamps.itl_error_s), limit_s, form),
    ]
