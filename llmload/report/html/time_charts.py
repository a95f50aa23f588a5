"""Charts over the time of the run: throughput, load and failures; then the samples of engine and GPUs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from llmload.report.html.chart import (
    NO_REQUESTS,
    Band,
    Chart,
    Colour,
    Numbers,
    Section,
    Series,
    ShownRun,
    run_colour,
    why_empty,
)
from llmload.runs.folder import ENGINE_METRICS, GPU_METRICS
from llmload.runs.loaded_run import LoadedRun, SampledPart, read_samples
from llmload.runs.periods import Stage
from llmload.units import GB, MIB_PER_GIB, S_PER_MIN

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
        return [Series(name=name_alone, x=run.timeline.middles_s, y=of(run), colour=Colour.RATE, style="area")]
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
