"""Requests as CSV and Parquet: every documented column, every request of every file."""

import csv
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llmload.errors import RunFolderError
from llmload.metrics.requests import COLUMNS, fields_table
from llmload.runs import parquet
from llmload.runs.folder import RunFolder
from llmload.runs.parquet import write_parquet
from llmload.runs.requests import csv_lines, write_csv
from tests.recorded import records, write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path: Path) -> list[RunFolder]:
    folders = [write_folder(tmp_path / str(index), records(40, seed=index)) for index in (1, 2)]
    return [RunFolder(folder) for folder in folders]


def test_the_csv_has_a_row_a_request_of_all_runs(runs: list[RunFolder], tmp_path: Path) -> None:
    assert write_csv(tmp_path / "r.csv", runs) == 80
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    expected = [line for run in runs for line in run.requests()]
    assert [row["request_id"] for row in rows] == [line["request_id"] for line in expected]
    for row, line in zip(rows, expected, strict=True):
        assert row["ttft_s"] == ("" if line["ttft_s"] is None else str(line["ttft_s"]))
        assert row["error_message"] == (line["error"] or {"message": ""})["message"]
    assert {row["run_id"] for row in rows} == {"20260101-000000-known-0001"}


def test_the_web_uis_csv_is_the_same(runs: list[RunFolder], tmp_path: Path) -> None:
    write_csv(tmp_path / "r.csv", runs[:1])
    streamed = io.StringIO("".join(csv_lines(runs[0].requests(), "20260101-000000-known-0001")), newline="")

    assert list(csv.reader(streamed)) == list(
        csv.reader(io.StringIO((tmp_path / "r.csv").read_bytes().decode(), newline=""))
    )
    assert len("".join(csv_lines([], "x")).splitlines()) == 1


def test_parquet_has_the_same_with_types_and_the_times_of_chunks(
    runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS_A_GROUP", 30)
    assert write_parquet(tmp_path / "r.parquet", runs) == 80

    table, expected = pq.read_table(tmp_path / "r.parquet"), [line for run in runs for line in run.requests()]
    assert table.column_names == [column.name for column in COLUMNS]
    for name in ("outcome", "time_s", "output_tokens", "chunk_gaps_ns", "started_ns", "scheduled_ns"):
        assert table[name].to_pylist() == [line[name] for line in expected]
    assert table["error_type"].to_pylist() == [line["error"] and line["error"]["type"] for line in expected]
    assert pq.ParquetFile(tmp_path / "r.parquet").num_row_groups > 1


def test_every_key_of_a_line_is_a_column(runs: list[RunFolder]) -> None:
    keys = set(next(iter(runs[0].requests()))) - {"error"} | {"run_id"}

    assert keys == {column.name for column in COLUMNS if not column.name.startswith("error_")}


def test_the_document_has_the_columns() -> None:
    assert fields_table(COLUMNS) in (ROOT / "docs" / "requests.md").read_text(encoding="utf-8")


def test_a_file_that_cannot_be_written_is_a_line(runs: list[RunFolder], tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no/r\.csv: cannot be written: No such file"):
        write_csv(tmp_path / "no" / "r.csv", runs)
    with pytest.raises(RunFolderError, match=r"no/r\.parquet: cannot be written"):
        write_parquet(tmp_path / "no" / "r.parquet", runs)
