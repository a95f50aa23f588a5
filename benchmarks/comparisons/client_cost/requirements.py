"""Requirements on llmload's cost and accuracy, and whether they are met."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.comparisons.client_cost.comparison import BASELINE, Comparison
from benchmarks.comparisons.client_cost.stamps import Stamps
from benchmarks.tools.bench_run import ClientRun
from benchmarks.tools.requirements import Requirement, at_most, exactly

OWN: Final = "llmload"
OWN_SOCKET: Final = "llmload-socket"
FLOOR: Final = "c-loop-read"
STALLED_ERROR_S: Final = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is required with one source of stamps."""

    stamps: str
    """The source itself, as the summary has it."""
    cost: float
    """CPU a token, as a ratio to the baseline's."""
    carried: float
    """Fraction of the offered tokens/s: closing one stream and opening the next takes a moment."""
    ttft_error_s: float
    itl_error: float
    coalesced: float


LIMITS: Final = {
    OWN: Limits(stamps="packet", cost=0.55, carried=0.995, ttft_error_s=0.0002, itl_error=0.002, coalesced=0.0),
    OWN_SOCKET: Limits(stamps="kernel", cost=0.8, carried=0.99, ttft_error_s=0.0003, itl_error=0.01, coalesced=0.005),
}
"""By client. Where reads are stamped, chunks that wait together share a stamp: hence the wider limits."""


def cost_and_truth(comparison: Comparison, *, cost: bool = True) -> list[Requirement]:
    """Judge each of llmload's clients that ran: its accuracy, and with `cost` what a token costs beside the others."""
    clients = [client for client in LIMITS if client in comparison.readings]
    return [
        *(each for client in clients if cost for each in _cost(comparison, client)),
        *(each for client in clients for each in accuracy(comparison, client)),
    ]


def _cost(comparison: Comparison, client: str) -> Iterator[Requirement]:
    ran, limits = comparison.readings, LIMITS[client]
    work = named(comparison.work.label, client)
    if BASELINE in ran:
        ratio = comparison.ratio(client, BASELINE)
        yield at_most(work, f"CPU a token, x {BASELINE}", ratio, limits.cost, "{:.2f}")
    if client == OWN and FLOOR in ran:
        yield below(work, f"CPU a token, x {FLOOR}", comparison.ratio(client, FLOOR))
    if client == OWN and OWN_SOCKET in ran:
        ratio = comparison.ratio(client, OWN_SOCKET, "machine_us_per_token")
        yield below(work, f"the machine's CPU a token, x {OWN_SOCKET}", ratio)


def accuracy(comparison: Comparison, client: str = OWN) -> list[Requirement]:
    """Judge what the client carried, and its own summary against the truth log."""
    limits, offered = LIMITS[client], comparison.work.offered_tokens_per_s
    work = named(comparison.work.label, client)
    readings, carried = comparison.readings[client], comparison.median(client, "carried_tokens_per_s") or 0.0
    sources = "/".join(sorted({reading.stamps or "none" for reading in readings}))
    ttft_error_s = comparison.error(client, "ttft_mean_s", relative=False)
    return [
        exactly(work, "source of the stamps", sources, limits.stamps),
        Requirement(
            work=work,
            name="tokens/s carried, of offered",
            figure=f"{carried / offered:.2%}",
            limit=f">= {limits.carried:.1%}",
            passed=carried >= limits.carried * offered,
        ),
        at_most(work, "failed requests", sum(reading.failed for reading in readings), 0, "{:.0f}"),
        at_most(work, "TTFT mean off by, s", ttft_error_s, limits.ttft_error_s, "{:.5f}"),
        *itl_errors(comparison, client, limits.itl_error, work),
        at_most(work, "coalesced share", comparison.median(client, "coalesced_share"), limits.coalesced, "{:.3%}"),
    ]


def itl_errors(comparison: Comparison, client: str, limit: float, work: str) -> Iterator[Requirement]:
    """Judge the percentiles of all gaps between chunks, and with the packet ring's stamps the greatest."""
    for name in ("p50", "p99", "max") if LIMITS[client].stamps == "packet" else ("p50", "p99"):
        error = comparison.error(client, f"itl_{name}_s", relative=True)
        yield at_most(work, f"pooled ITL {name} off by", error, limit, "{:.2%}")


def named(work: str, client: str) -> str:
    """Return how a row names a work and which of llmload's clients did it."""
    return work if client == OWN else f"{work} {client.removeprefix(f'{OWN}-')}"


def below(work: str, name: str, ratio: float | None) -> Requirement:
    """Require a ratio below 1; an unknown one fails."""
    shown = "not measured" if ratio is None else f"{ratio:.2f}"
    return Requirement(work=work, name=name, figure=shown, limit="< 1", passed=ratio is not None and ratio < 1)


def exact_stamps(name: str, run: ClientRun, limit_s: float) -> list[Requirement]:
    """Judge the stamp of every chunk that was read alone against the engine's write of it."""
    stamps = Stamps.of(run)
    form = "{:.6f}"
    return [
        at_most(name, "TTFT off by at p99, s", stamps.p99(stamps.ttft_error_s), limit_s, form),
        at_most(name, "ITL off by at p99, s", stamps.p99(stamps.itl_error_s), limit_s, form),
    ]
