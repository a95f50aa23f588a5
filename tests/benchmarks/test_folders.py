"""The fuzz of run folders in short: nothing is found, and a fault is where there is one."""

from pathlib import Path

import pytest

from benchmarks.trials.folders.__main__ import trial
from benchmarks.trials.folders.samples import make_samples
from benchmarks.trials.folders.trial import QUICK
from llmload.runs import reading

MUTANTS = 8


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_samples(tmp_path_factory.mktemp("samples"), ("timed",))


def test_no_output_of_a_damaged_folder_is_a_fault(
    samples: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = trial(samples, range(MUTANTS), 1, tmp_path, QUICK)

    assert code == 0, capsys.readouterr().out
    assert f"{MUTANTS} of {MUTANTS} mutants good" in capsys.readouterr().out


def test_a_reader_that_raises_is_found(
    samples: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "orjson", None)

    assert trial(samples, range(1), 1, tmp_path, QUICK) == 1
    assert "AttributeError" in capsys.readouterr().out
