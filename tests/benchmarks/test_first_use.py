"""The trial of first use types what the pages say, and judges exit codes and the first VALID figure."""

from pathlib import Path

import pytest

from benchmarks.trials.first_use import ENGINE, Typed, commands, judge, type_in
from tests.run_files import summary_of


def typed(command: str, wall_s: float, exit_code: int = 0, *, valid: bool = False) -> Typed:
    return Typed(command=command, exit_code=exit_code, wall_s=wall_s, is_valid_figure=valid)


def test_the_pages_begin_with_a_run_of_the_users_own_engine() -> None:
    first, *others = commands()

    assert first.startswith("llmload run chat --base-url http://127.0.0.1:8000 ")
    assert "llmload demo" in others
    assert not [command for command in others if command == ENGINE or command.startswith(("make", "pip"))]


@pytest.mark.parametrize(
    ("command", "level", "exit_code", "seen"),
    [
        ("llmload run chat", "VALID", 0, True),
        ("llmload run chat", "INVALID", 3, False),
        ("llmload demo", "VALID", 0, False),
    ],
)
def test_a_command_is_typed_in_the_folder_and_a_valid_run_that_it_leaves_is_seen(
    command: str, level: str, exit_code: int, seen: bool, tmp_path: Path
) -> None:
    (tmp_path / "summary.json").write_text(summary_of(verdict={"level": level, "reasons": []}).model_dump_json())
    program = tmp_path / "llmload"
    program.write_text(f"#!/bin/sh\nmkdir -p runs/new && cp {tmp_path}/summary.json runs/new/ && exit {exit_code}\n")
    program.chmod(0o755)
    (tmp_path / "empty").mkdir()

    done = type_in(tmp_path / "empty", tmp_path, command)

    assert (done.command, done.exit_code, done.is_valid_figure) == (command, exit_code, seen)


@pytest.mark.parametrize(
    ("all_typed", "passed"),
    [
        ([typed("demo", 50), typed("run chat", 65, valid=True), typed("run x", 900, valid=True)], [True] * 4),
        ([typed("demo", 60), typed("run chat", 65, valid=True)], [False, True, True]),
        ([typed("run chat", 65)], [False, True]),
        ([typed("run chat", 6, 2, valid=True)], [True, False]),
    ],
    ids=["in time", "too late", "no valid figure", "a command failed"],
)
def test_the_first_valid_figure_has_to_be_in_time_and_every_command_to_end_well(
    all_typed: list[Typed], passed: list[bool]
) -> None:
    assert [each.passed for each in judge(all_typed)] == passed
