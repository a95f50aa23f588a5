"""Charts of throughput, load and failures over time."""

from collections.abc import Callable, Sequence

import numpy as np

from llmload.report import chart as colours
from llmload.report.chart import Band, Chart, Series, run_colour
from llmload.report.digest import Digest
from llmload.report.periods import Stage


def bands(digest: Digest) -> list[Band]:
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


def over_time(digests: Sequence[Digest], names: Sequence[str]) -> list[Chart]:
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
                lambda d: (d.timeline.completed * 60 / d.timeline.widths_s).tolist(),
            ),
            bands=own_bands,
            empty=nothing_drawn(digests, "No request was completed."),
        ),
        Chart(title="Users and requests in flight", unit="", series=_levels(digests, names), bands=own_bands),
        _errors(digests, names, own_bands),
    ]


def nothing_drawn(digests: Sequence[Digest], otherwise: str) -> str:
    """Return why a chart is empty: the folders hold no request, or what is said otherwise."""
    none = not any(digest.totals.ended for digest in digests)
    return "The folder holds no request." if none else otherwise


def _curves(
    digests: Sequence[Digest], names: Sequence[str], alone: str, of: Callable[[Digest], list[float]]
) -> list[Series]:
    """One run's curve is an area; those of several are lines, each in its run's colour."""
    if len(digests) == 1:
        (digest,) = digests
        return [Series(name=alone, x=digest.timeline.middles_s, y=of(digest), colour=colours.RATE, style="area")]
    return [
        Series(name=name, x=digest.timeline.middles_s, y=of(digest), colour=run_colour(place))
        for place, (digest, name) in enumerate(zip(digests, names, strict=True))
    ]


def _levels(digests: Sequence[Digest], names: Sequence[str]) -> list[Series]:
    series = _curves(digests, names, "in flight", lambda digest: digest.timeline.in_flight)
    if len(digests) > 1:
        return series
    (digest,) = digests
    return [
        *users_series(digest),
        Series(name="in flight", x=series[0].x, y=series[0].y, colour=colours.SECOND),
    ]


def users_series(digest: Digest) -> list[Series]:
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
        None if place == 0 or middle_s > end_s else changes[place - 1][1]
        for place, middle_s in zip(since.tolist(), middles_s, strict=True)
    ]
    return [Series(name="users", x=middles_s, y=y, colour=colours.LEVEL, style="step", width=4)]


def _errors(digests: Sequence[Digest], names: Sequence[str], own_bands: Sequence[Band]) -> Chart:
    title, unit = "Failed requests/min, by type", "1/min"
    if len(digests) > 1:
        return Chart(
            title="Failed requests/min",
            unit=unit,
            series=[
                Series(
                    name=name,
                    x=digest.timeline.middles_s,
                    y=(np.sum(list(digest.timeline.errors.values()), axis=0) * 60 / digest.timeline.widths_s).tolist(),
                    colour=run_colour(place),
                )
                for place, (digest, name) in enumerate(zip(digests, names, strict=True))
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
                y=(stack * 60 / widths_s).tolist(),
                colour=run_colour(len(counts) - 1 - place),
                style="bars",
            )
            for place, ((name, count), stack) in enumerate(zip(reversed(counts), stacked, strict=True))
        ],
        bands=own_bands,
        note="Bars are stacked: each type stands on those below it." if len(counts) > 1 else "",
        empty=nothing_drawn(digests, "No request failed."),
    )
