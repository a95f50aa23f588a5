"""Charts as plain values, which the page's script draws; and the charts over a run's time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

import numpy as np

from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS
from llmload.runs.loaded_run import LoadedRun
from llmload.runs.samples import SampledPart, read_samples
from llmload.runs.timeline import Stage
from llmload.units import GB, MIB_PER_GIB, S_PER_MIN

# A chart as plain values, which the page's script draws, whatever it shows.

Numbers = Sequence[float | int | None]
RUN_COLOURS: Final = 8
DIGITS: Final = 5
NO_REQUESTS: Final = "The folder contains no request."


class Colour(StrEnum):
    """Names of colours in `assets/theme.css`, which has each for light and dark; runs have `run_colour`."""

    P50 = "p50"
    P95 = "p95"
    P99 = "p99"
    RATE = "rate"
    LEVEL = "level"
    SECOND = "second"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A curve: `x` ascending, `y` None where unknown."""

    name: str
    x: Numbers
    y: Numbers
    colour: str
    style: Literal["line", "step", "bars", "points", "area", "front"] = "line"
    dash: bool = False
    width: float = 1.75
    low: Numbers = ()
    """Of points: the lower ends of their intervals; empty for none, as `high`."""
    high: Numbers = ()
    labels: Sequence[str] = ()
    """What is written beside points."""
    hollow: bool = False
    """Whether points are rings, around others."""

    def to_dict(self) -> dict[str, Any]:
        """Return the series as the script reads it."""
        return {
            "name": self.name,
            "x": rounded(self.x, 7),
            "y": rounded(self.y),
            "colour": self.colour,
            "style": self.style,
            "dash": self.dash,
            "width": self.width,
            "low": rounded(self.low),
            "high": rounded(self.high),
            "labels": list(self.labels),
            "hollow": self.hollow,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A span of the x axis: `outside` the measurement window it is shaded, a `stage` has a line at its start."""

    from_x: float
    to_x: float
    label: str
    kind: Literal["outside", "stage"]

    def to_dict(self) -> dict[str, Any]:
        """Return the band as the script reads it."""
        return {"from": round(self.from_x, 3), "to": round(self.to_x, 3), "label": self.label, "kind": self.kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A line across the chart at a value of one axis."""

    axis: Literal["x", "y"]
    at: float
    label: str

    def to_dict(self) -> dict[str, Any]:
        """Return the mark as the script reads it."""
        return {"axis": self.axis, "at": rounded([self.at])[0], "label": self.label}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """
    Curves with a unit, or `empty`: the sentence that is shown instead if there is nothing to draw.

    `x` is `time` in seconds since the run's start, or a quantity on a `log` or `linear` scale, named by `x_label`.
    `dots` are single values `(x, y)`, drawn faintly behind the curves.
    """

    title: str
    unit: str
    series: Sequence[Series] = ()
    x: Literal["time", "log", "linear"] = "time"
    x_label: str = ""
    y: Literal["linear", "log", "share"] = "linear"
    bands: Sequence[Band] = ()
    marks: Sequence[Mark] = ()
    dots: tuple[Numbers, Numbers] = ((), ())
    point_names: Sequence[str] = ()
    """Names of an x-y curve's points, in the order of the series' x."""
    note: str = ""
    empty: str = ""

    @property
    def drawn(self) -> bool:
        """Whether there is anything to draw."""
        return any(value is not None for series in self.series for value in series.y)

    def to_dict(self) -> dict[str, Any]:
        """Return the chart as the script reads it."""
        return {
            "title": self.title,
            "unit": self.unit,
            "x": self.x,
            "xLabel": self.x_label,
            "y": self.y,
            "series": [series.to_dict() for series in self.series],
            "bands": [band.to_dict() for band in self.bands],
            "marks": [mark.to_dict() for mark in self.marks],
            "dots": [rounded(self.dots[0], 7), rounded(self.dots[1])],
            "pointNames": list(self.point_names),
        }


@dataclass(slots=True)
class Section:
    """Charts that belong together."""

    title: str
    charts: list[Chart] = field(default_factory=list)
    note: str = ""


def rounded(values: Iterable[float | int | None], digits: int = DIGITS) -> list[float | None]:
    """Return the values with as many digits as a screen can show: a page contains thousands."""
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]


def run_colour(index: int) -> str:
    """Return the colour of one of several runs; they repeat after RUN_COLOURS."""
    return f"run{index % RUN_COLOURS + 1}"


@dataclass(frozen=True, slots=True)
class ShownRun:
    """A run on the page: its name in legends, and the colour of its curves beside those of other runs."""

    name: str
    colour: str
    run: LoadedRun


def why_empty(runs: Sequence[ShownRun], otherwise: str) -> str:
    """Return why a chart is empty: the folders contain no request, or else the given reason."""
    return otherwise if any(shown.run.totals.ended for shown in runs) else NO_REQUESTS


def why_not_drawn(charts: Iterable[Chart]) -> list[str]:
    """Return a line for each reason why charts are not drawn, with their titles."""
    titles: dict[str, list[str]] = {}
    for chart in charts:
        titles.setdefault(chart.empty or "not measured.", []).append(chart.title)
    return [f"{', '.join(of_reason)}: {reason}" for reason, of_reason in titles.items()]


ERROR_BARS: Final = 60


def bands(run: LoadedRun) -> list[Band]:
    """Return the bands of a run's time axis: its stages, and what is outside the measurement window."""
    periods, window = run.periods, run.periods.bounded(run.totals)
    if periods.stages:
        return _stage_bands(periods.stages, run.span_s)
    if window.start_s is None:
        return [Band(from_x=0.0, to_x=run.span_s, label="nothing measured", kind="outside")]
    found = [Band(from_x=0.0, to_x=window.start_s, label="warm-up", kind="outside")] if window.start_s > 0 else []
    if window.end_s is not None and run.span_s > window.end_s:
        found.append(Band(from_x=window.end_s, to_x=run.span_s, label="drain", kind="outside"))
    return found


def _stage_bands(stages: Sequence[Stage], span_s: float) -> list[Band]:
    """Each stage, its part before the measurement window, and the drain after the last stage."""
    found = [Band(from_x=each.start_s, to_x=each.end_s, label=each.name, kind="stage") for each in stages]
    for each in stages:
        window_start_s = each.end_s if each.window_start_s is None else each.window_start_s
        found.append(Band(from_x=each.start_s, to_x=window_start_s, label="", kind="outside"))
    return [*found, Band(from_x=stages[-1].end_s, to_x=span_s, label="drain", kind="outside")]


def time_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """Return throughput, load and failures over the time of the runs."""
    own_bands = bands(runs[0].run) if len(runs) == 1 else []
    spread = ", ".join(shown.name for shown in runs if shown.run.timeline.evenly_spread)
    return [
        Chart(
            title="Output tokens/s",
            unit="tok/s",
            series=_curves(runs, "output tokens/s", lambda run: (run.timeline.tokens / run.timeline.widths_s).tolist()),
            bands=own_bands,
            note=f"Spread evenly over each answer, since chunk times were not recorded: {spread}." if spread else "",
            empty=why_empty(runs, "No output tokens are known."),
        ),
        Chart(
            title="Requests/min",
            unit="1/min",
            series=_curves(runs, "completed/min", lambda run: _per_min(run, run.timeline.completed)),
            bands=own_bands,
            empty=why_empty(runs, "No request was completed."),
        ),
        Chart(title="Users and requests in flight", unit="", series=_load(runs), bands=own_bands),
        _errors_by_type(runs[0].run, own_bands) if len(runs) == 1 else _errors_by_run(runs),
    ]


def _per_min(run: LoadedRun, counts: np.typing.NDArray[np.int64]) -> list[float]:
    return [float(rate) for rate in counts * S_PER_MIN / run.timeline.widths_s]


def _curves(runs: Sequence[ShownRun], name_alone: str, of: Callable[[LoadedRun], Numbers]) -> list[Series]:
    """One run's curve is an area; those of several are lines, each in its run's colour."""
    if len(runs) == 1:
        run = runs[0].run
        rates = of(run)
        area = Series(name=name_alone, x=run.timeline.middles_s, y=rates, colour=Colour.RATE, style="area")
        return [area] if any(rates) else []
    return [Series(name=each.name, x=each.run.timeline.middles_s, y=of(each.run), colour=each.colour) for each in runs]


def _load(runs: Sequence[ShownRun]) -> list[Series]:
    if len(runs) > 1:
        return _curves(runs, "in flight", lambda run: run.timeline.in_flight)
    timeline = runs[0].run.timeline
    in_flight = Series(name="in flight", x=timeline.middles_s, y=timeline.in_flight, colour=Colour.SECOND)
    return [*_users(runs[0].run), in_flight]


def _users(run: LoadedRun) -> list[Series]:
    """The number of users, where users make the load: in an open loop they are idle."""
    of_users = run.summary.load.constant_users or any(stage.users for stage in run.summary.stages)
    if not of_users or not run.users:
        return []
    middles_s, changes = run.timeline.middles_s, sorted(run.users)
    since = np.searchsorted([t_s for t_s, _ in changes], middles_s, side="right")
    window = run.periods.bounded(run.totals)
    end_s = run.span_s if window.end_s is None else window.end_s
    y = [
        None if index == 0 or middle_s > end_s else changes[index - 1][1]
        for index, middle_s in zip(since.tolist(), middles_s, strict=True)
    ]
    return [Series(name="users", x=middles_s, y=y, colour=Colour.LEVEL, style="step", width=4)]


def _errors_by_run(runs: Sequence[ShownRun]) -> Chart:
    return Chart(
        title="Failed requests/min",
        unit="1/min",
        series=[
            Series(
                name=each.name,
                x=each.run.timeline.middles_s,
                y=_per_min(each.run, np.sum(list(each.run.timeline.errors.values()), axis=0)),
                colour=each.colour,
            )
            for each in runs
            if each.run.timeline.errors
        ],
        empty=why_empty(runs, "No request failed."),
    )


def _errors_by_type(run: LoadedRun, own_bands: Sequence[Band]) -> Chart:
    """Stacked bars, each a few bins wide, with the most frequent type at the bottom."""
    counts = sorted(run.timeline.errors.items(), key=lambda item: -int(item[1].sum()))
    starts = np.arange(0, run.timeline.bins, max(1, run.timeline.bins // ERROR_BARS))
    widths_s = np.add.reduceat(run.timeline.widths_s, starts)
    middles_s = (np.cumsum(widths_s) - widths_s / 2).tolist()
    series, below = [], np.zeros(len(starts))
    for index, (name, count) in enumerate(counts):
        below = below + np.add.reduceat(count, starts)
        series.append(
            Series(
                name=f"{name} ({int(count.sum())})",
                x=middles_s,
                y=(below * S_PER_MIN / widths_s).tolist(),
                colour=run_colour(index),
                style="bars",
            )
        )
    return Chart(
        title="Failed requests/min, by type",
        unit="1/min",
        series=series[::-1],  # the tallest bars are drawn first, behind the others
        bands=own_bands,
        note="Bars are stacked: each type is drawn on top of those below it." if len(counts) > 1 else "",
        empty="No request failed." if run.totals.ended else NO_REQUESTS,
    )


# Samples of the engine and of the GPUs


@dataclass(frozen=True, slots=True)
class _Sampled:
    """A chart of one scraped figure: the factor to its unit, or None for a counter, of which the rate is shown."""

    title: str
    unit: str
    figure: str
    factor: float | None


_ENGINE: Final = (
    _Sampled("KV cache in use", "%", "kv_cache_usage", 100.0),
    _Sampled("Output tokens/s, by the engine", "tok/s", "output_tokens", None),
    _Sampled("Prompt tokens/s, by the engine", "tok/s", "prompt_tokens", None),
    _Sampled("Preemptions/s", "1/s", "preemptions", None),
)
_GPU: Final = (
    _Sampled("Power", "W", "power_w", 1.0),
    _Sampled("Memory used", "GiB", "memory_used_mib", 1 / MIB_PER_GIB),
    _Sampled("Utilisation", "%", "gpu_util_percent", 1.0),
    _Sampled("Tensor cores active", "%", "tensor_active", 100.0),
    _Sampled("NVLink sent", "GB/s", "nvlink_tx_bytes_per_s", 1 / GB),
    _Sampled("NVLink received", "GB/s", "nvlink_rx_bytes_per_s", 1 / GB),
)


def sample_sections(run: LoadedRun) -> list[Section]:
    """Return a section for the engine's samples and one for the GPUs', each if the run has any."""
    origin_s, own_bands = run.manifest.started_unix_s, bands(run)
    engines = read_samples(run.folder, ENGINE_METRICS, origin_s)
    gpus = read_samples(run.folder, GPU_METRICS, origin_s)
    found = []
    if engines:
        note = "The engine's own metrics: they cover all its clients, of which llmload may be one of many."
        charts = [_requests(run, engines, own_bands), *(_chart(engines, own_bands, each) for each in _ENGINE)]
        found.append(Section("Engine", [chart for chart in charts if chart.drawn], note))
    if gpus:
        charts = [_chart(gpus, own_bands, each) for each in _GPU]
        found.append(Section("GPUs", [chart for chart in charts if chart.drawn]))
    return found


def _requests(run: LoadedRun, engines: Sequence[SampledPart], own_bands: Sequence[Band]) -> Chart:
    """The engine's own count of requests beside llmload's."""
    series = [
        Series(
            name=_named(figure, part, engines),
            x=part.t_s,
            y=part.values[figure],
            colour=run_colour(2 * index + (figure == "waiting")),
            dash=figure == "waiting",
        )
        for index, part in enumerate(engines)
        for figure in ("running", "waiting")
        if part.has(figure)
    ]
    timeline = run.timeline
    own = Series(name="in flight, by llmload", x=timeline.middles_s, y=timeline.in_flight, colour=Colour.QUIET, width=4)
    return Chart(title="Requests in the engine", unit="", series=[own, *series] if series else [], bands=own_bands)


def _chart(parts: Sequence[SampledPart], own_bands: Sequence[Band], sampled: _Sampled) -> Chart:
    series = [
        Series(name=_named(sampled.title, part, parts), x=part.t_s, y=_values(part, sampled), colour=run_colour(index))
        for index, part in enumerate(parts)
        if part.has(sampled.figure)
    ]
    always_zero = sampled.figure == "preemptions" and not any(any(each.y) for each in series)
    return Chart(title=sampled.title, unit=sampled.unit, series=[] if always_zero else series, bands=own_bands)


def _values(part: SampledPart, sampled: _Sampled) -> Numbers:
    if sampled.factor is None:
        return part.rate(sampled.figure)
    return [None if value is None else value * sampled.factor for value in part.values[sampled.figure]]


def _named(what: str, part: SampledPart, among: Sequence[SampledPart]) -> str:
    return what.lower() if len(among) == 1 else f"{what.lower()}, {part.name}"
