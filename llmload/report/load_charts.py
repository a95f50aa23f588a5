"""Charts of latency and throughput against load, and against each other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmload.report import chart as colours
from llmload.report.chart import Chart, Mark, Section, Series, run_colour
from llmload.report.digest import Digest
from llmload.report.latency_charts import MS_PER_S, PERCENTILE_COLOURS, PERCENTILES, slo_marks
from llmload.report.tables import LATENCIES

SHOWN: Final = (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("e2e latency", "e2e_s"))


def load_sections(digests: Sequence[Digest], names: Sequence[str]) -> list[Section]:
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


def _points(digest: Digest, run: str) -> list[_Point]:
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
            _xy(name, [(p.load, p.figures.get("output_tokens_per_s")) for p in of], _colour(place, points))
            for place, (of, name) in enumerate(zip(points, names, strict=True))
        ],
    )


def _by_load(
    points: Sequence[Sequence[_Point]], names: Sequence[str], digests: Sequence[Digest], name: str, key: str
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
    points: Sequence[Sequence[_Point]], names: Sequence[str], digests: Sequence[Digest], name: str, key: str
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
            PERCENTILE_COLOURS[quantile] if alone else run_colour(place),
        )
        for place, (of, name) in enumerate(zip(points, names, strict=True))
        for quantile in (PERCENTILES if alone else ("p95",))
    ]


def _xy(name: str, points: Sequence[tuple[float | None, float | None]], colour: str) -> Series:
    known = [(x, y) for x, y in points if x is not None and y is not None]
    return Series(name=name, x=[x for x, _ in known], y=[y for _, y in known], colour=colour, style="points")


def _colour(place: int, points: Sequence[Sequence[_Point]]) -> str:
    return colours.RATE if len(points) == 1 else run_colour(place)


def _found(digests: Sequence[Digest]) -> list[Mark]:
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


def _by_in_flight(digest: Digest, name: str, key: str) -> Chart:
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
