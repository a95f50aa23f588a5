"""Every series that llmload exports: its name, type, labels and help text, and how it is read from a run."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from llmload.metrics.checks import checks_of
from llmload.metrics.requests import LATENCIES, LIVE_QUANTILES
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Doubt, Level, Verdict
from llmload.record import CLIENT, ENGINE, ErrorType, Outcome, Slo
from llmload.stats.histogram import bucket_bounds
from llmload.units import code, markdown_table

COMMON_LABELS: Final = ("engine", "model", "scenario")
INFO_LABELS: Final = ["run_id", "scenario", "engine", "engine_version", "model", "gpus", "tensor_parallel", "precision"]
WORKER_STATES: Final = ("ready", "spawning", "running", "cleanup", "stopping", "stopped", "missing")


def geometric_bounds(first: float, last: float, ratio: float) -> tuple[float, ...]:
    """Return bounds from `first` to `last`, each the previous one times `ratio`, rounded to three digits."""
    bounds = [first]
    while bounds[-1] < last:
        bounds.append(float(f"{first * ratio ** len(bounds):.3g}"))
    return (*bounds[:-1], last)


LATENCY_S: Final = bucket_bounds(0.001, 240.0, 14)
"""Every 14th bound of the totals' own buckets, 5 % apart: quantiles are within 6 % of summary.json's."""
LAG_S: Final = geometric_bounds(0.0001, 10.0, 1.5)
SPEED_PER_S: Final = geometric_bounds(1.0, 1_000.0, 1.2)
TOKENS: Final = tuple(float(2**power) for power in range(18))


ByLabels = Mapping[str, float] | Mapping[tuple[str, ...], float]
"""A figure by the value of a family's label, or by those of its labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a run at one moment; before the first run, `info` and the times are None and all counts 0."""

    labels: Mapping[str, str]
    totals: RunTotals = field(default_factory=RunTotals)
    names: Mapping[str, RunTotals] = field(default_factory=dict)
    """The totals of each name: a bounded set; empty where requests have no names."""
    slo: Slo = field(default_factory=Slo)
    info: Mapping[str, str] | None = None
    running: bool = False
    started_unix_s: float | None = None
    ended_unix_s: float | None = None
    users: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    cpu_ratio: Mapping[str, float] = field(default_factory=dict)
    memory_estimate_bytes: Mapping[str, float] = field(default_factory=dict)
    """The memory that sizing expects on each GPU, by purpose; empty if model or GPU is not known."""
    verdict: Verdict | None = None
    """None until a request has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A counter or gauge; `read` returns a figure by the values of `labels`, as a text where there is one or none."""

    name: str
    kind: Literal["counter", "gauge"]
    text: str
    read: Callable[[Snapshot], ByLabels]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HistogramFamily:
    """A histogram of one distribution over the whole run, with its SLO limit as an additional bound."""

    name: str
    text: str
    distribution: str
    base_bounds: tuple[float, ...]

    def bounds(self, slo: Slo) -> list[float]:
        """Return the bounds, with the SLO's limit among them if there is one."""
        return sorted({*self.base_bounds, *(slo.limits[name] for name in [self.distribution] if name in slo.limits)})


def _one(read: Callable[[Snapshot], float | None]) -> Callable[[Snapshot], ByLabels]:
    return lambda snapshot: {"": read(snapshot) or 0.0}


def _count(name: str, text: str, attribute: str) -> Family:
    return Family(name=name, kind="counter", text=text, read=_one(lambda s: float(getattr(s.totals, attribute))))


def _quantiles_of(totals: RunTotals, distribution: str) -> dict[str, float]:
    histogram = totals.distributions[distribution]
    quantiles = {name: histogram.quantile(share) for name, share in LIVE_QUANTILES.items()}
    return {name: math.nan if quantile is None else quantile for name, quantile in quantiles.items()}


def _quantiles(name: str, distribution: str) -> Family:
    return Family(
        name=f"llmload_{name}_quantile_seconds",
        kind="gauge",
        labels=("percentile",),
        text="Quantile over the measurement window so far, as in summary.json; NaN while nothing is measured.",
        read=lambda snapshot: _quantiles_of(snapshot.totals, distribution),
    )


def _reasoning_quantiles(name: str, distribution: str) -> Family:
    return Family(
        name=f"llmload_{name}_quantile_seconds",
        kind="gauge",
        labels=("percentile",),
        text="Quantile over the measurement window so far, as in summary.json; absent where no answer has reasoning.",
        read=lambda s: _quantiles_of(s.totals, distribution) if s.totals.reasoned_answers else {},
    )


def _named_quantiles(name: str, distribution: str) -> Family:
    def read(snapshot: Snapshot) -> dict[tuple[str, ...], float]:
        return {
            (of, percentile): quantile
            for of, totals in snapshot.names.items()
            for percentile, quantile in _quantiles_of(totals, distribution).items()
        }

    return Family(
        name=f"llmload_named_{name}_quantile_seconds",
        kind="gauge",
        labels=("name", "percentile"),
        text="The same of requests of one name; absent where requests have no names.",
        read=read,
    )


def _named_outcomes(snapshot: Snapshot) -> dict[tuple[str, ...], float]:
    named = snapshot.names.items()
    return {(name, each.value): float(getattr(totals, each.value)) for name, totals in named for each in Outcome}


_MAY_BE_DOUBTED: Final = tuple(
    (figure, percentile, check) for figure in LATENCIES for percentile in LIVE_QUANTILES for check in checks_of(figure)
)


def _doubts(doubts: Iterable[Doubt]) -> dict[tuple[str, ...], float]:
    found = {
        (doubt.figure, doubt.statistic or percentile, doubt.check) for doubt in doubts for percentile in LIVE_QUANTILES
    }
    return {each: float(each in found) for each in _MAY_BE_DOUBTED}


def _network_events(totals: RunTotals) -> dict[str, float]:
    return {
        "segment_came_twice": float(totals.retransmissions),
        "segment_came_late": float(totals.late_segments),
        **{f"window_closed_by_{side}": float(getattr(totals, f"{side}_closed_windows")) for side in (ENGINE, CLIENT)},
        **{f"reset_by_{side}": float(totals.resets[side]) for side in (ENGINE, CLIENT)},
    }


FAMILIES: Final = (
    _count("llmload_requests_started_total", "Requests sent.", "started"),
    Family(
        name="llmload_requests_total",
        kind="counter",
        labels=("outcome",),
        text="Requests that ended, by outcome; a censored request was cut by the end of the run, not by the engine.",
        read=lambda s: {outcome.value: float(getattr(s.totals, outcome.value)) for outcome in Outcome},
    ),
    Family(
        name="llmload_request_errors_total",
        kind="counter",
        labels=("error_type",),
        text="Failed requests, by error type.",
        read=lambda s: {each.value: float(s.totals.errors[each.value]) for each in ErrorType},
    ),
    _count("llmload_requests_good_total", "Complete answers that met every limit of the SLO.", "good"),
    _count(
        "llmload_arrivals_dropped_total", "Arrivals that were not sent, because max_in_flight was reached.", "dropped"
    ),
    _count("llmload_prompt_tokens_total", "Prompt tokens of complete answers.", "arrived_prompt_tokens"),
    _count(
        "llmload_cached_prompt_tokens_total",
        "Prompt tokens of complete answers that the engine took from its prefix cache.",
        "arrived_cached_tokens",
    ),
    _count("llmload_output_tokens_total", "Output tokens of complete answers.", "arrived_tokens"),
    Family(
        name="llmload_requests_in_flight",
        kind="gauge",
        text="Requests in flight.",
        read=_one(lambda s: float(s.totals.in_flight)),
    ),
    Family(
        name="llmload_users",
        kind="gauge",
        labels=("state",),
        text="Locust users: running now, and targeted.",
        read=lambda s: {state: float(s.users.get(state, 0)) for state in ("running", "target")},
    ),
    Family(
        name="llmload_workers",
        kind="gauge",
        labels=("state",),
        text="Worker processes by state; all 0 in a run of a single process.",
        read=lambda s: {state: float(s.workers.get(state, 0)) for state in WORKER_STATES},
    ),
    Family(
        name="llmload_worker_cpu_ratio",
        kind="gauge",
        labels=("worker",),
        text="CPU use of each llmload process, 1 is a whole core; near 1 it sends and counts late.",
        read=lambda s: s.cpu_ratio,
    ),
    Family(
        name="llmload_gpu_memory_estimate_bytes",
        kind="gauge",
        labels=("part",),
        text="Memory that sizing expects on each GPU: weights, overhead, KV cache; absent if model or GPU is unknown.",
        read=lambda s: s.memory_estimate_bytes,
    ),
    Family(
        name="llmload_verdict",
        kind="gauge",
        labels=("level",),
        text="1 for the level of the verdict so far, 0 for the others; all 0 until a request has ended.",
        read=lambda s: {level.value: float(s.verdict is not None and level is s.verdict.level) for level in Level},
    ),
    Family(
        name="llmload_figure_doubt",
        kind="gauge",
        labels=("figure", "percentile", "check"),
        text="1 where the check doubts a quantile so far, as the mark in tables and verdict.doubts say; 0 where not.",
        read=lambda s: _doubts(() if s.verdict is None else s.verdict.doubts),
    ),
    Family(
        name="llmload_run_start_timestamp_seconds",
        kind="gauge",
        text="Unix time of the run's start; 0 before the first run.",
        read=_one(lambda s: s.started_unix_s),
    ),
    Family(
        name="llmload_run_end_timestamp_seconds",
        kind="gauge",
        text="Unix time of the run's end; 0 until then.",
        read=_one(lambda s: s.ended_unix_s),
    ),
    _quantiles("time_to_first_token", "ttft_s"),
    _quantiles("inter_token_latency", "itl_s"),
    _quantiles("request_time_per_output_token", "tpot_s"),
    _quantiles("e2e_request_latency", "e2e_s"),
    _reasoning_quantiles("time_to_first_answer", "ttfa_s"),
    _reasoning_quantiles("thinking", "thinking_s"),
    _reasoning_quantiles("answer_time_per_output_token", "answer_tpot_s"),
    _quantiles("time_to_first_token_on_the_wire", "ttft_wire_s"),
    _quantiles("round_trip", "rtt_s"),
    Family(
        name="llmload_named_requests_total",
        kind="counter",
        labels=("name", "outcome"),
        text="Requests that ended, by their name and outcome; absent where requests have no names.",
        read=_named_outcomes,
    ),
    Family(
        name="llmload_named_output_tokens_total",
        kind="counter",
        labels=("name",),
        text="Output tokens of complete answers, by the request's name; absent where requests have no names.",
        read=lambda s: {name: float(totals.arrived_tokens) for name, totals in s.names.items()},
    ),
    _named_quantiles("time_to_first_token", "ttft_s"),
    _named_quantiles("request_time_per_output_token", "tpot_s"),
    _named_quantiles("e2e_request_latency", "e2e_s"),
    Family(
        name="llmload_network_events_total",
        kind="counter",
        labels=("event",),
        text="What the packet ring saw of connections to the engine; 0 without its stamps: docs/stamps.md.",
        read=lambda snapshot: _network_events(snapshot.totals),
    ),
)
RUN_INFO: Final = "llmload_run_info"
RUN_INFO_TEXT: Final = "The run's identity as labels: 1 during the run, 0 after it; absent before the first run."

HISTOGRAMS: Final = (
    HistogramFamily(
        name="llmload_time_to_first_token_seconds",
        text="Time from a request's start to its first chunk with text.",
        distribution="ttft_s",
        base_bounds=LATENCY_S,
    ),
    HistogramFamily(
        name="llmload_inter_token_latency_seconds",
        text="Gap between two consecutive chunks with text.",
        distribution="itl_s",
        base_bounds=LATENCY_S,
    ),
    HistogramFamily(
        name="llmload_request_time_per_output_token_seconds",
        text="Mean time per output token of a request, after the first token.",
        distribution="tpot_s",
        base_bounds=LATENCY_S,
    ),
    HistogramFamily(
        name="llmload_e2e_request_latency_seconds",
        text="Time from a request's start to the last byte of its answer.",
        distribution="e2e_s",
        base_bounds=LATENCY_S,
    ),
    HistogramFamily(
        name="llmload_request_output_tokens_per_second",
        text="Output tokens of a request divided by its e2e latency.",
        distribution="request_output_tokens_per_s",
        base_bounds=SPEED_PER_S,
    ),
    HistogramFamily(
        name="llmload_request_prompt_tokens",
        text="Prompt tokens of a request.",
        distribution="request_prompt_tokens",
        base_bounds=TOKENS,
    ),
    HistogramFamily(
        name="llmload_request_output_tokens",
        text="Output tokens of a request.",
        distribution="request_output_tokens",
        base_bounds=TOKENS,
    ),
    HistogramFamily(
        name="llmload_schedule_lag_seconds",
        text="Delay of an open loop's requests against their schedule.",
        distribution="schedule_lag_s",
        base_bounds=LAG_S,
    ),
    HistogramFamily(
        name="llmload_event_loop_lag_seconds",
        text="Delay with which a sleeping process woke up, the first sign of a saturated load generator.",
        distribution="event_loop_lag_s",
        base_bounds=LAG_S,
    ),
)


def sample_names() -> set[str]:
    """Return the name of every exported sample."""
    names = {RUN_INFO, *(family.name for family in FAMILIES)}
    return names | {f"{each.name}_{suffix}" for each in HISTOGRAMS for suffix in ("bucket", "count", "sum")}


def table() -> str:
    """Return all series as the table in docs/monitoring.md."""
    rows: list[tuple[str, ...]] = [(code(each.name), each.kind, ", ".join(each.labels), each.text) for each in FAMILIES]
    rows += [(code(each.name), "histogram", "le", each.text) for each in HISTOGRAMS]
    rows.append((code(RUN_INFO), "gauge", ", ".join(INFO_LABELS), RUN_INFO_TEXT))
    return markdown_table(["series", "kind", "labels besides the common", "meaning"], rows)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
