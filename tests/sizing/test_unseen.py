"""Numbers of real engines that were written down before the sizing was run on them."""

import re
from collections import Counter
from pathlib import Path

from click.testing import CliRunner

from benchmarks.trials.unseen_sizes import document, judged, main, summary

PAGE = Path(__file__).parents[2] / "docs" / "sizing.md"


def test_every_unseen_number_is_judged() -> None:
    numbers = judged()

    assert summary(numbers) in CliRunner().invoke(main).output
    assert f"{len(numbers)} numbers: " in PAGE.read_text(encoding="utf-8")


def test_at_least_as_many_unseen_numbers_are_held_as_the_page_says() -> None:
    counts = Counter(number.verdict for number in judged())
    said = re.search(r"after +80 numbers: (\d+) held, (\d+) off", PAGE.read_text(encoding="utf-8"))
    assert said

    assert counts["held"] >= int(said[1])
    assert counts["off"] <= int(said[2])


def test_each_unseen_run_has_a_source_and_a_number() -> None:
    for run in document()["runs"]:
        assert run["source"].startswith(("https://", "stored file index id "))
        assert run["logged"]
