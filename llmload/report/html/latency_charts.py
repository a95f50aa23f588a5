"""Charts of distributions over the measurement window, and of latency percentiles over the run's time."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np

from llmload.report.html.chart import Chart, Colour, Mark, Numbers, Series, ShownRun, why_empty
from llmload.report.html.time_charts import bands
from llmload.runs.loaded_run import LoadedRun
from llmload.runs.timeline import grouping
from llmload.stats.histogram import Histogram
from llmload.units import MS_PER_S

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
