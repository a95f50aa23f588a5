"""Numbers of real engines that were written down before the sizing was run on them."""

from pathlib import Path

from click.testing import CliRunner

from benchmarks.trials.unseen_sizes import document, judged, main, summary

PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"


def test_every_unseen_number_is_judged() -> None:
    numbers = judged()

    assert summary(numbers) in CliRunner().invoke(main).output
    assert f"{len(numbers)} numbers: " in PAGE.read_text(encoding="utf-8")


def test_each_unseen_run_has_a_source_and_a_number() -> None:
    for run in document()["runs"]:
        assert run["source"].startswith(("https://", "stored file index id "))
        assert run["logged"]
