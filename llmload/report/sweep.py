"""The points of a sweep as rows of text and as CSV, for terminal, Markdown, the report and other programs."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llmload.errors import RunFolderError
from llmload.runs.summary import Summary
from llmload.runs.sweep import FRONT_SPEED, USER_SPEEDS, SpeedName, SweepPoint, SweepResult
from llmload.sweep.front import pareto_front
from llmload.units import UNKNOWN, counted, milliseconds, number

COUNTED_FROM: Final = {
    "scenario": "deployment.gpus",
    "engine": "the engine's parallel sizes",
    "dcgm": "DCGM's exporter, which shows every GPU of its host",
}
FRONT: Final = "●"
"""The mark of a point on the Pareto front."""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a point: its header on two lines, its text, and how soon it is left out where room is short."""

    header: str
    text: Callable[[SweepPoint], str]
    spare: int = 0
    """The greatest is left out first; one with 0 never."""

    @property
    def name(self) -> str:
        """The header on one line."""
        return self.header.replace("\n/", "/").replace("\n", " ").strip()


def _speed(name: SpeedName) -> Callable[[SweepPoint], str]:
    return lambda point: number(point.tokens_per_s_per_user.value(name), 1)


COLUMNS: Final = (
    Column("\nverdict", lambda point: str(point.verdict.level)),
    Column("\nanswers", lambda point: number(point.completed, 0), spare=6),
    Column("requests\n/min", lambda point: number(point.requests_per_min, 1), spare=2),
    Column("output\ntok/s", lambda point: number(point.output_tokens_per_s, 1)),
    Column("95 %\ninterval", lambda point: _interval(point.output_tokens_per_s_interval), spare=3),
    Column("output\ntok/s/GPU", lambda point: number(point.output_tokens_per_s_per_gpu, 1)),
    Column("input\ntok/s/GPU", lambda point: number(point.input_tokens_per_s_per_gpu, 1), spare=8),
    Column("req/min\n/GPU", lambda point: number(point.requests_per_min_per_gpu, 1), spare=7),
    Column("tok/s/user\n1/P50 TPOT", _speed("median")),
    Column("tok/s/user\n1/P90 TPOT", _speed("p90"), spare=9),
    Column("tok/s/user\nmean 1/TPOT", _speed("mean"), spare=10),
    Column("tok/s/user\ntok/s / users", _speed("share"), spare=11),
    Column("TTFT\np50, ms", lambda point: milliseconds(point.ttft_p50_s), spare=5),
    Column("TTFT\np95, ms", lambda point: milliseconds(point.ttft_p95_s)),
    Column("TPOT\np50, ms", lambda point: milliseconds(point.tpot_p50_s), spare=4),
    Column("e2e\np50, ms", lambda point: milliseconds(point.e2e_p50_s), spare=8),
    Column("tokens\nin, out", lambda point: _tokens(point), spare=1),
)


def _interval(interval: tuple[float, float] | None) -> str:
    return UNKNOWN if interval is None else f"{number(interval[0], 1)} to {number(interval[1], 1)}"


def _tokens(point: SweepPoint) -> str:
    means = (point.prompt_tokens_mean, point.output_tokens_mean)
    return UNKNOWN if None in means else ", ".join(number(mean, 0) for mean in means)


def shown_columns(summary: Summary) -> list[Column]:
    """Return the columns that any point of a summary's sweep has a figure for, and what limited each."""
    points = () if summary.sweep is None else summary.sweep.points
    columns = (*COLUMNS, Column("\nlimited by", lambda point: limit_text(summary, point) or UNKNOWN))
    return [column for column in columns if any(column.text(point) != UNKNOWN for point in points)]


def limit_text(summary: Summary, point: SweepPoint) -> str | None:
    """Return what limited a point, or each of its rounds where they differ; None where that is not known."""
    limits = {stage.name: stage.limited_by.name for stage in summary.stages if stage.limited_by is not None}
    return ", ".join(dict.fromkeys(limits[stage] for stage in point.stages if stage in limits)) or None


def remarks(result: SweepResult) -> list[str]:
    """Return for each point what speaks against it: its first reason, the load generator, the gates that it misses."""
    found = []
    for point in result.points:
        parts = [f"{reason.level}: {reason.text}" for reason in point.verdict.reasons[:1]]
        parts += ["may be limited by the load generator"] if point.client_bound else []
        parts += [f"misses {gate}" for gate in point.missed_gates]
        found += [f"{point.name}: {'; '.join(parts)}"] if parts else []
    return found


UNEVEN: Final = 1.1
"""By how much mean lengths of two points may differ before that is said: throughput and TTFT differ with them."""


def _uneven_lengths(points: Sequence[SweepPoint]) -> Iterator[str]:
    """Yield what is longer at some points than at others, of points without a shape."""
    of_all = (
        ("prompts", [point.prompt_tokens_mean for point in points if not point.shape]),
        ("answers", [point.output_tokens_mean for point in points if not point.shape]),
    )
    for noun, means in of_all:
        known = [mean for mean in means if mean is not None]
        if known and max(known) > UNEVEN * min(known):
            between = f"{number(min(known), 0)} to {number(max(known), 0)} tokens in the mean"
            yield f"{noun} are not as long at each point: {between}; same lengths: --set 'prompts.shapes=[[1024, 128]]'"


def sweep_notes(result: SweepResult) -> list[str]:
    """Return what one has to know of the points: GPUs, intervals, definitions, why the ladder ended."""
    if result.gpus is None or result.gpus_counted_from is None:
        gpus = (
            "per GPU: n/a, since the number of GPUs is not known: --set deployment.gpus=N, with every GPU of the "
            "deployment, idle ones and those of prefill too"
        )
    else:
        gpus = f"per GPU: {counted(result.gpus, 'GPU')} by {COUNTED_FROM[result.gpus_counted_from]}"
        for who, count in result.gpus_said.items():
            gpus += "" if count == result.gpus else f"; BUT {count} by {COUNTED_FROM[who]}"
    by = f"{result.rounds} rounds" if result.interval_from == "rounds" else "parts of its window"
    return [
        *remarks(result),
        f"{FRONT} on the Pareto front: no other point has more tok/s a user (1/P50 of TPOT) and more output tok/s",
        gpus,
        f"tok/s/user by four definitions, not to be compared with each other: {'; '.join(USER_SPEEDS.values())}",
        *_uneven_lengths(result.points),
        f"intervals of a point are by {by}",
        *([] if result.ended is None else [f"the ladder ended before its last load: {result.ended}"]),
        *([] if result.complete else ["the sweep was ended before all points were measured"]),
    ]


def sweep_rows(summary: Summary, columns: Sequence[Column]) -> Iterator[tuple[str, list[str]]]:
    """Yield for each point its name with the mark of the front, and its texts in the columns."""
    if summary.sweep is None:
        return
    for point in summary.sweep.points:
        mark = FRONT if summary.sweep.on_front(point) else " "
        yield f"{mark} {point.name}", [column.text(point) for column in columns]


# Several sweeps together: which engine, or which of its options?


def joint_table(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """
    Return a header and a row for each point of several sweeps, with the mark of the front that they have together.

    Output tokens/s are per GPU where every sweep knows how many there are.
    """
    points = [
        (summary, summary.sweep, point) for summary in summaries if summary.sweep for point in summary.sweep.points
    ]
    per_gpu = all(sweep.gpus for _, sweep, _ in points)
    gives = [(point.output_tokens_per_s or 0.0) / ((per_gpu and sweep.gpus) or 1) for _, sweep, point in points]
    front: set[int] = set()
    for shape in {point.shape for *_, point in points}:
        own = [at for at, (_, sweep, point) in enumerate(points) if point.shape == shape and sweep.on_front(point)]
        both = [(points[at][2].tokens_per_s_per_user.value(FRONT_SPEED) or 0.0, gives[at]) for at in own]
        front |= {own[each] for each in pareto_front(both)}
    rows = [
        [
            FRONT if at in front else "",
            summary.engine,
            point.name,
            number(gives[at], 1) if point.output_tokens_per_s is not None else UNKNOWN,
            _speed(FRONT_SPEED)(point),
            milliseconds(point.ttft_p95_s),
            limit_text(summary, point) or UNKNOWN,
            str(point.verdict.level),
        ]
        for at, (summary, _, point) in enumerate(points)
    ]
    tokens = "output tok/s/GPU" if per_gpu else "output tok/s"
    return ["", "engine", "point", tokens, "tok/s/user", "TTFT p95, ms", "limited by", "verdict"], rows


# One row a point, for spreadsheets and scripts.


def write_points(file: Path, summaries: Sequence[Summary]) -> None:
    """Write the points of sweeps as CSV, a row a point; RunFolderError where there is none, or it cannot be written."""
    rows = [
        {**_of_run(summary), **_flat(point), "limited_by": limit_text(summary, point), **_places(summary.sweep, point)}
        for summary in summaries
        if summary.sweep is not None
        for point in summary.sweep.points
    ]
    if not rows:
        raise RunFolderError("--points: no run is a sweep: its scenario has load.kind = 'sweep'")
    try:
        with file.open("w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None


def _of_run(summary: Summary) -> dict[str, Any]:
    return {"run_id": summary.run_id, "engine": summary.engine, "model": summary.model, "simulated": summary.simulated}


def _flat(point: SweepPoint) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in point.model_dump(exclude={"stages", "verdict", "missed_gates"}).items():
        if key == "tokens_per_s_per_user":
            found |= {f"{key}_{name}": value[name] for name in USER_SPEEDS}
        elif key.endswith("_interval"):
            found[f"{key}_low"], found[f"{key}_high"] = value or (None, None)
        else:
            found[key] = value
    return found


def _places(result: SweepResult, point: SweepPoint) -> dict[str, Any]:
    return {
        "gpus": result.gpus,
        "gpus_counted_from": result.gpus_counted_from,
        **{f"on_front_{name}": point.name in getattr(result.front, name) for name in USER_SPEEDS},
        "missed_gates": "; ".join(point.missed_gates),
        "verdict": str(point.verdict.level),
        "reasons": "; ".join(reason.text for reason in point.verdict.reasons),
    }
