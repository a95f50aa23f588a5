"""The trial of ends: a part of its rows is run, and its account finds everything that is not as expected."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import ROOT
from benchmarks.tools.controlled_engine import ControlledEngine
from benchmarks.trials.ends.row import ALL, GOOD, INVALID, REFUSED, Case, Expected, Mode, Row, cases_of
from benchmarks.trials.ends.rows import ROWS
from benchmarks.trials.ends.running import MARK, NO_CODE, Running
from benchmarks.trials.ends.table import as_json, as_markdown
from benchmarks.trials.ends.trial import Came, Result, judge
from benchmarks.trials.runs.accounts import Accounts

CASES = list(cases_of(ROWS))
IN_CI = [case for case in CASES if case.mode in case.row.ci]


def ends(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the trial in a separate process: Locust, if a test has imported it here, has patched this one's threads."""
    command = [sys.executable, "-m", "benchmarks.trials.ends", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_rows_of_every_kind_end_as_expected(tmp_path: Path) -> None:
    page, figures = tmp_path / "ends.md", tmp_path / "ends.json"

    ended = ends("--ci", "--jobs", "3", "--markdown", str(page), "--json", str(figures))

    rows = json.loads(figures.read_text())
    assert [row["faults"] for row in rows if row["faults"]] == [], ended.stdout
    assert ended.returncode == 0, ended.stderr
    assert sorted(f"{row['end']} | {row['mode']}" for row in rows) == sorted(case.name for case in IN_CI)
    assert {row["mode"] for row in rows} == set(ALL)
    assert f"{len(rows)} of {len(rows)} as expected" in ended.stdout
    assert "| no engine | one process | - |" in page.read_text()


def test_the_command_lists_its_cases() -> None:
    assert ends("--list", "SIGTERM in the window*").stdout.splitlines() == [
        f"SIGTERM in the window | {mode}" for mode in ALL
    ]


def test_the_table_is_whole() -> None:
    names = [case.name for case in CASES]

    assert len(names) == len(set(names)) >= 60
    assert {case.mode for case in CASES} == set(ALL)
    for row in ROWS:
        assert row.expected.codes, row.name
        assert 0 not in row.expected.codes or row.expected.levels - INVALID, f"{row.name}: INVALID never goes with 0"


def summary(level: str = "VALID", /, **counts: int) -> dict[str, Any]:
    counted = {"started": 2, "completed": 2, "failed": 0, "censored": 0}
    reasons = [] if level == "VALID" else [{"check": "ended_early", "figure": None, "text": "cut"}]
    return {"requests": counted | counts, "verdict": {"level": level, "reasons": reasons}}


def accounts(lost: int = 0, **counts: int) -> Accounts:
    lines = [{"request_id": name, "outcome": "completed", "sent_ns": 1, "error": None} for name in "ab"]
    log = [{"request_id": name} for name in "ab"]
    return Accounts.of(summary(**counts)["requests"], lines, log, said_lost=lost)


CAME = Came(
    code=0,
    summary=summary(),
    written=summary(),
    reported=None,
    has_manifest=True,
    accounts=accounts(),
    said="",
    left_behind=(),
    seconds=1.0,
    fault="",
)
CASE = Case(row=Row(name="r", expected=GOOD, load=""), mode=Mode.ONE)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"code": 3}, "exit code 3, expected 0"),
        ({"code": NO_CODE}, "hangs"),
        ({"fault": "no window"}, "no window"),
        ({"left_behind": ("12 locust",)}, "left behind: 12 locust"),
        ({"said": "Traceback (most recent call last):\n  File x\nValueError: y\n"}, "a traceback: ValueError: y"),
        ({"summary": None}, "no summary"),
        ({"summary": summary("INVALID"), "written": summary("INVALID")}, "INVALID (ended_early), expected"),
        ({"written": None}, "no summary.json"),
        ({"written": summary("DEGRADED")}, "another verdict"),
        ({"accounts": accounts(started=3)}, "3 started, 2 ended"),
        ({"accounts": accounts(completed=1, failed=1)}, "exit code 0 although 1 requests were failed"),
        ({"accounts": accounts(completed=1, censored=1)}, "exit code 0 although 1 requests were cut"),
        ({"accounts": accounts(lost=1, started=3, completed=3)}, "exit code 0 although 1 requests were lost"),
        ({"has_manifest": False}, "exit code 0 although there is no manifest.json"),
    ],
)
def test_each_thing_that_is_not_as_expected_is_named(change: dict[str, Any], says: str) -> None:
    assert list(judge(CASE, CAME)) == []
    assert any(says in fault for fault in judge(CASE, replace(CAME, **change))), says


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "a summary (VALID, -) although nothing was to begin"),
        ({"summary": None}, "2 requests reached the engine"),
        ({"summary": None, "accounts": Accounts.of(summary()["requests"], [], [])}, "without a word"),
    ],
)
def test_a_run_that_was_to_be_refused_must_not_begin(change: dict[str, Any], says: str) -> None:
    refused = Case(row=replace(CASE.row, expected=REFUSED), mode=Mode.ONE)

    assert any(says in fault for fault in judge(refused, replace(CAME, code=2, **change)))


def test_what_is_expected_of_texts_and_reasons_is_looked_for() -> None:
    expected = Expected(codes=frozenset({130}), levels=INVALID, reasons=frozenset({"lost_records"}), says="of 5000")
    cut = replace(CAME, code=130, summary=summary("INVALID"), written=summary("INVALID"))

    assert list(judge(Case(row=replace(CASE.row, expected=expected), mode=Mode.ONE), cut)) == [
        "did not say 'of 5000'",
        "first reason ended_early, expected lost_records",
    ]


def test_a_report_that_says_otherwise_and_an_edit_that_is_not_shown_are_named() -> None:
    expected = replace(GOOD, report_agrees=True, edited=True)

    assert list(judge(Case(row=replace(CASE.row, expected=expected), mode=Mode.ONE), CAME)) == [
        "llmload report says -, the run said VALID",
        "the summary does not say how the load was edited, or has no phases",
    ]


def test_a_process_that_is_left_behind_is_found_without_its_parent(tmp_path: Path) -> None:
    running = Running(CASE, tmp_path, cast("ControlledEngine", None))
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, MARK: running.mark}, check=True)
    assert len(running.alive()) == 1

    running.kill()

    until_s = time.monotonic() + 10
    while running.alive():
        assert time.monotonic() < until_s, "it is still there"
        time.sleep(0.01)


def test_a_case_that_is_not_as_expected_is_marked_and_explained() -> None:
    failed = Result(case=CASE, came=CAME, faults=("exit code 3, expected 0",))

    assert "- r | one process: exit code 3, expected 0" in as_markdown([failed], [])
    assert '"passed": false' in as_json([failed])
