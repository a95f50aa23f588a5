"""`llmload dashboards export`: every file of the dashboard, without the library that builds it."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.errors import ExitCode

GRAFANA = Path(__file__).parents[2] / "grafana"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_export_copies_every_file_without_the_library_that_builds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk", None)

    for _ in range(2):  # again, where all is as it was
        ended = CliRunner().invoke(main, ["dashboards", "export", str(tmp_path / "new")])

        assert ended.exit_code == ExitCode.GOOD
        assert contents(tmp_path / "new") == contents(GRAFANA)
        assert {Path(line).relative_to(tmp_path / "new") for line in ended.output.splitlines()} == {
            file.relative_to(GRAFANA) for file in GRAFANA.rglob("*") if file.is_file()
        }


def test_export_overwrites_what_was_changed_only_with_force(tmp_path: Path) -> None:
    changed = tmp_path / "prometheus" / "prometheus.yml"
    changed.parent.mkdir()
    changed.write_text("mine")

    refused = CliRunner().invoke(main, ["dashboards", "export", str(tmp_path)])

    assert (refused.exit_code, contents(tmp_path)) == (ExitCode.WRONG_USE, {"prometheus/prometheus.yml": b"mine"})
    assert f"{changed}: is there and differs: name another folder, or overwrite with --force" in refused.output
    assert CliRunner().invoke(main, ["dashboards", "export", str(tmp_path), "--force"]).exit_code == ExitCode.GOOD
    assert contents(tmp_path) == contents(GRAFANA)


def test_export_to_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "dashboards").touch()

    ended = CliRunner().invoke(main, ["dashboards", "export", str(tmp_path)])

    assert ended.exit_code == ExitCode.WRONG_USE
    assert f"{tmp_path}: cannot be written: " in ended.output
