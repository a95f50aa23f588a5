"""Run folders as DataFrames: documented dtypes, figures that agree with the summary, and the page's example."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import llmload
from llmload.errors import RunFolderError
from llmload.metrics.requests import fields_table
from llmload.notebook import REQUEST_COLUMNS, SAMPLE_COLUMNS, RunData, dtype_of
from llmload.prometheus.pages import ENGINE, GPU
from llmload.runs.folder import ENGINE_METRICS
from llmload.units import NS_PER_S
from tests.recorded import manifest_of, records, write_folder

PAGE = Path(__file__).parents[1] / "docs" / "notebook.md"
LASTS_S = 30.0


@pytest.fixture
def run(tmp_path: Path) -> RunData:
    """A recorded run of two stages that ended without a summary, so that it is counted from its requests."""
    of = records(800, lasts_s=LASTS_S, open_loop=True)
    start_ns = min(each.started_ns for each in of)
    half_ns = start_ns + round(LASTS_S / 2 * NS_PER_S)
    of = [replace(each, stage="one" if each.started_ns < half_ns else "two") for each in of]
    write_folder(tmp_path, of)
    first_s = min(line["time_s"] for line in RunData.of(tmp_path).folder.requests())
    stages = [{"name": name, "users": 4, "duration_s": LASTS_S / 2} for name in ("one", "two")]
    manifest = manifest_of({"kind": "staged", "warmup_s": 2.0, "stages": stages})
    write_folder(tmp_path, [], manifest=manifest | {"started_unix_s": first_s, "timeline": timeline(first_s)})
    return llmload.open_run(tmp_path)


def timeline(start_s: float) -> dict[str, Any]:
    stages = [
        {
            "name": name,
            "users": 4,
            "rate_per_s": None,
            "start_unix_s": start_s + begin_s,
            "window_start_unix_s": start_s + begin_s + 2.0,
            "end_unix_s": start_s + begin_s + LASTS_S / 2,
        }
        for name, begin_s in (("one", 0.0), ("two", LASTS_S / 2))
    ]
    window = {"window_start_unix_s": start_s + 2.0, "window_end_unix_s": start_s + LASTS_S}
    return {**window, "stages": stages}


def test_requests_have_the_documented_columns_and_dtypes(run: RunData) -> None:
    frame = run.requests

    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        column.name: dtype_of(column) for column in REQUEST_COLUMNS
    }
    assert len(frame) == 800
    assert frame["time"].is_monotonic_increasing
    assert frame["cached_tokens"].isna().sum() == sum(line["cached_tokens"] is None for line in run.folder.requests())


def test_values_are_those_of_the_lines(run: RunData) -> None:
    frame = run.requests.set_index("request_id")
    for line in run.folder.requests():
        row = frame.loc[line["request_id"]]
        assert row["time"].timestamp() == pytest.approx(line["time_s"], abs=1e-6)
        assert row["schedule_lag_s"] == pytest.approx((line["started_ns"] - line["scheduled_ns"]) / NS_PER_S)
        for name in ("e2e_s", "outcome", "chunks", "done_ns"):
            assert row[name] == line[name]
        for name in ("ttft_s", "output_tokens", "finish_reason", "connected_ns"):
            assert pd.isna(row[name]) if line[name] is None else row[name] == line[name]
        assert pd.isna(row["error_type"]) if line["error"] is None else row["error_type"] == line["error"]["type"]


def test_requests_in_the_window_have_the_summarys_figures(run: RunData) -> None:
    answers = run.requests.query("outcome == 'completed' and in_window")

    assert [stage.name for stage in run.summary.stages] == ["one", "two"]
    for stage in run.summary.stages:
        of_stage = answers[answers["stage"] == stage.name]
        assert stage.ttft_s is not None
        assert stage.ttft_s.count == of_stage["ttft_s"].count()
        assert stage.ttft_s.mean == pytest.approx(of_stage["ttft_s"].mean())
        assert stage.ttft_s.p95 == pytest.approx(of_stage["ttft_s"].quantile(0.95, interpolation="higher"), rel=0.01)
        assert stage.output_tokens == of_stage["output_tokens"].sum()


def test_the_pages_example_runs(run: RunData) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(re.sub(r'"runs/[^"]*"', repr(str(run.folder.path)), code), names)  # noqa: S102 - the page's own code

    assert list(names["by_stage"].index) == ["one", "two"]
    assert names["by_stage"].between(0, LASTS_S).all()


def test_the_page_has_the_columns_of_requests_and_samples() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert fields_table(REQUEST_COLUMNS, "dtype", dtype_of) in page
    assert fields_table(SAMPLE_COLUMNS, "dtype", dtype_of) in page


def test_samples_without_a_file_are_empty_with_their_columns(run: RunData) -> None:
    begin = [column.name for column in SAMPLE_COLUMNS]

    assert list(run.engine_samples) == [*begin, *(figure.name for figure in ENGINE)]
    assert list(run.gpu_samples) == [*begin, *(figure.name for figure in GPU)]
    assert (len(run.engine_samples), str(run.gpu_samples["power_w"].dtype)) == (0, "float64")


def test_samples_are_those_of_the_file_without_a_line_that_was_cut_short(run: RunData) -> None:
    lines = ["unix_s,url,part,running,waiting", "100.5,http://a/metrics,,3.0,", "101.5,http://a/metrics,,4.0,1.0"]
    (run.folder.path / ENGINE_METRICS).write_text("\n".join([*lines, "102.5,http://a/metr"]))

    samples = run.engine_samples

    assert samples["time"].map(pd.Timestamp.timestamp).tolist() == [100.5, 101.5]
    assert samples["running"].tolist() == [3.0, 4.0]
    assert samples["waiting"].isna().tolist() == [True, False]
    assert [str(samples[column.name].dtype) for column in SAMPLE_COLUMNS] == [*map(dtype_of, SAMPLE_COLUMNS)]


def test_a_run_without_requests_has_an_empty_frame_of_the_same_dtypes(tmp_path: Path) -> None:
    frame = llmload.open_run(write_folder(tmp_path, [])).requests

    assert [str(dtype) for dtype in frame.dtypes] == [*map(dtype_of, REQUEST_COLUMNS)]


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({}))

    with pytest.raises(RunFolderError, match=r"manifest\.json: no such file"):
        llmload.open_run(tmp_path)
