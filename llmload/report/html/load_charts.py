"""Charts of latency and throughput against load, and against each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from llmload.report.html.chart import Chart, Colour, Mark, Section, Series, ShownRun
from llmload.report.html.latency_charts import PERCENTILE_COLOURS, PERCENTILES, slo_marks
from llmload.report.terminal import LATENCIES
from llmload.runs.loaded_run import LoadedRun
from llmload.runs.summary import Figures
from llmload.units import MS_PER_S

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
        load = f": {users} users" if users else f": {rate_per_s:g} requests/s" if rate_per_s else ""
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
    what = "Each point is a stage, measured on its own" if staged else "Each point is a run"
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
