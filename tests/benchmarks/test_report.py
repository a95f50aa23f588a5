"""The benchmark of reports in short: it writes a folder that is a run's, and times what is made of it."""

from pathlib import Path

import pytest

from benchmarks.trials import report
from llmload.runs.folder import RunFolder
from llmload.runs.loaded_run import load_run


@pytest.mark.parametrize("gaps", report.GAPS)
def test_its_folder_is_a_run_whose_every_request_is_counted(gaps: int, tmp_path: Path) -> None:
    report.write_folder(tmp_path / "run", 4000, gaps)
    loaded = load_run(RunFolder(tmp_path / "run"))

    assert sum(loaded.files.values()) == loaded.totals.started == 4000
    assert loaded.totals.failed == 40
    assert loaded.totals.distributions["itl_s"].count == (
        0 if gaps == 0 else pytest.approx(4000 * 31 * 0.99 * 6 / 8, rel=0.03)
    )
    assert loaded.timeline.tokens.sum() == pytest.approx(loaded.totals.arrived_tokens, rel=1e-6)


def test_it_says_pass_for_each_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "GAPS", (32,))
    monkeypatch.setattr(report, "FORMS", {"--csv": "requests.csv"})

    assert report.main(["--requests", "400"]) == 0
    assert capsys.readouterr().out.count("PASS") == 1
