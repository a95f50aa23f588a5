"""What the packet ring saw between client and engine, in words; nothing for a run without its stamps."""

from collections.abc import Callable
from typing import Final

from llmload.metrics.effects import DEGRADED_PART, LEAST_LAG_S
from llmload.runs.summary import NetworkSummary, Summary
from llmload.runs.summary_parts import Distribution
from llmload.units import UNKNOWN, milliseconds, number, percent


def network_rows(summary: Summary) -> list[tuple[str, str]]:
    """Return title and text of what the packet ring saw besides stamps; nothing where no stamp is from it."""
    network = summary.network
    if network is None:
        return []
    late, rtt, wire = summary.departure_delay_s, summary.rtt_s, summary.ttft_wire_s
    left = f"requests left {_p50_p99(late)} ms after their start, TTFT from then {_p50_p99(wire)} ms (p50, p99)"
    seen = [
        f"round trip {_p50_p99(rtt)} ms (p50, p99)",
        f"{network.retransmissions} segments came twice, {network.late_segments} after later ones",
        f"windows closed by the engine {network.engine_closed_windows}, by the client {network.client_closed_windows}",
        f"{percent(network.same_segment_share)} of chunks in one segment with the one before",
    ]
    rows = [("on the wire", left), ("network", ", ".join(seen)), *_notes(summary, network)]
    if network.resets:
        rows.append(("resets", _resets(network)))
    return rows


def _notes(summary: Summary, network: NetworkSummary) -> list[tuple[str, str]]:
    """Return what a reader may take for the engine's speed and is something else, and whose it is to mend."""
    notes = []
    rtt_s, ttft_s = summary.value("rtt_s", "p50"), summary.value("ttft_s", "p50")
    if rtt_s and ttft_s and rtt_s > max(DEGRADED_PART * ttft_s, LEAST_LAG_S):
        part = f"{milliseconds(rtt_s)} of the {milliseconds(ttft_s)} ms of TTFT p50 are the network's round trip"
        notes.append(("far away", f"{part}: send from a machine nearer to the engine"))
    if network.engine_closed_windows > DEGRADED_PART * summary.requests.started:
        notes.append(("engine's host", "closed its window: it took requests late, and TTFT contains that"))
    if network.dropped_segments or network.missed_bytes:
        missed = f"{number(network.missed_bytes, 0)} bytes of answers have stamps of the process"
        notes.append(("packet ring", f"dropped {number(network.dropped_segments, 0)} segments; {missed}"))
    if network.waits_for_acknowledgements:
        notes.append(("engine's TCP", "Nagle's algorithm delays small writes: set TCP_NODELAY there or in its proxy"))
    return notes


def _resets(network: NetworkSummary) -> str:
    return ", ".join(f"{count} by the {side}" for side, count in network.resets.items())


def _p50_p99(distribution: Distribution | None) -> str:
    return UNKNOWN if distribution is None else f"{milliseconds(distribution.p50)}, {milliseconds(distribution.p99)}"


def _ms(key: str, statistic: str) -> Callable[[Summary], str]:
    return lambda summary: milliseconds(summary.value(key, statistic))


def _of(text: Callable[[NetworkSummary], str]) -> Callable[[Summary], str]:
    return lambda summary: UNKNOWN if summary.network is None else text(summary.network)


NETWORK_FIGURES: Final[dict[str, Callable[[Summary], str]]] = {
    "TTFT on the wire p50, ms": _ms("ttft_wire_s", "p50"),
    "TTFT on the wire p99, ms": _ms("ttft_wire_s", "p99"),
    "delay of departure p50, ms": _ms("departure_delay_s", "p50"),
    "delay of departure p99, ms": _ms("departure_delay_s", "p99"),
    "round trip p50, ms": _ms("rtt_s", "p50"),
    "round trip p99, ms": _ms("rtt_s", "p99"),
    "segments that came twice": _of(lambda network: number(network.retransmissions, 0)),
    "segments that came after later ones": _of(lambda network: number(network.late_segments, 0)),
    "windows closed by the engine": _of(lambda network: number(network.engine_closed_windows, 0)),
    "windows closed by the client": _of(lambda network: number(network.client_closed_windows, 0)),
    "chunks in one segment with the one before": _of(lambda network: percent(network.same_segment_share)),
    "connections reset": _of(lambda network: _resets(network) or "none"),
    "bytes with stamps of the process": _of(lambda network: number(network.missed_bytes, 0)),
    "segments dropped by the packet ring": _of(lambda network: number(network.dropped_segments, 0)),
    "Nagle's algorithm at the engine": _of(
        lambda network: {True: "yes", False: "no", None: UNKNOWN}[network.waits_for_acknowledgements]
    ),
}
"""The same, a figure a row, for tables of several runs."""
