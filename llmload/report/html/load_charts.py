"""Charts of latency distributions and percentiles, and of latency and throughput against load."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

import numpy as np

from llmload.report.figures import LATENCIES
from llmload.report.html.chart import Chart, Colour, Mark, Numbers, Section, Series, ShownRun, bands, why_empty
from llmload.runs.loaded_run import LoadedRun
from llmload.runs.summary import Figures
from llmload.runs.timeline import grouping
from llmload.stats.histogram import Histogram
from llmload.units import MS_PER_S, counted

# Charts of distributions over the measurement window, and of latency percentiles over the run's time.

PERCENTILES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
PERCENTILE_COLOURS: Final = {"p50": Colour.P50, "p95": Colour.P95, "p99": Colour.P99}
CDF_POINTS: Final = 160
MAX_RATIO_TO_MEDIAN: Final = 20.0
"""A distribution is drawn from its median over this to its p99 times this: outliers would squeeze everything else."""
LOG_AXIS_RATIO: Final = 12.0
"""A latency chart gets a log axis where its maximum exceeds this many times its median."""
TOKEN_BARS: Final = 32
NO_CHUNKS: Final = "The run recorded no chunk times (run.record_chunks = false): only the table has the percentiles."


def cdf_chart(runs: Sequence[ShownRun], name: str, key: str) -> Chart:
    """Return the share of values at or below each latency, one curve per run."""
    measured = [each for each in runs if each.run.totals.distributions[key].count]
    histograms = [each.run.totals.distributions[key] for each in measured]
    limits_s = _limits_s(histograms) if histograms else []
    single, what = len(runs) == 1, "gaps" if key == "itl_s" else "requests"
    return Chart(
        title=name,
        unit=f"% of {what}",
        x_label=f"{name}, ms",
        empty=_why_unmeasured(runs, key),
        x="log",
        y="share",
        series=[
            Series(
                name=what if single else each.name,
                x=[limit_s * MS_PER_S for limit_s in limits_s],
                y=[100 * count / histogram.count for count in histogram.counts_at_most(limits_s)],
                colour=Colour.RATE if single else each.colour,
            )
            for each, histogram in zip(measured, histograms, strict=True)
        ],
        marks=[*(_percentile_marks(histograms[0]) if single and histograms else ()), *slo_marks(runs, key, "x")],
    )


def _limits_s(histograms: Sequence[Histogram]) -> list[float]:
    low = [max(each.quantile(0.005) or 0.0, (each.quantile(0.5) or 0.0) / MAX_RATIO_TO_MEDIAN) for each in histograms]
    high = [min(each.max_value, (each.quantile(0.99) or 0.0) * MAX_RATIO_TO_MEDIAN) for each in histograms]
    first_s = max(1e-6, min(low) * 0.9)
    last_s = max(first_s * 1.5, max(high) * 1.1)
    return [float(limit_s) for limit_s in np.geomspace(first_s, last_s, CDF_POINTS)]


def _percentile_marks(histogram: Histogram) -> list[Mark]:
    found = {name: histogram.quantile(share) for name, share in PERCENTILES.items()}
    return [Mark(axis="x", at=value * MS_PER_S, label=name) for name, value in found.items() if value]


def slo_marks(runs: Sequence[ShownRun], key: str, axis: Literal["x", "y"]) -> list[Mark]:
    """Return a line at each limit that the runs set for the latency."""
    limits = {getattr(each.run.manifest.scenario.slo, key, None) for each in runs}
    return [Mark(axis=axis, at=limit * MS_PER_S, label="SLO") for limit in sorted(filter(None, limits))]


def _why_unmeasured(runs: Sequence[ShownRun], key: str) -> str:
    if key == "itl_s" and any(each.run.summary.itl_s for each in runs):
        return NO_CHUNKS
    return why_empty(runs, "Not measured in the window.")


def latency_over_time(runs: Sequence[ShownRun], name: str, key: str) -> Chart:
    """Return percentiles of a latency over time: p50, p95 and p99 of one run, p50 and p95 of several."""
    single = len(runs) == 1
    series = [line for each in runs for line in _percentiles(each, key, single=single)]
    dots = _dots(runs[0].run, key) if single else ([], [])
    known = [value for line in series for value in line.y if value is not None]
    values = [*known, *(value for value in dots[1] if value is not None)]
    maximum = max(values, default=0.0)
    log = bool(known) and maximum > LOG_AXIS_RATIO * float(np.median(known)) and min(values) > 0
    return Chart(
        title=f"{name} over time",
        unit="ms",
        series=series,
        y="log" if log else "linear",
        bands=bands(runs[0].run) if single else [],
        dots=dots,
        marks=[mark for mark in slo_marks(runs, key, "y") if mark.at <= 2 * maximum],
        empty=_why_unmeasured(runs, key),
    )


def _percentiles(shown: ShownRun, key: str, *, single: bool) -> list[Series]:
    timeline = shown.run.timeline
    size = grouping(np.array(timeline.latencies[key].counts))
    grouped = timeline.latencies[key].grouped(size)
    middles_s = _middles_s(shown.run, size, len(grouped.counts))
    return [
        Series(
            name=name if single else f"{shown.name} {name}",
            x=middles_s,
            y=_in_ms(grouped.quantiles(PERCENTILES[name], min_count=_min_count(PERCENTILES[name]))),
            colour=PERCENTILE_COLOURS[name] if single else shown.colour,
            dash=name == "p95" and not single,
        )
        for name in (PERCENTILES if single else ("p50", "p95"))
    ]


def _min_count(share: float) -> int:
    """The smallest number of values of which one lies beyond the percentile."""
    return 1 if share <= 0.5 else math.ceil(1 / (1 - share) - 1e-9)


def _middles_s(run: LoadedRun, size: int, groups: int) -> list[float]:
    width_s, span_s = run.timeline.width_s * size, run.span_s
    return [
        (index * width_s + (span_s if index == groups - 1 else (index + 1) * width_s)) / 2 for index in range(groups)
    ]


def _dots(run: LoadedRun, key: str) -> tuple[Numbers, Numbers]:
    rows: Mapping[str, np.typing.NDArray[np.float64]] = run.timeline.sample.rows
    if key not in rows:
        return [], []
    drawn = (rows["completed"] > 0) & ~np.isnan(rows[key])
    order = np.argsort(rows["start_s"][drawn])
    return rows["start_s"][drawn][order].tolist(), (rows[key][drawn][order] * MS_PER_S).tolist()


def _in_ms(values_s: Sequence[float | None]) -> list[float | None]:
    return [None if value_s is None else value_s * MS_PER_S for value_s in values_s]


def token_chart(runs: Sequence[ShownRun], title: str, key: str) -> Chart:
    """Return the distribution of tokens per request: bars for one run, steps for several."""
    measured = [each for each in runs if each.run.totals.distributions[key].count]
    maximum = max((each.run.totals.distributions[key].max_value for each in measured), default=0.0)
    width = max(1, math.ceil((maximum + 1) / TOKEN_BARS))
    edges = [width * index - 0.5 for index in range(1, int(maximum // width) + 2)]
    single = len(runs) == 1
    answered = any(each.run.totals.distributions["e2e_s"].count for each in runs)
    return Chart(
        title=title,
        unit="% of requests",
        x="linear",
        x_label=f"{title.lower()}, bars of {width}" if single else title.lower(),
        series=[
            Series(
                name="requests" if single else each.name,
                x=[edge + 0.5 - width / 2 for edge in edges],
                y=_bar_percents(each.run.totals.distributions[key], edges),
                colour=Colour.SECOND if single else each.colour,
                style="bars" if single else "step",
            )
            for each in measured
        ],
        empty="Not known: the engine reported no count."
        if answered
        else why_empty(runs, "No request was completed in the window."),
    )


def _bar_percents(histogram: Histogram, edges: Sequence[float]) -> list[float]:
    return [float(100 * share) for share in np.diff(histogram.counts_at_most(edges), prepend=0) / histogram.count]


BY_LOAD: Final = (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("e2e latency", "e2e_s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """A stage, or a run without stages: the load that the scenario sets, and the figures that were measured."""

    name: str
    load: float | None
    unit: str
    figures: Figures

    @classmethod
    def of(cls, name: str, users: int | None, rate_per_s: float | None, figures: Figures) -> Self:
        """Return the point of a closed loop's users or of an open loop's rate."""
        load = f": {counted(users, 'user')}" if users else f": {rate_per_s:g} requests/s" if rate_per_s else ""
        unit = "users" if users else "requests/s"
        return cls(name=f"{name}{load}", load=users or rate_per_s, unit=unit, figures=figures)


@dataclass(frozen=True, slots=True)
class _Curve:
    """One run's points in the order of their load."""

    name: str
    colour: str
    points: Sequence[_Point]


def load_sections(runs: Sequence[ShownRun]) -> list[Section]:
    """Return latency and throughput by load: over stages, over several runs, or over an open loop's time bins."""
    staged = any(each.run.summary.stages for each in runs)
    if not staged and len(runs) == 1:
        return _in_flight_sections(runs[0].run)
    curves = [_Curve(each.name, each.colour, _points(each)) for each in runs]
    what = "Each point is a stage or phase, measured on its own" if staged else "Each point is a run"
    by_load = [_throughput_by_load(curves), *(_latency_by_load(curves, runs, *of) for of in BY_LOAD)]
    against = [_latency_by_throughput(curves, runs, *of) for of in BY_LOAD]
    return [
        Section("By load", [chart for chart in by_load if chart.drawn], f"{what}."),
        Section(
            "Latency against throughput",
            [chart for chart in against if chart.drawn],
            f"{what}, joined in the order of load: further right is more throughput, further down is less latency.",
        ),
    ]


def _in_flight_sections(run: LoadedRun) -> list[Section]:
    if run.summary.load.constant_users:
        return []  # the number in flight is constant
    note = "Each point is a span of time: the median latency of what started in it, at the mean number in flight."
    charts = [_by_in_flight(run, name, key) for name, key in LATENCIES.items()]
    return [Section("Latency by requests in flight", [chart for chart in charts if chart.drawn], note)]


def _points(shown: ShownRun) -> list[_Point]:
    """The run's stages in the order of their load, or the run itself if it has none."""
    summary, load = shown.run.summary, shown.run.summary.load
    points = [_Point.of(stage.name, stage.users, stage.rate_per_s, stage) for stage in summary.stages]
    whole = _Point.of(shown.name, load.constant_users, load.constant_rate_per_s, summary)
    return sorted(points or [whole], key=lambda point: (point.load is None, point.load or 0.0))


def _throughput_by_load(curves: Sequence[_Curve]) -> Chart:
    return Chart(
        title="System output tokens/s by load",
        unit="tok/s",
        x="linear",
        x_label=_load_unit(curves),
        series=[
            _xy(
                curve.name,
                Colour.RATE if len(curves) == 1 else curve.colour,
                [(point.load, point.figures.output_tokens_per_s) for point in curve.points],
            )
            for curve in curves
        ],
    )


def _latency_by_load(curves: Sequence[_Curve], runs: Sequence[ShownRun], name: str, key: str) -> Chart:
    return Chart(
        title=f"{name} by load" if len(curves) == 1 else f"{name} p95 by load",
        unit="ms",
        x="linear",
        x_label=_load_unit(curves),
        series=_latency_series(curves, key, lambda point: point.load),
        marks=[*_capacity_marks(runs), *slo_marks(runs, key, "y")],
    )


def _latency_by_throughput(curves: Sequence[_Curve], runs: Sequence[ShownRun], name: str, key: str) -> Chart:
    def throughput(point: _Point) -> float | None:
        return point.figures.output_tokens_per_s

    single = len(curves) == 1
    points = [p for p in curves[0].points if throughput(p) is not None and p.figures.distribution(key)]
    return Chart(
        title=f"{name} against throughput" if single else f"{name} p95 against throughput",
        unit="ms",
        x="linear",
        x_label="system output tokens/s",
        series=_latency_series(curves, key, throughput),
        marks=slo_marks(runs, key, "y"),
        point_names=[point.name for point in points] if single else (),
    )


def _latency_series(curves: Sequence[_Curve], key: str, x: Callable[[_Point], float | None]) -> list[Series]:
    def points(curve: _Curve, percentile: str) -> list[tuple[float | None, float | None]]:
        return [(x(p), _ms(p.figures.value(key, percentile))) for p in curve.points]

    if len(curves) == 1:
        return [_xy(name, PERCENTILE_COLOURS[name], points(curves[0], name)) for name in PERCENTILES]
    return [_xy(curve.name, curve.colour, points(curve, "p95")) for curve in curves]


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * MS_PER_S


def _xy(name: str, colour: str, points: Sequence[tuple[float | None, float | None]], width: float = 1.75) -> Series:
    known = [(x, y) for x, y in points if x is not None and y is not None]
    return Series(
        name=name, x=[x for x, _ in known], y=[y for _, y in known], colour=colour, style="points", width=width
    )


def _capacity_marks(runs: Sequence[ShownRun]) -> list[Mark]:
    """Lines at the result of a search: the highest load that passed, the lowest that failed, the knee."""
    capacity = runs[0].run.summary.capacity if len(runs) == 1 else None
    if capacity is None:
        return []
    found = {"passes": capacity.passes, "fails": capacity.fails, "knee": capacity.knee}
    return [Mark(axis="x", at=load, label=name) for name, load in found.items() if load is not None]


def _load_unit(curves: Sequence[_Curve]) -> str:
    return " or ".join(sorted({point.unit for curve in curves for point in curve.points if point.load is not None}))


def _by_in_flight(run: LoadedRun, name: str, key: str) -> Chart:
    medians_s = run.timeline.latencies[key].quantiles(0.5, min_count=3)
    points = sorted(
        (in_flight, median_s * MS_PER_S)
        for in_flight, median_s in zip(run.timeline.in_flight, medians_s, strict=True)
        if median_s is not None
    )
    return Chart(
        title=f"{name} by requests in flight",
        unit="ms",
        x="linear",
        x_label="mean requests in flight",
        series=[_xy("p50", Colour.P50, points, width=0)],
    )
