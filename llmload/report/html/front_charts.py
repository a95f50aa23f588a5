"""The Pareto fronts of sweeps: what a user gets against what the deployment gives, a chart for each shape."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from llmload.report.html.chart import Chart, Colour, Section, Series, ShownRun
from llmload.runs.sweep import USER_SPEEDS, SpeedName, SweepPoint, SweepResult

NOTE: Final = (
    "Further right a user gets more, further up the deployment gives more. The line has the points that no other beats "
    "in both; between them nothing was measured, so it is a step: who needs a speed between two points gets the "
    "throughput of the faster one. Grey points are beaten by another. Numbers are the load of a point. Bars: 95 % "
    "intervals. Rings: the load generator may have limited the point."
)


@dataclass(frozen=True, slots=True)
class _Swept:
    """A run's sweep, as it is shown."""

    name: str
    colour: str
    sweep: SweepResult


def front_sections(runs: Sequence[ShownRun]) -> list[Section]:
    """Return the section of the fronts; none where no run is a sweep."""
    swept = [_Swept(each.name, each.colour, each.run.summary.sweep) for each in runs if each.run.summary.sweep]
    if not swept:
        return []
    per_gpu = all(each.sweep.gpus for each in swept)
    shapes = dict.fromkeys(point.shape for each in swept for point in each.sweep.points)
    charts = [_chart(swept, shape, name, per_gpu=per_gpu) for shape in shapes for name in get_args(SpeedName)]
    few = "" if per_gpu else " Not per GPU, since the number of GPUs is not known of every run (deployment.gpus)."
    return [Section("Pareto front", charts, f"{NOTE}{few}")]


def _chart(swept: Sequence[_Swept], shape: str, name: SpeedName, *, per_gpu: bool) -> Chart:
    of = f"{shape}: " if shape else ""
    return Chart(
        title=f"{of}output tok/s{' per GPU' if per_gpu else ''} against tok/s of a user",
        unit="tok/s/GPU" if per_gpu else "tok/s",
        x="linear",
        x_label=f"tok/s of a user: {USER_SPEEDS[name]}",
        series=[series for each in swept for series in _series(each, shape, name, several=len(swept) > 1)],
        empty="no TPOT is known",
    )


def _series(swept: _Swept, shape: str, name: SpeedName, *, several: bool) -> Iterator[Series]:
    points = [
        point
        for point in swept.sweep.points
        if point.shape == shape
        and point.tokens_per_s_per_user.value(name) is not None
        and point.output_tokens_per_s is not None
    ]
    front = sorted(
        (point for point in points if swept.sweep.on_front(point, name)),
        key=lambda point: point.tokens_per_s_per_user.value(name) or 0.0,
    )
    beaten = [point for point in points if point not in front]
    bound = [point for point in points if point.client_bound]
    gpus = swept.sweep.gpus or 1
    colour = swept.colour if several else Colour.RATE
    title = swept.name if several else "Pareto front"
    if beaten:  # below the front, so that it hides no point of it
        yield _of_points("beaten", beaten, name, gpus, Colour.QUIET)
    yield _of_points(title, front, name, gpus, colour, style="front")
    if bound:
        yield _of_points("limited by the load generator?", bound, name, gpus, Colour.P99, hollow=True)


def _of_points(
    title: str,
    points: Sequence[SweepPoint],
    name: SpeedName,
    gpus: int,
    colour: str,
    *,
    style: str = "points",
    hollow: bool = False,
) -> Series:
    intervals = [point.output_tokens_per_s_interval for point in points]
    return Series(
        name=title,
        x=[point.tokens_per_s_per_user.value(name) for point in points],
        y=[(point.output_tokens_per_s or 0.0) / gpus for point in points],
        low=[] if hollow else [None if each is None else each[0] / gpus for each in intervals],
        high=[] if hollow else [None if each is None else each[1] / gpus for each in intervals],
        labels=[] if hollow else [f"{point.load:g}" for point in points],
        colour=colour,
        style="front" if style == "front" else "points",
        width=1.75 if style == "front" else 0,
        hollow=hollow,
    )
