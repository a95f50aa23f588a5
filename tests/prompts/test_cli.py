"""`llmload prompts` prints what a run would send, and what a data set contains."""

import hashlib
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llmload.cli.prompts import prompts
from llmload.prompts.sources import locate
from tests.prompts.conftest import WriteRows


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(prompts, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_show_prints_the_messages_of_the_drawn_prompts(ten_rows: Path) -> None:
    output = invoke("show", str(ten_rows), "--count", "2", "--n-shot", "1", "--chain-of-thought", "--seed", "1").output

    assert "2 of 10 rows drawn with seed 1, 2 requests" in output
    assert len(re.findall(r"^=== prompt \d+ ===$", output, re.MULTILINE)) == 2
    assert len(re.findall(r"^\[assistant\] row \d turn 1$", output, re.MULTILINE)) == 2
    assert output.count("\n\nLet's think step by step.\n") == 2


def test_show_takes_another_instruction(ten_rows: Path) -> None:
    assert "\n\nShow your work.\n" in invoke("show", str(ten_rows), "--instruction", "Show your work.").output


def test_stats_prints_identity_turns_and_lengths(ten_rows: Path) -> None:
    lines = invoke("stats", str(ten_rows)).output.splitlines()

    assert f"sha256    {hashlib.sha256(ten_rows.read_bytes()).hexdigest()}" in lines
    assert "rows      10, 10 of them usable" in lines
    assert "requests  10 with turns = first, 10 with turns = all" in lines
    assert "first question       10      12      12      12      12      12" in lines


@pytest.mark.parametrize("command", ["show", "stats"])
def test_the_examples_in_the_help_work(command: str) -> None:
    if not locate("builtin", None, Path()).files[0].is_file():
        pytest.skip("the set that comes with the package is not there yet")
    examples = re.findall(rf"llmload prompts ({command} builtin.*)", invoke(command, "--help").output)

    assert examples
    for example in examples:
        assert invoke(*example.split()).output


def test_rows_that_are_left_out_or_changed_are_said(write_rows: WriteRows) -> None:
    talk = '{"conversations": ["q", "a"]}'
    file = write_rows("x.jsonl", [talk, '{"conversations": ["half \\ud800"]}', '{"conversations": null}', talk])
    changed = "half of a surrogate pair became U+FFFD"

    shown, counted = invoke("show", str(file)).output, invoke("stats", str(file)).output

    assert "prompts x: 1 of 4 rows are left out: has null instead of turns (1)\n" in shown
    assert f"prompts x: {changed} (1 of 4 rows)\n" in shown
    assert "skipped   1: has null instead of turns\n" in counted
    assert f"changed   1: {changed}\n" in counted
