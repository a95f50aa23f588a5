"""A chart as plain values, which the page's script draws, whatever it shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from llmload.runs.loaded_run import LoadedRun

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
