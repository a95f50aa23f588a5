"""Charts of throughput, load and failures over time."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from llmload.runs.aggregate import Stage
from llmload.runs.loaded_run import LoadedRun
from llmload.units import S_PER_MIN

# A chart as plain values: what the page's script draws, whatever it shows.

Numbers = Sequence[float | int | None]
P50, P95, P99, RATE, LEVEL, SECOND, BAD, QUIET = "p50", "p95", "p99", "rate", "level", "second", "bad", "quiet"
"""Colours by what they stand for; `page/report.css` has them for light and dark."""
RUN_COLOURS: Final = 8
DIGITS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A curve: `x` ascending, `y` with None where nothing is known."""

    name: str
    x: Numbers
    y: Numbers
    colour: str
    style: Literal["line", "step", "bars", "points", "area"] = "line"
    dash: bool = False
    width: float = 1.75

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
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A span of the x axis: `outside` of what is judged is shaded, a `stage` is set off from its neighbours."""

    from_x: float
    to_x: float
    label: str
    kind: Literal["outside", "stage"]

    def to_dict(self) -> dict[str, Any]:
        """Return the band as the script reads it."""
        return {"from": round(self.from_x, 3), "to": round(self.to_x, 3), "label": self.label, "kind": self.kind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A line across the chart at a value of an axis."""

    axis: Literal["x", "y"]
    at: float
    label: str

    def to_dict(self) -> dict[str, Any]:
        """Return the mark as the script reads it."""
        return {"axis": self.axis, "at": rounded([self.at])[0], "label": self.label}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """
    What is drawn, with its unit; `empty` says in words why there is nothing to draw, where there is nothing.

    `x` says what the horizontal axis is: `time` in seconds since the run's start, or a quantity on a `log` or `linear`
    scale, named by `x_label`. `dots` are single values `(x, y)`, drawn faintly behind the curves.
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
    """What the points of an x-y curve are, in the order of the series' x."""
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
    """Return the values with as many digits as a screen can tell apart: a page holds thousands."""
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]


def run_colour(index: int) -> str:
    """Return the colour of one of several runs; they repeat after RUN_COLOURS."""
    return f"run{index % RUN_COLOURS + 1}"


def bands(digest: LoadedRun) -> list[Band]:
    """Return the spans of a run's time axis: its stages, and what is not judged."""
    periods, window = digest.periods, digest.periods.drawn(digest.totals)
    if periods.stages:
        return _stage_bands(periods.stages, digest.span_s)
    if window.from_s is None:
        return [Band(from_x=0.0, to_x=digest.span_s, label="nothing judged", kind="outside")]
    found = [Band(from_x=0.0, to_x=window.from_s, label="warm-up", kind="outside")] if window.from_s > 0 else []
    if window.to_s is not None and digest.span_s > window.to_s:
        found.append(Band(from_x=window.to_s, to_x=digest.span_s, label="drain", kind="outside"))
    return found


def _stage_bands(stages: Sequence[Stage], span_s: float) -> list[Band]:
    """Each stage, the part of it before it is judged, and the drain after the last."""
    found = [Band(from_x=each.from_s, to_x=each.to_s, label=each.name, kind="stage") for each in stages]
    for each in stages:
        judged_s = each.to_s if each.judged_from_s is None else each.judged_from_s
        found.append(Band(from_x=each.from_s, to_x=judged_s, label="", kind="outside"))
    return [*found, Band(from_x=stages[-1].to_s, to_x=span_s, label="drain", kind="outside")]


def over_time(digests: Sequence[LoadedRun], names: Sequence[str]) -> list[Chart]:
    """Return throughput, load and failures over the time of the runs."""
    own_bands = bands(digests[0]) if len(digests) == 1 else []
    spread = [name for digest, name in zip(digests, names, strict=True) if digest.timeline.evenly_spread]
    note = (
        f"Spread evenly over each answer, since chunk times were not recorded: {', '.join(spread)}." if spread else ""
    )
    return [
        Chart(
            title="Output tokens/s",
            unit="tok/s",
            series=_curves(
                digests, names, "output tokens/s", lambda d: (d.timeline.tokens / d.timeline.widths_s).tolist()
            ),
            bands=own_bands,
            note=note,
            empty=nothing_drawn(digests, "No output tokens are known."),
        ),
        Chart(
            title="Requests/min",
            unit="1/min",
            series=_curves(
                digests,
                names,
                "completed/min",
                lambda d: (d.timeline.completed * S_PER_MIN / d.timeline.widths_s).tolist(),
            ),
            bands=own_bands,
            empty=nothing_drawn(digests, "No request was completed."),
        ),
        Chart(title="Users and requests in flight", unit="", series=_levels(digests, names), bands=own_bands),
        _errors(digests, names, own_bands),
    ]


def nothing_drawn(digests: Sequence[LoadedRun], otherwise: str) -> str:
    """Return why a chart is empty: the folders hold no request, or what is said otherwise."""
    none = not any(digest.totals.ended for digest in digests)
    return "The folder holds no request." if none else otherwise


def _curves(
    digests: Sequence[LoadedRun], names: Sequence[str], alone: str, of: Callable[[LoadedRun], list[float]]
) -> list[Series]:
    """One run's curve is an area; those of several are lines, each in its run's colour."""
    if len(digests) == 1:
        (digest,) = digests
        return [Series(name=alone, x=digest.timeline.middles_s, y=of(digest), colour=RATE, style="area")]
    return [
        Series(name=name, x=digest.timeline.middles_s, y=of(digest), colour=run_colour(index))
        for index, (digest, name) in enumerate(zip(digests, names, strict=True))
    ]


def _levels(digests: Sequence[LoadedRun], names: Sequence[str]) -> list[Series]:
    series = _curves(digests, names, "in flight", lambda digest: digest.timeline.in_flight)
    if len(digests) > 1:
        return series
    (digest,) = digests
    return [
        *users_series(digest),
        Series(name="in flight", x=series[0].x, y=series[0].y, colour=SECOND),
    ]


def users_series(digest: LoadedRun) -> list[Series]:
    """Return how many users ran, where they make the load: in an open loop they only rest."""
    load = digest.summary["load"]
    of_users = load["kind"] == "closed_loop" or any(stage["users"] for stage in digest.summary.get("stages") or ())
    if not of_users or not digest.users:
        return []
    middles_s, changes = digest.timeline.middles_s, sorted(digest.users)
    since = np.searchsorted([t_s for t_s, _ in changes], middles_s, side="right")
    window = digest.periods.drawn(digest.totals)
    end_s = digest.span_s if window.to_s is None else window.to_s
    y = [
        None if index == 0 or middle_s > end_s else changes[index - 1][1]
        for index, middle_s in zip(since.tolist(), middles_s, strict=True)
    ]
    return [Series(name="users", x=middles_s, y=y, colour=LEVEL, style="step", width=4)]


def _errors(digests: Sequence[LoadedRun], names: Sequence[str], own_bands: Sequence[Band]) -> Chart:
    title, unit = "Failed requests/min, by type", "1/min"
    if len(digests) > 1:
        return Chart(
            title="Failed requests/min",
            unit=unit,
            series=[
                Series(
                    name=name,
                    x=digest.timeline.middles_s,
                    y=(
                        np.sum(list(digest.timeline.errors.values()), axis=0) * S_PER_MIN / digest.timeline.widths_s
                    ).tolist(),
                    colour=run_colour(index),
                )
                for index, (digest, name) in enumerate(zip(digests, names, strict=True))
                if digest.timeline.errors
            ],
            empty=nothing_drawn(digests, "No request failed."),
        )
    (digest,) = digests
    timeline, size = digest.timeline, max(1, digest.timeline.bins // 60)
    starts = np.arange(0, timeline.bins, size)
    counts = sorted(timeline.errors.items(), key=lambda item: -int(item[1].sum()))
    of_types = np.array([np.add.reduceat(count, starts) for _, count in counts]).reshape(len(counts), len(starts))
    stacked = np.cumsum(of_types, axis=0)[::-1]
    widths_s = np.add.reduceat(timeline.widths_s, starts)
    middles_s = (np.cumsum(widths_s) - widths_s / 2).tolist()
    return Chart(
        title=title,
        unit=unit,
        series=[
            Series(
                name=f"{name} ({int(count.sum())})",
                x=middles_s,
                y=(stack * S_PER_MIN / widths_s).tolist(),
                colour=run_colour(len(counts) - 1 - index),
                style="bars",
            )
            for index, ((name, count), stack) in enumerate(zip(reversed(counts), stacked, strict=True))
        ],
        bands=own_bands,
        note="Bars are stacked: each type stands on those below it." if len(counts) > 1 else "",
        empty=nothing_drawn(digests, "No request failed."),
    )
