"""Which charts a report has, of one run or of several laid over each other."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from llmload.report.html import chart as colours
from llmload.report.html.chart import Band, Chart, Mark, Section, Series, bands, nothing_drawn, over_time, run_colour
from llmload.report.html.latency_charts import (
    PERCENTILE_COLOURS,
    PERCENTILES,
    ecdf,
    latency_over_time,
    slo_marks,
)
from llmload.report.terminal import LATENCIES
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS
from llmload.runs.loaded_run import LoadedRun, Part, read_monitored
from llmload.units import GB, MIB_PER_GIB, MS_PER_S

# Charts of latency and throughput against load, and against each other.

SHOWN: Final = (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("e2e latency", "e2e_s"))


def load_sections(digests: Sequence[LoadedRun], names: Sequence[str]) -> list[Section]:
    """Return latency and throughput by load: of stages, of several runs, or of the spans of an open loop."""
    staged = any(digest.summary.get("stages") for digest in digests)
    if not staged and len(digests) == 1:
        (digest,) = digests
        if digest.summary["load"]["kind"] == "closed_loop":
            return []  # as many in flight all along
        note = "Each point is a span of time: the median latency of what started in it, at the mean number in flight."
        charts = [_by_in_flight(digest, name, key) for name, key in LATENCIES.items()]
        return [Section("Latency by requests in flight", [chart for chart in charts if chart.drawn], note)]
    points = [_points(digest, run) for digest, run in zip(digests, names, strict=True)]
    what = "Each point is a stage, judged by itself" if staged else "Each point is a run"
    by_load = [_throughput_by_load(points, names), *(_by_load(points, names, digests, *of) for of in SHOWN)]
    against = [_against_throughput(points, names, digests, *of) for of in SHOWN]
    return [
        Section("By load", [chart for chart in by_load if chart.drawn], f"{what}."),
        Section(
            "Latency against throughput",
            [chart for chart in against if chart.drawn],
            f"{what}, joined in the order of load: further right is more throughput, further down is less latency.",
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A stage, or a run without stages: what was asked for, and what came of it."""

    name: str
    load: float | None
    unit: str
    figures: Mapping[str, Any]


def _points(digest: LoadedRun, run: str) -> list[_Point]:
    """Return the run's stages in the order of their load, or the run itself where it has none."""
    load = digest.summary["load"]
    whole = {**digest.summary, "name": run, "users": load.get("users"), "rate_per_s": load.get("rate_per_s")}
    found = [
        _Point(
            name=_asked(each),
            load=each.get("users") or each.get("rate_per_s"),
            unit="users" if each.get("users") else "requests/s asked for",
            figures=each,
        )
        for each in digest.summary.get("stages") or [whole]
    ]
    return sorted(found, key=lambda point: (point.load is None, point.load or 0.0))


def _throughput_by_load(points: Sequence[Sequence[_Point]], names: Sequence[str]) -> Chart:
    return Chart(
        title="System output tokens/s by load",
        unit="tok/s",
        x="linear",
        x_label=_unit(points),
        series=[
            _xy(name, [(p.load, p.figures.get("output_tokens_per_s")) for p in of], _colour(index, points))
            for index, (of, name) in enumerate(zip(points, names, strict=True))
        ],
    )


def _by_load(
    points: Sequence[Sequence[_Point]], names: Sequence[str], digests: Sequence[LoadedRun], name: str, key: str
) -> Chart:
    return Chart(
        title=f"{name} by load" if len(points) == 1 else f"{name} p95 by load",
        unit="ms",
        x="linear",
        x_label=_unit(points),
        series=_latency_curves(points, names, key, lambda point: point.load),
        marks=[*_found(digests), *slo_marks(digests, key, "y")],
    )


def _against_throughput(
    points: Sequence[Sequence[_Point]], names: Sequence[str], digests: Sequence[LoadedRun], name: str, key: str
) -> Chart:
    series = _latency_curves(points, names, key, lambda point: point.figures.get("output_tokens_per_s"))
    return Chart(
        title=f"{name} against throughput" if len(points) == 1 else f"{name} p95 against throughput",
        unit="ms",
        x="linear",
        x_label="system output tokens/s",
        series=series,
        marks=slo_marks(digests, key, "y"),
        point_names=[p.name for p in points[0] if p.figures.get("output_tokens_per_s") is not None and p.figures[key]]
        if len(points) == 1
        else (),
    )


def _latency_curves(
    points: Sequence[Sequence[_Point]], names: Sequence[str], key: str, x: Callable[[_Point], float | None]
) -> list[Series]:
    alone = len(points) == 1
    return [
        _xy(
            quantile if alone else name,
            [(x(p), p.figures[key] and p.figures[key][quantile] * MS_PER_S) for p in of],
            PERCENTILE_COLOURS[quantile] if alone else run_colour(index),
        )
        for index, (of, name) in enumerate(zip(points, names, strict=True))
        for quantile in (PERCENTILES if alone else ("p95",))
    ]


def _xy(name: str, points: Sequence[tuple[float | None, float | None]], colour: str) -> Series:
    known = [(x, y) for x, y in points if x is not None and y is not None]
    return Series(name=name, x=[x for x, _ in known], y=[y for _, y in known], colour=colour, style="points")


def _colour(index: int, points: Sequence[Sequence[_Point]]) -> str:
    return colours.RATE if len(points) == 1 else run_colour(index)


def _found(digests: Sequence[LoadedRun]) -> list[Mark]:
    """Lines at what a search found: the load that holds, the one that breaks, the knee."""
    capacity = digests[0].summary.get("capacity") if len(digests) == 1 else None
    names = ("holds", "breaks", "knee") if capacity else ()
    return [Mark(axis="x", at=capacity[name], label=name) for name in names if capacity and capacity[name] is not None]


def _unit(points: Sequence[Sequence[_Point]]) -> str:
    return " or ".join(sorted({point.unit for of in points for point in of if point.load is not None}))


def _asked(stage: dict[str, Any]) -> str:
    if stage.get("users") is not None:
        return f"{stage['name']}: {stage['users']} users"
    return f"{stage['name']}: {stage['rate_per_s']:g} requests/s" if stage.get("rate_per_s") else str(stage["name"])


def _by_in_flight(digest: LoadedRun, name: str, key: str) -> Chart:
    medians = digest.timeline.latencies[key].quantiles(0.5, at_least=3)
    points = sorted(
        (in_flight, median * MS_PER_S)
        for in_flight, median in zip(digest.timeline.in_flight, medians, strict=True)
        if median is not None
    )
    return Chart(
        title=f"{name} by requests in flight",
        unit="ms",
        x="linear",
        x_label="mean requests in flight",
        series=[
            Series(
                name="p50",
                x=[x for x, _ in points],
                y=[y for _, y in points],
                colour=colours.P50,
                style="points",
                width=0,
            )
        ],
    )


# What engine and GPUs said of themselves, as charts on the run's time axis.

_ENGINE: Final = (
    ("KV cache in use", "%", "kv_cache_usage", 100.0),
    ("Output tokens/s, by the engine", "tok/s", "output_tokens", None),
    ("Prompt tokens/s, by the engine", "tok/s", "prompt_tokens", None),
    ("Preemptions/s", "1/s", "preemptions", None),
)
"""Title, unit, series, and the factor to the unit; None: a counter, shown by how fast it grows."""
_GPU: Final = (
    ("Power", "W", "power_w", 1.0),
    ("Memory used", "GiB", "memory_used_mib", 1 / MIB_PER_GIB),
    ("Utilisation", "%", "gpu_util_percent", 1.0),
    ("Tensor cores active", "%", "tensor_active", 100.0),
    ("NVLink sent", "GB/s", "nvlink_tx_bytes_per_s", 1 / GB),
    ("NVLink received", "GB/s", "nvlink_rx_bytes_per_s", 1 / GB),
)


def monitored_sections(digest: LoadedRun) -> list[Section]:
    """Return the sections of a run that read its engine or GPUs; none for one that read neither."""
    origin_s, own_bands = digest.manifest["started_unix_s"], bands(digest)
    engines = read_monitored(digest.folder, ENGINE_METRICS, origin_s)
    gpus = read_monitored(digest.folder, GPU_METRICS, origin_s)
    engine = [_requests(digest, engines, own_bands), *(_chart(engines, own_bands, *each) for each in _ENGINE)]
    found = []
    if engines:
        note = "What the engine said of itself: it speaks of all its clients, of which llmload may be one of many."
        found.append(Section("Engine", [chart for chart in engine if chart.drawn], note))
    if gpus:
        charts = [_chart(gpus, own_bands, *each) for each in _GPU]
        found.append(Section("GPUs", [chart for chart in charts if chart.drawn]))
    return found


def _requests(digest: LoadedRun, engines: Sequence[Part], own_bands: Sequence[Band]) -> Chart:
    """The engine's own count of requests beside the client's."""
    series = [
        Series(
            name=_named(kind, part, engines),
            x=part.t_s,
            y=part.values[kind],
            colour=run_colour(2 * index + (kind == "waiting")),
            dash=kind == "waiting",
        )
        for index, part in enumerate(engines)
        for kind in ("running", "waiting")
        if part.has(kind)
    ]
    own = Series(
        name="in flight, by llmload",
        x=digest.timeline.middles_s,
        y=digest.timeline.in_flight,
        colour=colours.QUIET,
        width=4,
    )
    return Chart(title="Requests in the engine", unit="", series=[own, *series] if series else [], bands=own_bands)


def _chart(
    parts: Sequence[Part], own_bands: Sequence[Band], title: str, unit: str, name: str, factor: float | None
) -> Chart:
    of: Callable[[Part], Sequence[float | None]]
    if factor is None:
        of = lambda part: part.rate(name)  # noqa: E731 - one of two readings of the same table
    else:
        of = lambda part: [None if value is None else value * factor for value in part.values[name]]  # noqa: E731 - the other
    series = [
        Series(name=_named(title, part, parts), x=part.t_s, y=of(part), colour=run_colour(index))
        for index, part in enumerate(parts)
        if part.has(name)
    ]
    silent = name == "preemptions" and not any(any(each.y) for each in series)
    return Chart(title=title, unit=unit, series=[] if silent else series, bands=own_bands)


def _named(what: str, part: Part, among: Sequence[Part]) -> str:
    return what.lower() if len(among) == 1 else f"{what.lower()}, {part.name}"


TOKEN_BARS: Final = 32


def sections(digests: Sequence[LoadedRun], names: Sequence[str]) -> list[Section]:
    """Return the charts of the runs; `names` are what the runs are called in legends."""
    several = len(digests) > 1
    latency_note = (
        "Share of values at or below each latency, over the judged window; a curve further left is faster."
        " Dotted lines: the limits of [slo]."
    )
    how = (
        "p50 solid, p95 dashed, by the start of each request (ITL: by its arrival)."
        if several
        else "By the start of each request (ITL: by its arrival). Dots are single requests, "
        "drawn at random where there are many."
    )
    return [
        Section("Throughput and load over time", over_time(digests, names)),
        Section("Latency distributions", [ecdf(digests, names, *each) for each in LATENCIES.items()], latency_note),
        Section(
            "Latency over time",
            [latency_over_time(digests, names, *each) for each in LATENCIES.items()],
            f"{how} A percentile is drawn where enough values back it: 20 for p95, 100 for p99.",
        ),
        *load_sections(digests, names),
        Section(
            "Tokens a request",
            [
                _tokens(digests, names, "Prompt tokens", "request_prompt_tokens"),
                _tokens(digests, names, "Output tokens", "request_output_tokens"),
            ],
        ),
    ]


def _tokens(digests: Sequence[LoadedRun], names: Sequence[str], title: str, key: str) -> Chart:
    of = [digest.totals.distributions[key] for digest in digests]
    most = max((each.most for each in of if each.count), default=0.0)
    width = max(1, math.ceil((most + 1) / TOKEN_BARS))
    edges = [width * index - 0.5 for index in range(1, int(most // width) + 2)]
    single = len(digests) == 1
    return Chart(
        title=title,
        unit="% of requests",
        x="linear",
        x_label=f"{title.lower()}, bars of {width}" if single else title.lower(),
        series=[
            Series(
                name="requests" if single else run,
                x=[edge + 0.5 - width / 2 for edge in edges],
                y=[100 * share for share in np.diff(each.at_most_each(edges), prepend=0) / each.count],
                colour=colours.SECOND if single else run_colour(index),
                style="bars" if single else "step",
            )
            for index, (each, run) in enumerate(zip(of, names, strict=True))
            if each.count
        ],
        empty="Not known: the engine reported no count."
        if any(digest.totals.distributions["e2e_s"].count for digest in digests)
        else nothing_drawn(digests, "No request was completed in the judged window."),
    )
