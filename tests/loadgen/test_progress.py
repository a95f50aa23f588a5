"""Progress shows on standard error alone: redrawn on a terminal, quiet elsewhere, a line now and then by option."""

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmload.errors import ConfigError
from llmload.loadgen.terminal import Moment, Rates, drawn, format_elapsed, interval_s, log_line
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

ROOT = Path(__file__).parents[2]
ENGINE = {"ttft_s": 0.05, "prefill_s_per_token": 0.0, "itl_s": 0.01, "itl_load_factor": 0.0, "output_tokens": 10}
LOAD = "users = 2\nduration_s = 5\n[prompts]\nrepeat = true"


MOMENT = Moment(
    scenario="mine",
    stage="measuring",
    elapsed_s=30.0,
    left_s=90.0,
    left_is_guess=False,
    in_flight=8,
    completed=123,
    failed=1,
    recent=Rates(requests_per_min=1345.4, output_tokens_per_s=360.3, ttft_p95_s=0.0542),
    so_far=Rates(requests_per_min=None, output_tokens_per_s=None, ttft_p95_s=None),
    level="DEGRADED",
    checks=("error_share",),
)


def moment(**changes: Any) -> Moment:
    return replace(MOMENT, **changes)


def text_of(moment: Moment, width: int = 100) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(drawn(moment))
    return console.export_text()


def test_a_line_for_a_log_says_everything() -> None:
    assert log_line(moment()) == (
        "mine: measuring, 0:30, 1:30 left; in flight 8, completed 123, failed 1; 1,345.4 requests/min, 360.3 tok/s, "
        "TTFT p95 54.20 ms (last 10 s); DEGRADED so far: error share"
    )


def test_a_terminal_shows_the_same_in_few_lines() -> None:
    shown = text_of(moment())

    for phase in (
        "mine",
        "measuring",
        "0:30",
        "1:30 left",
        "1,345.4",
        "360.3",
        "54.20",
        "DEGRADED so far: error share",
    ):
        assert phase in shown
    assert "n/a" in shown  # nothing was judged yet
    assert len(shown.splitlines()) == 5


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_gets_no_more_lines(width: int) -> None:
    long = moment(stage="step-12, 16 users, measuring (8 users pass, 16 fail)", checks=("error_share",) * 9)

    assert len(text_of(long, width).splitlines()) <= 7


@pytest.mark.parametrize(
    ("changes", "left", "share"),
    [
        ({}, "1:30 left", 0.25),
        ({"left_is_guess": True, "left_s": 4000.0}, "about 1:06:40 left", 30 / 4030),
        ({"left_s": None}, "time left unknown", None),
        ({"left_s": 0.0}, "0:00 left", 1.0),
    ],
)
def test_the_time_left_is_shown_as_far_as_it_is_known(changes: dict[str, Any], left: str, share: float | None) -> None:
    assert moment(**changes).left == left
    assert moment(**changes).share == share


def test_there_is_no_verdict_before_an_answer() -> None:
    assert moment(level=None, checks=()).verdict == "no verdict yet"
    assert moment(level="VALID", checks=()).verdict == "VALID so far"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.2, "1:00"), (3599, "59:59"), (3601, "1:00:01")])
def test_times_are_read_as_a_clock(seconds: float, text: str) -> None:
    assert format_elapsed(seconds) == text


@pytest.mark.parametrize(("text", "seconds"), [("auto", None), ("off", None), ("5", 5.0), ("0.5", 0.5)])
def test_progress_is_set_by_a_word_or_a_number(text: str, seconds: float | None) -> None:
    assert interval_s(text) == seconds


@pytest.mark.parametrize("text", ["often", "0", "-1", "inf", "nan", ""])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is neither auto nor off nor a number of seconds above 0"):
        interval_s(text)


def test_a_terminal_is_redrawn_and_the_json_beside_it_stays_clean(
    engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    file = write_scenario(engine(**ENGINE).url, LOAD)
    ours, theirs = pty.openpty()
    command = ["-m", "locust", "--config", str(file), "--headless", "--summary", "json", "--metrics-port", "off"]
    with (tmp_path / "summary.json").open("w+b") as out:
        process = subprocess.Popen(
            [sys.executable, *command, "--out", str(tmp_path / "runs")],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown: list[bytes] = []
        end = time.monotonic() + 60
        ended = False
        while not ended and time.monotonic() < end:
            ended = process.poll() is not None  # first, so that what came before is read
            with suppress(OSError):  # what reading raises when the process has closed its end
                while select.select([ours], [], [], 0.1)[0]:
                    shown.append(os.read(ours, 65536))
        os.close(ours)
        summary = json.loads((tmp_path / "summary.json").read_bytes())
    screen = b"".join(shown).decode()

    assert process.returncode == 0, screen
    assert summary["requests"]["completed"] > 0
    assert len(re.findall(r"last 10 s", screen)) >= 3
    assert "\x1b[1A" in screen  # the cursor goes up again
    assert "All users spawned" in screen  # Locust's own words stay


def test_without_a_terminal_there_are_lines_only_by_option(
    engine: StartEngine, locust: Locust, write_scenario: WriteScenario
) -> None:
    file = str(write_scenario(engine(**ENGINE).url, LOAD))

    quiet = locust.run("--config", file, "--processes", "2", "--run-time", "3s")
    asked = locust.run("--config", file, "--processes", "2", "--progress", "1")

    assert "in flight" not in quiet.err
    lines = [line for line in asked.err.splitlines() if line.startswith("test: ")]
    assert len(lines) >= 2
    assert all(re.search(r"in flight \d+, completed \d+, failed 0; .* requests/min, .* tok/s", line) for line in lines)
    assert "in flight" not in asked.out
