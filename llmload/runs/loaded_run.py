"""
What a report knows of a run, from its folder alone: the summary, totals and timeline of its requests, its periods.

A run that ended without a summary gets one that is counted from its requests.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from llmload.metrics.by_name import NamedTotals
from llmload.metrics.checks import failed_requests, health, judge, lengths_missed_by
from llmload.metrics.lines import LineFaultError, columns_of
from llmload.metrics.requests import RequestTable
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Reason
from llmload.record import Slo
from llmload.runs.build_summary import RunOutcome, StageTotals, build_summary
from llmload.runs.folder import MANIFEST, SUMMARY, USERS, Manifest, RunFolder
from llmload.runs.headline import Headline, of_phases
from llmload.runs.reading import LATEST_UNIX_S, is_there, number_in, opened, read_table, size_of
from llmload.runs.requests import read_tables
from llmload.runs.summary import Summary
from llmload.runs.timeline import Periods, Stage, Timeline, bin_width_s, read_periods

TAIL_BYTES: Final = 1_000_000
USERS_COLUMNS: Final = ("unix_s", "users")
MAX_USERS: Final = 10**9
LINES_LOOKED_AT: Final = 50
"""Lines at a file's head for their mean length, at its end for the last answer."""
MIN_SPAN_S: Final = 1.0
SILENT_S: Final = 60.0
"""A run that is still sending writes to its folder more often than this."""
_ONLY_THE_RUN_KNEW: Final = ("dropped_share", "reused_prompt_share", "event_loop_lag_p99_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """The content of a run folder; times are seconds since the run's start."""

    folder: Path
    manifest: Manifest
    summary: Summary
    """`summary.json`, or the same counted from the requests: then `recomputed` says why."""
    periods: Periods
    span_s: float
    totals: RunTotals
    """Counted from the requests."""
    timeline: Timeline
    users: list[tuple[float, int]]
    """The number of users from each moment on; empty where it was not recorded."""
    files: dict[str, int]
    """The number of requests in each file."""

    @property
    def requests_elsewhere(self) -> int:
        """The number of requests, by the summary, whose lines another machine has, as far as that is known."""
        requests, written = self.summary.requests, self.summary.request_files
        here = self.totals.ended if written is None else sum(file.lines for file in written.values())
        ended = requests.completed + requests.failed + requests.censored
        return max(0, ended - (requests.lost_lines or 0) - here)


def load_run(folder: RunFolder, progress: Callable[[int], None] = lambda _: None) -> LoadedRun:
    """
    Return the content of a run folder, finished or not, in memory that does not grow with the run.

    `progress` gets the number of bytes after each block. RunFolderError for a folder that is not a run's, or a broken
    file.
    """
    manifest = folder.manifest()
    summary = folder.summary() if folder.has(SUMMARY) else None
    files, origin_s = folder.request_files(), manifest.started_unix_s
    last_s, about = _extent(files, origin_s)
    ended_s = (manifest.ended_unix_s or origin_s) - origin_s
    span_s = max(last_s, ended_s, MIN_SPAN_S)
    periods = read_periods(manifest, last_s=last_s, span_s=span_s)
    count = _Counting(periods, span_s, about, manifest.scenario.slo_limits(), with_parts=summary is None)
    counted = {file.name: sum(map(count.add, read_tables([file], origin_s, progress))) for file in files}
    if summary is None:
        why = _why_recomputed(origin_s, files)
        summary = _recomputed_summary(manifest, count, why)
    return LoadedRun(
        folder=folder.path,
        manifest=manifest,
        summary=summary,
        periods=periods,
        span_s=span_s,
        totals=count.totals,
        timeline=count.timeline,
        users=_users(folder.path / USERS, origin_s),
        files=counted,
    )


def read_summary(folder: RunFolder, progress: Callable[[int], None] = lambda _: None) -> Summary:
    """Return a run's summary, counted from the requests where it left none; RunFolderError as for `load_run`."""
    if folder.has(SUMMARY) or not folder.has(MANIFEST):
        return folder.summary()
    return load_run(folder, progress).summary


def request_bytes(folder: RunFolder) -> int:
    """Return the size of the request files: what `progress` counts up to."""
    return sum(map(size_of, folder.request_files()))


class _Counting:
    """What is counted in one pass over the requests."""

    def __init__(self, periods: Periods, span_s: float, about: float, slo: Slo, *, with_parts: bool) -> None:
        self.periods, self.slo = periods, slo
        self.totals = RunTotals()
        width_s = bin_width_s(span_s, about)
        self.timeline = Timeline(width_s, span_s)
        self.names = NamedTotals()
        self._with_parts = with_parts
        self.of_stages = {stage.name: RunTotals() for stage in periods.stages} if with_parts else {}

    def add(self, table: RequestTable) -> int:
        """Count the requests, and return their number."""
        self.timeline.add(table)
        self.totals.add_table(table, window=self.periods.window, slo=self.slo)
        if self._with_parts:
            self.names.add_table(table, window=self.periods.window, slo=self.slo)
        for stage in self.periods.stages if self.of_stages else ():
            touches = (table.start_s <= stage.end_s) & (table.done_s >= stage.start_s)
            if touches.any():
                self.of_stages[stage.name].add_table(table.where(touches), window=stage.window, slo=self.slo)
        return len(table)


def _why_recomputed(started_unix_s: float, files: Sequence[Path]) -> str:
    """Return a sentence: why there is no summary, and where the figures come from instead."""
    silent_s = time.time() - max((file.stat().st_mtime for file in files if file.exists()), default=started_unix_s)
    state = (
        "the run is still in progress, or ended unexpectedly" if silent_s < SILENT_S else "the run ended unexpectedly"
    )
    return f"{state}: it left no summary.json, so these figures are counted from the requests that it wrote"


def _recomputed_summary(manifest: Manifest, count: _Counting, why: str) -> Summary:
    """Return the summary that the run would have left, with `recomputed`; what only the run itself knew is None."""
    totals, periods = count.totals, count.periods
    stages = list(_stages(periods, count.of_stages))
    judged = _headline(manifest, totals, periods, stages)
    known = {name: value for name, value in health(judged.health).items() if name not in _ONLY_THE_RUN_KNEW}
    return build_summary(
        RunOutcome(
            run_id=manifest.run_id,
            scenario=judged.scenario,
            simulated=manifest.simulated,
            totals=totals,
            judged=judged.totals,
            window_s=judged.window_s,
            window_started_unix_s=judged.opened_unix_s,
            verdict=judge(
                known,
                [
                    Reason(check="unfinished", level=Level.INVALID, text=why),
                    *failed_requests(judged.health),
                    *lengths_missed_by(count.names),
                ],
                totals=judged.health,
                relied_on=manifest.scenario.relied_on,
                gates=manifest.scenario.gates.parsed(),
            ),
            stages=stages,
            names=count.names,
            names_window_s=periods.bounded(totals).length_s,
            edited=judged.edited,
            recomputed=why,
        )
    )


def _headline(manifest: Manifest, totals: RunTotals, periods: Periods, stages: Sequence[StageTotals]) -> Headline:
    """Return what the figures are of: the last whole phase of a load that was edited, else the window of the run."""
    if manifest.edits and stages:
        opened = [each.window_start_unix_s for each in manifest.timeline.stages]
        return of_phases(stages, opened, whole=totals, scenario=manifest.scenario, edits=len(stages) - 1)
    window = periods.bounded(totals)
    opened_s = None if window.length_s is None else window.start_s
    return Headline(
        totals=totals,
        health=totals,
        window_s=window.length_s,
        opened_unix_s=None if opened_s is None else manifest.started_unix_s + opened_s,
        scenario=manifest.scenario,
    )


def _stages(periods: Periods, totals: Mapping[str, RunTotals]) -> Iterator[StageTotals]:
    """Yield the totals of each name of a stage: stages of one name are measured together."""
    of_name: dict[str, list[Stage]] = {}
    for stage in periods.stages:
        of_name.setdefault(stage.name, []).append(stage)
    for name, stages in of_name.items():
        yield StageTotals(
            name=name,
            users=stages[0].users,
            rate_per_s=stages[0].rate_per_s,
            totals=totals[name],
            window_s=sum(stage.window.length_s or 0.0 for stage in stages) or None,
        )


def _extent(files: Sequence[Path], origin_s: float) -> tuple[float, float]:
    """Return when the last request ended, in seconds since the start, and an estimate of the number of requests."""
    last_s, about = 0.0, 0.0
    for file in files:
        with opened(file) as content:
            size = content.seek(0, os.SEEK_END)
            content.seek(0)
            head = [len(line) + 1 for line in content.read(TAIL_BYTES).split(b"\n")[:LINES_LOOKED_AT]]
            content.seek(max(0, size - TAIL_BYTES))
            tail = content.read(TAIL_BYTES).split(b"\n")[:-1]
        about += size * len(head) / sum(head)
        last_s = max([last_s, *(_done_s(line, origin_s) for line in tail[-LINES_LOOKED_AT:])])
    return last_s, about


def _done_s(line: bytes, origin_s: float) -> float:
    try:
        columns = columns_of([orjson.loads(line)], ())
    except (orjson.JSONDecodeError, LineFaultError):
        return 0.0  # reading the whole file raises the error, with the line's number
    return float(columns.array("time_s")[0] - origin_s + columns.array("e2e_s")[0])


def _users(file: Path, origin_s: float) -> list[tuple[float, int]]:
    if not is_there(file):
        return []
    header, rows = read_table(file, USERS_COLUMNS)
    at, count = map(header.index, USERS_COLUMNS)
    return [
        (
            number_in(file, number, "unix_s", row[at], least=0.0, most=LATEST_UNIX_S) - origin_s,
            int(number_in(file, number, "users", row[count], least=0, most=MAX_USERS)),
        )
        for number, row in rows
    ]
