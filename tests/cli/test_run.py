"""`llmload run`: options that cannot be used."""

from click.testing import CliRunner

from llmload.cli.main import main
from llmload.errors import ExitCode


def test_an_address_from_a_variable_that_is_not_set_is_refused() -> None:
    ended = CliRunner().invoke(main, ["run", "demo", "--base-url", ""])

    assert ended.exit_code == ExitCode.WRONG_USE
    assert "--base-url: is empty" in ended.output
