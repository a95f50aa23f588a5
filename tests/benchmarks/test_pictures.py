"""The documentation's pictures: their runs are scenarios that can be run, and their files are small."""

from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.tools.pictures.__main__ import CLOSED, MOST_BYTES, STAGED, scenario
from llmload.scenario import load_scenario

PICTURES = sorted((ROOT / "docs").rglob("*.png"))


@pytest.mark.parametrize("load", [CLOSED, STAGED], ids=["closed", "staged"])
def test_a_picture_is_of_a_run_that_can_be_started(tmp_path: Path, load: str) -> None:
    file = scenario(tmp_path, "run", "http://127.0.0.1:1", load)

    assert load_scenario(file).slo.ttft_s == 0.6


@pytest.mark.parametrize("picture", PICTURES, ids=lambda file: file.name)
def test_a_picture_is_small_and_some_page_shows_it(picture: Path) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]

    assert picture.stat().st_size <= MOST_BYTES
    assert any(picture.name in page.read_text(encoding="utf-8") for page in pages)
