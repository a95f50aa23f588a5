"""`llmload run`: its options, and those that cannot be used."""

import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.errors import ExitCode
from llmload.scenario.options import GROUPS, OPTIONS


def test_an_address_from_a_variable_that_is_not_set_is_refused() -> None:
    ended = CliRunner().invoke(main, ["run", "demo", "--base-url", ""])

    assert ended.exit_code == ExitCode.WRONG_USE
    assert "--host: is empty" in ended.output


def test_a_json_summary_and_another_exclude_each_other() -> None:
    ended = CliRunner().invoke(main, ["run", "demo", "--json", "--summary", "none"])

    assert ended.exit_code == ExitCode.WRONG_USE
    assert "--json and --summary none exclude each other" in ended.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("rnu demo", "No such command 'rnu'. Did you mean 'run'?"),
        ("engine simulat", "No such command 'simulat'. Did you mean 'simulate'?"),
        ("run demo --max-token 4", "--max-tokens"),
        (
            "run lima-sped",
            "no shipped scenario of that name; did you mean lima-speed?",
        ),
        ("run reference/vllm-vicuna-7b-v1.3-sped", "did you mean reference/vllm-vicuna-7b-v1.3-speed"),
        ("suite reference-suit", "did you mean reference-suite?"),
    ],
)
def test_what_is_mistyped_is_answered_with_the_nearest(words: str, says: str) -> None:
    ended = CliRunner().invoke(main, words.split())

    assert ended.exit_code == ExitCode.WRONG_USE
    assert says in ended.output


def test_help_shows_every_option_in_its_group() -> None:
    text = CliRunner().invoke(main, ["run", "--help"]).output

    titles = [
        line.removesuffix(":") for line in text.splitlines() if line.removesuffix(":") in (*GROUPS, "Only llmload run")
    ]
    assert titles == [*GROUPS, "Only llmload run"]
    assert not [option.name for option in OPTIONS if not option.only_locust and f" {option.name}" not in text]
