"""One case of the table: it is run, and what came of it is compared with what is expected."""

import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.tools.controlled_engine import ControlledEngine
from benchmarks.trials.ends.row import Case, Mode
from benchmarks.trials.ends.running import NO_CODE, Running, TrialError
from benchmarks.trials.runs.accounts import Accounts
from llmload.runs.folder import MANIFEST

NO_REQUESTS: Final = dict.fromkeys(("started", "completed", "failed", "censored"), 0)
REFUSED_CODE: Final = 2
"""Wrong use: the run never began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """What came of a run."""

    code: int
    summary: Mapping[str, Any] | None
    written: Mapping[str, Any] | None
    """`summary.json`."""
    reported: Mapping[str, Any] | None
    """What `llmload report` says, where it was asked."""
    has_manifest: bool
    accounts: Accounts
    said: str
    left_behind: tuple[str, ...]
    seconds: float
    fault: str = ""
    """Why the run did not come to where its row wanted it."""

    @property
    def level(self) -> str:
        """The verdict's level; `-` without a summary."""
        return _level(self.summary)

    @property
    def reasons(self) -> tuple[Mapping[str, Any], ...]:
        """The verdict's reasons."""
        return () if self.summary is None else tuple(self.summary["verdict"]["reasons"])

    @property
    def first_reason(self) -> str:
        """The first reason's check; `-` without one."""
        return str(self.reasons[0]["check"]) if self.reasons else "-"


def _level(summary: Mapping[str, Any] | None) -> str:
    return "-" if summary is None else str(summary["verdict"]["level"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A case, what came of it, and where that is not as expected."""

    case: Case
    came: Came
    faults: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all came as expected."""
        return not self.faults


def impossible(case: Case) -> str | None:
    """Return why this machine cannot run a case; None if it can."""
    row = case.row
    needs_root = row.disk_kib is not None or any(step.needs_root for step in row.steps)
    return "file systems are mounted by root alone" if needs_root and os.geteuid() != 0 else None


def run_case(case: Case, folder: Path) -> Result:
    """Run a case in an empty folder, and judge it."""
    with ExitStack() as stack:
        engine = stack.enter_context(ControlledEngine(case.row.engine))
        if case.row.no_engine:
            engine.vanish()
        running = Running(case, folder, engine)
        stack.callback(running.kill)
        running.disk.mkdir()
        if case.row.disk_kib is not None:
            running.mount(case.row.disk_kib)
        came = _come(running)
    return Result(case=case, came=came, faults=tuple(judge(case, came)))


def _come(running: Running) -> Came:
    """Run a case to its end, and return what came of it."""
    row, fault = running.row, ""
    try:
        for step in row.steps_before:
            step.act(running)
        running.start()
        for step in row.steps:
            step.act(running)
    except (TrialError, OSError, subprocess.CalledProcessError) as error:
        fault = f"{type(error).__name__}: {error}"
    running.acted_s = time.monotonic()
    code = running.finish()
    seconds = time.monotonic() - running.began_s
    left = running.left_behind()
    running.engine.settle()
    written, reported, lines = running.written_summary(), None, list[dict[str, Any]]()
    try:
        if row.expected.reported or row.expected.report_agrees:
            reported = running.reported_summary()
        lines = running.lines()
    except TrialError as error:
        fault = fault or str(error)
    summary = reported if row.expected.reported else running.printed_summary() or written
    requests = NO_REQUESTS if summary is None else summary["requests"]
    return Came(
        code=code,
        summary=summary,
        written=written,
        reported=reported,
        has_manifest=any(running.runs.glob(f"*/{MANIFEST}")),
        accounts=Accounts.of(
            requests,
            lines,
            [{"request_id": name} for name in running.engine.arrived],
            said_lost=requests.get("lost_lines") or 0,
            killed=row.expected.killed,
        ),
        said=running.said(),
        left_behind=left,
        seconds=seconds,
        fault=fault,
    )


def judge(case: Case, came: Came) -> Iterator[str]:
    """Yield a sentence for everything that is not as expected."""
    expected = case.row.expected
    if came.fault:
        yield came.fault
    if came.code == NO_CODE:
        yield f"hangs: no end within {case.row.ends_within_s:g} s"
    elif came.code not in expected.codes:
        yield f"exit code {came.code}, expected {_either(expected.codes)}"
    if came.left_behind and not (case.row.workers_wait and case.mode is Mode.WORKERS):
        yield f"left behind: {', '.join(came.left_behind)}"
    if "Traceback (most recent call last)" in came.said:
        yield f"a traceback: {_last_of_traceback(came.said)}"
    if expected.says and not re.search(expected.says, came.said):
        yield f"did not say {expected.says!r}"
    if expected.levels and came.code != REFUSED_CODE:
        yield from _verdict_faults(case, came)
    else:
        yield from _faults_of_no_run(came)


def _verdict_faults(case: Case, came: Came) -> Iterator[str]:
    expected = case.row.expected
    if came.summary is None:
        yield "no summary"
        return
    if came.level not in expected.levels:
        yield f"{came.level} ({came.first_reason}), expected {_either(expected.levels)}"
    if expected.reasons and came.first_reason not in expected.reasons:
        yield f"first reason {came.first_reason}, expected {_either(expected.reasons)}"
    yield from came.accounts.differences[:5]
    if came.code == 0:
        yield from _wrongly_good(came)
    if not expected.reported and not expected.folder_lost and came.written is None:
        yield "no summary.json"
    if came.written is not None and came.written["verdict"] != came.summary["verdict"]:
        yield "summary.json has another verdict than what was printed"
    if expected.report_agrees and (said := _level(came.reported)) != came.level:
        yield f"llmload report says {said}, the run said {came.level}"
    if expected.edited and (not came.summary.get("edited") or len(came.summary["stages"]) < 2):
        yield "the summary does not say how the load was edited, or has no phases"


def _wrongly_good(came: Came) -> Iterator[str]:
    """Yield what must not go with exit code 0: anything that was lost, cut, failed or not measured."""
    accounts = came.accounts
    counts = {"failed": accounts.failed, "cut": accounts.censored, "lost": accounts.said_lost}
    for what, count in counts.items():
        if count:
            yield f"exit code 0 although {count} requests were {what}"
    if came.level == "INVALID":
        yield "exit code 0 although the verdict is INVALID"
    if not came.has_manifest:
        yield "exit code 0 although there is no manifest.json"


def _faults_of_no_run(came: Came) -> Iterator[str]:
    """Yield what shows that a run was begun that should not have been."""
    if came.summary is not None:
        yield f"a summary ({came.level}, {came.first_reason}) although nothing was to begin"
    if came.accounts.logged or came.accounts.lines:
        yield f"{came.accounts.logged} requests reached the engine, {came.accounts.lines} lines, although none was to"
    if came.code > 0 and not came.said.strip():
        yield "ended without a word"


def _either(values: frozenset[Any]) -> str:
    return " or ".join(map(str, sorted(values)))


def _last_of_traceback(said: str) -> str:
    after = said.rpartition("Traceback (most recent call last)")[2]
    ends = [line for line in after.splitlines()[1:] if line and not line.startswith((" ", "\t"))]
    return ends[0][:120] if ends else ""
