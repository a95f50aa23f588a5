"""All that a report says of a run, from its folder alone: figures, what they were counted from, and what was when."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson

from llmload.errors import RunFolderError
from llmload.metrics.requests import RequestTable
from llmload.metrics.totals import RunTotals
from llmload.record import Slo
from llmload.runs.aggregate import Periods, read_periods, recomputed_summary, why_recomputed
from llmload.runs.folder import MANIFEST, SUMMARY, USERS, RunFolder
from llmload.runs.manifest import Manifest
from llmload.runs.requests import read_tables
from llmload.runs.summary import Summary
from llmload.runs.timeline import Timeline, bin_width_s

# What engine and GPUs said of themselves while a run went on, read from its folder.

_BESIDES: Final = {"unix_s", "url", "part"}


@dataclass(slots=True)
class Part:
    """One engine's or GPU's samples: `values` has a list a series, as long as `t_s`, None where it served none."""

    name: str
    t_s: list[float] = field(default_factory=list)
    values: dict[str, list[float | None]] = field(default_factory=dict)

    def has(self, series: str) -> bool:
        """Return whether the series was served at all."""
        return any(value is not None for value in self.values.get(series, ()))

    def rate(self, series: str) -> list[float | None]:
        """Return by how much a counter grew a second up to each sample; None at the first and where it was reset."""
        values = self.values[series]
        found: list[float | None] = [None]
        for index in range(1, len(values)):
            new, old, span_s = values[index], values[index - 1], self.t_s[index] - self.t_s[index - 1]
            grown = None if new is None or old is None or span_s <= 0 or new < old else (new - old) / span_s
            found.append(grown)
        return found


def read_monitored(folder: Path, file: str, origin_unix_s: float) -> list[Part]:
    """
    Return the parts in the file, each with its samples over the seconds since the run's start; none without a file.

    RunFolderError for a file that is broken in its middle; a last line that a crash cut short is left out.
    """
    path = folder / file
    if not path.is_file():
        return []
    parts: dict[tuple[str, str], Part] = {}
    for row in _rows(path):
        part = parts.setdefault((row["url"], row["part"]), Part(_name(row["url"], row["part"])))
        try:
            moment_s = float(row["unix_s"]) - origin_unix_s
            values = {name: float(text) if text else None for name, text in row.items() if name not in _BESIDES}
        except (ValueError, TypeError):
            raise RunFolderError(f"{path}: a sample is no number: {row}") from None
        part.t_s.append(moment_s)
        for name, value in values.items():
            part.values.setdefault(name, []).append(value)
    return list(parts.values())


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(line for line in lines if line.endswith("\n"))
        if rows.fieldnames is None:
            return
        if not set(rows.fieldnames) >= _BESIDES:
            raise RunFolderError(f"{path}: has no columns {', '.join(sorted(_BESIDES))}")
        yield from rows


def _name(url: str, part: str) -> str:
    return f"GPU {part}" if part else urlsplit(url).netloc.rpartition("@")[2] or url


TAIL_BYTES: Final = 1_000_000
LINES_LOOKED_AT: Final = 50
"""At a file's head for the length of a line, at its end for the last answer."""
MIN_SPAN_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """A run, read; times are seconds since its start."""

    folder: Path
    manifest: Manifest
    summary: Summary
    """`summary.json`, or the same counted anew where the run left none: then `recomputed` says why."""
    periods: Periods
    span_s: float
    totals: RunTotals
    """Counted anew from the requests."""
    timeline: Timeline
    users: list[tuple[float, int]]
    """How many users ran from a moment on; empty where that was not written down."""
    files: dict[str, int]
    """Requests that each file of the folder holds."""

    @property
    def missing_requests(self) -> int:
        """How many requests ended, by the summary, whose lines are not in the folder: on another machine."""
        requests = self.summary.requests
        return max(0, requests.completed + requests.failed + requests.censored - self.totals.ended)


def load_run(folder: RunFolder, progress: Callable[[int], None] = lambda _: None) -> LoadedRun:
    """
    Return what a run folder holds, finished or not; the memory that it takes does not grow with the run.

    `progress` is told of bytes that were read. RunFolderError for a folder that is no run's, or a file that is broken.
    """
    manifest = folder.manifest()
    summary = folder.summary() if (folder.path / SUMMARY).is_file() else None
    files, origin_s = folder.request_files(), manifest.started_unix_s
    last_s, about = _extent(files, origin_s)
    ended_s = (manifest.ended_unix_s or origin_s) - origin_s
    span_s = max(last_s, ended_s, MIN_SPAN_S)
    periods = read_periods(manifest, last_s=last_s, span_s=span_s)
    count = _Count(periods, span_s, about, manifest.scenario.slo_limits(), with_stages=summary is None)
    held = {file.name: sum(map(count.add, read_tables([file], origin_s, progress))) for file in files}
    if summary is None:
        why = why_recomputed(origin_s, files)
        summary = recomputed_summary(manifest, count.totals, periods, count.of_stages, why)
    return LoadedRun(
        folder=folder.path,
        manifest=manifest,
        summary=summary,
        periods=periods,
        span_s=span_s,
        totals=count.totals,
        timeline=count.timeline,
        users=_users(folder.path / USERS, origin_s),
        files=held,
    )


def read_summary(folder: RunFolder, progress: Callable[[int], None] = lambda _: None) -> Summary:
    """Return a run's summary, counted anew where it left none; RunFolderError as for `load_run`."""
    if (folder.path / SUMMARY).is_file() or not (folder.path / MANIFEST).is_file():
        return folder.summary()
    return load_run(folder, progress).summary


def request_bytes(folder: RunFolder) -> int:
    """Return how many bytes of requests a report of the folder reads."""
    return sum(file.stat().st_size for file in folder.request_files())


class _Count:
    """What is summed up while the requests go by."""

    def __init__(self, periods: Periods, span_s: float, about: float, slo: Slo, *, with_stages: bool) -> None:
        self.periods, self.slo = periods, slo
        self.totals = RunTotals()
        width_s = bin_width_s(span_s, about)
        self.timeline = Timeline(width_s, span_s)
        self.of_stages = {stage.name: RunTotals() for stage in periods.stages} if with_stages else {}

    def add(self, table: RequestTable) -> int:
        """Count the requests, and return their number."""
        self.timeline.add(table)
        self.totals.add_table(table, window=self.periods.window, slo=self.slo)
        for stage in self.periods.stages if self.of_stages else ():
            touches = (table.start_s <= stage.end_s) & (table.done_s >= stage.start_s)
            if touches.any():
                self.of_stages[stage.name].add_table(table.where(touches), window=stage.window, slo=self.slo)
        return len(table)


def _extent(files: Sequence[Path], origin_s: float) -> tuple[float, float]:
    """Return when the last request ended, in seconds since the start, and about how many requests there are."""
    last_s, about = 0.0, 0.0
    for file in files:
        with file.open("rb") as lines:
            head = [len(line) for line in islice(lines, LINES_LOOKED_AT)]
            size = file.stat().st_size
            lines.seek(max(0, size - TAIL_BYTES))
            tail = lines.read().split(b"\n")[:-1]
        about += size * len(head) / sum(head) if head else 0.0
        last_s = max([last_s, *(_done_s(line, origin_s) for line in tail[-LINES_LOOKED_AT:])])
    return last_s, about


def _done_s(line: bytes, origin_s: float) -> float:
    try:
        request = orjson.loads(line)
        return float(request["time_s"]) - origin_s + float(request["e2e_s"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 0.0  # whoever reads the whole file says what is wrong with it


def _users(file: Path, origin_s: float) -> list[tuple[float, int]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [(float(row["unix_s"]) - origin_s, int(row["users"])) for row in csv.DictReader(lines)]
