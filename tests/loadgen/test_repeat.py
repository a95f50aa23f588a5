"""`llmload run --repeat N`: fresh runs of the same prompts, their spread, and an end at any time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from tests.loadgen.conftest import StartEngine, WriteScenario
from tests.run_files import summary_of, write_json

FIXED = {"ttft_s": 0.02, "prefill_s_per_token": 0.0, "itl_s": 0.005, "itl_load_factor": 0.0, "output_tokens": 4}
OFF = ("--metrics-port", "off")


def start(scenario: Path, out: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "llmload.cli.main", "run", str(scenario), "--out", str(out), *OFF, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def prompts_of(run: Path) -> list[str]:
    lines = [json.loads(line) for line in (run / "requests.jsonl").read_text().splitlines()]
    return [line["prompt_id"] for line in sorted(lines, key=lambda line: line["time_s"])]


def test_runs_send_the_same_prompts_and_end_with_their_spread_and_the_worst_exit_code(
    engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    url = engine(**FIXED, faults={"http_500": 0.4}).url
    scenario = write_scenario(url, "users = 1\nrequests = 8", "[prompts]\ncount = 20")

    process = start(
        scenario,
        tmp_path / "out",
        "--repeat",
        "2",
        "--json",
        "--junit",
        str(tmp_path / "x.xml"),
        "--markdown",
        str(tmp_path / "x.md"),
    )
    out, err = process.communicate(timeout=120)

    (group,) = (tmp_path / "out").iterdir()
    folders = [group / name for name in json.loads((group / "repeat.json").read_text())["runs"]]
    shown = json.loads(out)
    assert process.returncode == 1, err
    assert "run 2 of 2" in err
    assert len(folders) == 2
    assert prompts_of(folders[0]) == prompts_of(folders[1])
    assert [run["run_id"] for run in shown["runs"]] == [folder.name for folder in folders]
    values = [run["e2e_s"]["mean"] for run in shown["runs"]]
    assert shown["spread"]["e2e_s mean"]["values"] == values
    assert shown["spread"]["e2e_s mean"]["min"] == min(values)
    assert (tmp_path / "x.xml").read_text().count("<testsuite ") == 2
    assert (tmp_path / "x.md").read_text().startswith("## 2 runs of the same prompts\n")


def test_ctrl_c_ends_the_current_run_and_shows_the_runs_so_far(
    engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    scenario = write_scenario(engine(**FIXED).url, "users = 2\nduration_s = 600", "[prompts]\nrepeat = true")

    process = start(scenario, tmp_path / "out", "--repeat", "3")
    until_requests_run(tmp_path / "out")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all its processes hear of it
    out, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    assert "1 of 3 runs, then stopped" in out
    assert "TTFT mean, ms" in out
    assert "n/a" in out, "one run says nothing of the next"
    assert "run 2 of 3" not in err


def test_a_signal_after_which_no_further_run_begins_is_not_a_good_end(
    engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path
) -> None:
    scenario = write_scenario(engine(**FIXED).url, "users = 1\nrequests = 30", "[prompts]\nrepeat = true")

    process = start(scenario, tmp_path / "out", "--repeat", "3")
    until_requests_run(tmp_path / "out")
    process.send_signal(signal.SIGINT)  # to the parent alone: the current run ends by itself
    out, err = process.communicate(timeout=120)

    assert process.returncode == 130, err
    assert "1 of 3 runs, then stopped" in out
    assert "run 2 of 3" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_to_the_parent_is_passed_on_to_the_current_run(
    engine: StartEngine, write_scenario: WriteScenario, tmp_path: Path, number: signal.Signals
) -> None:
    scenario = write_scenario(engine(**FIXED).url, "users = 2\nduration_s = 600", "[prompts]\nrepeat = true")

    process = start(scenario, tmp_path / "out", "--repeat", "3")
    until_requests_run(tmp_path / "out")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert f"{number.name} ended the run after" in out
    assert "1 of 3 runs, then stopped" in out


def test_wrong_use_is_said_once(write_scenario: WriteScenario, tmp_path: Path) -> None:
    scenario = write_scenario("http://127.0.0.1:9", "users = 2\nrequests = 4")

    process = start(scenario, tmp_path / "out", "--repeat", "3")
    _, err = process.communicate(timeout=60)

    assert process.returncode == 2
    assert err.count("does not answer") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--web",), "--repeat and --web exclude each other"),
        (("--junit", "nowhere/x.xml"), "--junit nowhere/x.xml: no folder nowhere"),
        (("--set", "scenario.name=1"), "scenario.name: input should be a valid string, got 1"),
    ],
)
def test_what_does_not_go_together_is_said_before_the_first_run(arguments: tuple[str, ...], complaint: str) -> None:
    result = CliRunner().invoke(main, ["run", "demo", "--repeat", "2", *arguments])

    assert result.exit_code == 2
    assert complaint in result.stderr


def until_requests_run(out: Path, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if any(file.stat().st_size for file in out.glob("*/*/requests.jsonl")):
            return
        time.sleep(0.1)
    pytest.fail(f"no request was answered in {timeout_s} s")


def test_files_of_repeated_runs_that_cannot_be_written_are_named_and_the_runs_are_shown(
    engine: StartEngine,
    write_scenario: WriteScenario,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scenario = write_scenario(engine(**FIXED).url, "users = 1\nrequests = 8", "[prompts]\ncount = 20")
    page = tmp_path / "x.md"

    def run_and_fill(_: object, arguments: list[str]) -> int:
        group = Path(arguments[arguments.index("--out") + 1])
        (group / "r1").mkdir(parents=True)
        write_json(group / "r1" / "summary.json", summary_of(run_id="r1"))
        for in_the_way in (group / "repeat.tmp", page):
            in_the_way.mkdir()
        return 0

    monkeypatch.setattr("llmload.cli.run._Runs.run", run_and_fill)
    ended = CliRunner().invoke(
        main, ["run", str(scenario), "--out", str(tmp_path / "out"), "--repeat", "1", "--markdown", str(page)]
    )

    assert ended.exit_code == 1, ended.output
    assert "runs in: " in ended.stdout
    assert [message.partition(";")[0] for message in caplog.messages] == [
        f"{next((tmp_path / 'out').iterdir()) / 'repeat.json'} cannot be written: Is a directory",
        f"{page} cannot be written: Is a directory",
    ]
