"""Charts of latencies: how they are distributed, and how that changed over time."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from llmload.report.html import chart as colours
from llmload.report.html.chart import Chart, Mark, Series, bands, nothing_drawn, run_colour
from llmload.runs.loaded_run import LoadedRun
from llmload.runs.timeline import grouping
from llmload.stats.histogram import Histogram
from llmload.units import MS_PER_S

PERCENTILES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
PERCENTILE_COLOURS: Final = {"p50": colours.P50, "p95": colours.P95, "p99": colours.P99}
ECDF_POINTS: Final = 160
REACH: Final = 20.0
TALL: Final = 12.0
"""A latency chart is drawn on a log axis where its greatest value is more than so many times its median."""
NO_CHUNKS: Final = "The run recorded no chunk times (run.record_chunks = false): only the table knows the percentiles."


def ecdf(digests: Sequence[LoadedRun], names: Sequence[str], name: str, key: str) -> Chart:
    """Return which share of the values lies at or below each latency, a curve a run."""
    of = [digest.totals.distributions[key] for digest in digests]
    measured = [each for each in of if each.count]
    limits = _grid(measured) if measured else []
    single = len(digests) == 1
    return Chart(
        title=name,
        unit="% of gaps" if key == "itl_s" else "% of requests",
        x_label=f"{name}, ms",
        empty=_unmeasured(digests, key),
        x="log",
        y="share",
        series=[
            Series(
                name=("gaps" if key == "itl_s" else "requests") if single else run,
                x=[limit * MS_PER_S for limit in limits],
                y=[100 * count / each.count for count in each.at_most_each(limits)],
                colour=colours.RATE if single else run_colour(index),
            )
            for index, (each, run) in enumerate(zip(of, names, strict=True))
            if each.count
        ],
        marks=[*(_percentile_marks(of[0]) if single else ()), *slo_marks(digests, key, "x")],
    )


def _grid(histograms: Sequence[Histogram]) -> list[float]:
    """From about the least to about the greatest; a few far from the middle would squeeze all others."""
    low = [max(each.quantile(0.005) or 0.0, (each.quantile(0.5) or 0.0) / REACH) for each in histograms]
    high = [min(each.most, (each.quantile(0.99) or 0.0) * REACH) for each in histograms]
    least = max(1e-6, min(low) * 0.9)
    most = max(least * 1.5, max(high) * 1.1)
    return [float(limit) for limit in np.geomspace(least, most, ECDF_POINTS)]


def _percentile_marks(histogram: Histogram) -> list[Mark]:
    found = {name: histogram.quantile(share) for name, share in PERCENTILES.items()}
    return [Mark(axis="x", at=value * MS_PER_S, label=name) for name, value in found.items() if value]


def slo_marks(digests: Sequence[LoadedRun], key: str, axis: Any) -> list[Mark]:
    """Return a line at each limit that the runs set for the latency."""
    slos = [digest.manifest["scenario"].get("slo") or {} for digest in digests]
    limits = {float(slo[key]) for slo in slos if slo.get(key) is not None}
    return [Mark(axis=axis, at=limit * MS_PER_S, label="SLO") for limit in sorted(limits)]


def _unmeasured(digests: Sequence[LoadedRun], key: str) -> str:
    if key == "itl_s" and any(digest.summary.get(key) for digest in digests):
        return NO_CHUNKS
    return nothing_drawn(digests, "Not measured in the judged window.")


def latency_over_time(digests: Sequence[LoadedRun], names: Sequence[str], name: str, key: str) -> Chart:
    """Return the percentiles of a latency over time: three of one run, two each of several."""
    series = [
        each
        for index, (digest, run) in enumerate(zip(digests, names, strict=True))
        for each in (_percentiles(digest, key) if len(digests) == 1 else _two(digest, key, run, run_colour(index)))
    ]
    known = [value for each in series for value in each.y if value is not None]
    dots = _dots(digests[0], key) if len(digests) == 1 else ([], [])
    greatest = max([*known, *dots[1]], default=0.0)
    tall = bool(known) and greatest > TALL * float(np.median(known)) and min([*known, *dots[1]]) > 0
    return Chart(
        title=f"{name} over time",
        unit="ms",
        series=series,
        y="log" if tall else "linear",
        bands=bands(digests[0]) if len(digests) == 1 else [],
        dots=dots,
        marks=[mark for mark in slo_marks(digests, key, "y") if mark.at <= 2 * greatest],
        empty=_unmeasured(digests, key),
    )


def _percentiles(digest: LoadedRun, key: str) -> list[Series]:
    size = grouping(np.array(digest.timeline.latencies[key].counts))
    grouped = digest.timeline.latencies[key].grouped(size)
    middles_s = _middles(digest, size, len(grouped.counts))
    return [
        Series(
            name=name,
            x=middles_s,
            y=_ms(grouped.quantiles(share, at_least=_backing(share))),
            colour=PERCENTILE_COLOURS[name],
        )
        for name, share in PERCENTILES.items()
    ]


def _two(digest: LoadedRun, key: str, run: str, colour: str) -> list[Series]:
    size = grouping(np.array(digest.timeline.latencies[key].counts))
    grouped = digest.timeline.latencies[key].grouped(size)
    middles_s = _middles(digest, size, len(grouped.counts))
    return [
        Series(
            name=f"{run} {name}",
            x=middles_s,
            y=_ms(grouped.quantiles(share, at_least=_backing(share))),
            colour=colour,
            dash=name == "p95",
        )
        for name, share in list(PERCENTILES.items())[:2]
    ]


def _backing(share: float) -> int:
    """How many values a percentile needs before one of them lies beyond it."""
    return 1 if share <= 0.5 else math.ceil(1 / (1 - share) - 1e-9)


def _middles(digest: LoadedRun, size: int, groups: int) -> list[float]:
    width_s, span_s = digest.timeline.width_s * size, digest.span_s
    return [
        (index * width_s + (span_s if index == groups - 1 else (index + 1) * width_s)) / 2 for index in range(groups)
    ]


def _dots(digest: LoadedRun, key: str) -> tuple[list[float], list[float]]:
    rows = digest.timeline.sample.rows
    if key not in rows:
        return [], []
    shown = (rows["completed"] > 0) & ~np.isnan(rows[key])
    order = np.argsort(rows["start_s"][shown])
    return rows["start_s"][shown][order].tolist(), (rows[key][shown][order] * MS_PER_S).tolist()


def _ms(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else value * MS_PER_S for value in values]
