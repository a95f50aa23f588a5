"""Finished runs shown: the original document's tables from any number of folders, and one line for what is missing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from tests.recorded import records, write_folder
from tests.run_files import manifest_of, scenario_of, summary_of, write_json


def write_run(
    folder: Path,
    engine: str,
    model: str,
    value: float | None,
    *,
    protocol: str | None = "speed",
    simulated: bool = False,
    reasons: tuple[str, ...] = (),
) -> Path:
    folder.mkdir()
    level = "DEGRADED" if reasons else "VALID"
    summary = summary_of(
        run_id=folder.name,
        engine=engine,
        model=model,
        protocol=protocol,
        simulated=simulated,
        requests={"started": 3, "completed": 3},
        requests_per_min=value if protocol == "throughput" else 18.0,
        request_output_tokens_per_s=None if value is None else {"mean": value},
        e2e_s={"mean": 1.5, "p50": 1.5, "p90": 1.5, "p95": 1.5, "p99": 1.5, "max": 1.5, "count": 3},
        token_source="usage",
        stamp_source="kernel",
        finish_reasons={"stop": 3},
        verdict={"level": level, "reasons": [{"level": "DEGRADED", "text": text} for text in reasons]},
    )
    write_json(folder / "summary.json", summary)
    scenario = scenario_of(scenario={"name": "s", "protocol": protocol})
    write_json(folder / "manifest.json", manifest_of(scenario, simulated=simulated))
    return folder


def report(*arguments: object) -> str:
    result = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_engines_are_columns_models_rows_and_the_best_is_bold(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "1", "vLLM", "mpt-7b-chat", 84.366),
        write_run(tmp_path / "2", "TGI", "mpt-7b-chat", 67.16),
        write_run(tmp_path / "3", "Transformers", "falcon-7b", 25.1),
        write_run(tmp_path / "4", "vLLM", "llama2-70b-chat", 14.4, protocol="throughput"),
        write_run(tmp_path / "5", "Transformers", "llama2-70b-chat", 0.6, protocol="throughput"),
    ]

    text = report(*runs, "--reference-tables")

    assert "Engine      | Transformers | vLLM      | TGI" in text
    assert "mpt-7b-chat |              | **84.37** | 67.16" in text
    assert "falcon-7b   | 25.10        |           |" in text
    assert "llama2-70b-chat | 0.6          | **14.4** |" in text


def test_several_runs_of_a_cell_give_their_median(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(i), "vLLM", "m", value) for i, value in enumerate((10.0, 30.0, 11.0))]

    assert "m      |              | 11.00 |" in report(*runs, "--reference-tables")


def test_equal_cells_are_both_best(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / engine, engine, "m", 5.0) for engine in ("vLLM", "TGI")]

    assert report(*runs, "--reference-tables").count("**5.00**") == 2


def test_what_spoils_a_cell_is_noted(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "late", "vLLM", "m", 5.0, reasons=("event_loop_lag_p99_s 0.2 s, limit 0.05",)),
        write_run(tmp_path / "none", "TGI", "m", None),
        write_run(tmp_path / "stray", "TGI", "m", 1.0, protocol=None),
    ]

    text = report(*runs, "--reference-tables")

    assert "- m on vLLM (late): DEGRADED: event_loop_lag_p99_s 0.2 s, limit 0.05." in text
    assert "- m on TGI (none): nothing was measured." in text
    assert "- m on TGI (stray): in no table, since its scenario has no protocol" in text


def test_a_cell_with_a_known_model_and_gpu_has_its_bandwidth_use_and_its_doubt(tmp_path: Path) -> None:
    run = write_run(tmp_path / "1", "vLLM", "m", 400.0)
    summary = json.loads((run / "summary.json").read_text())
    summary["bandwidth"] = {"mbu": 2.6, "bound_tokens_per_s": 154.0, "implausible": "faster than can be"}
    (run / "summary.json").write_text(json.dumps(summary))

    assert "- m on vLLM (1): MBU 260.0%; implausible: faster than can be." in report(run, "--reference-tables")


def test_a_simulated_run_is_never_in_a_real_engines_column(tmp_path: Path) -> None:
    text = report(write_run(tmp_path / "1", "vLLM", "m", 5.0, simulated=True), "--reference-tables")

    assert "| vLLM (simulated engine)" in text
    assert "m      |              |      |     | 5.00" in text
    assert "not of any real engine" in text


def test_a_run_is_shown_with_what_is_unknown_as_n_a(tmp_path: Path) -> None:
    text = report(write_run(tmp_path / "1", "vLLM", "m", None))

    assert "TTFT" in text
    assert "n/a" in text
    assert "1,500" in text


@pytest.mark.parametrize(
    "options",
    [
        ("--markdown", "--json"),
        ("--json", "--markdown"),
        ("--reference-tables", "--json"),
        ("--markdown", "--reference-tables"),
        ("--definitions", "vllm", "--markdown"),
        ("--reference-tables", "--definitions", "vllm"),
        ("--svg", "x.svg", "--json"),
        ("--markdown", "--svg", "x.svg"),
    ],
    ids=" ".join,
)
def test_two_forms_that_exclude_each_other_are_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    run = write_run(tmp_path / "1", "vLLM", "m", 5.0)

    result = CliRunner().invoke(main, ["report", str(run), *options])

    assert result.exit_code == 2
    assert result.stdout == ""
    assert " exclude each other: give one of them" in result.stderr
    assert all(option in result.stderr for option in options if option.startswith("--"))


def test_the_view_can_be_drawn(tmp_path: Path) -> None:
    report(write_run(tmp_path / "1", "vLLM", "m", 5.0), "--svg", tmp_path / "x.svg")

    assert (tmp_path / "x.svg").read_text().startswith("<svg")


@pytest.mark.parametrize("missing", ["summary.json", "manifest.json"])
def test_a_folder_without_a_finished_run_is_one_line_and_exit_code_2(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path / "1", "vLLM", "m", 5.0)
    (run / missing).unlink()

    result = CliRunner().invoke(main, ["report", str(run), "--reference-tables"])

    assert result.exit_code == 2
    assert f"1/{missing}: no such file" in result.output


def test_several_runs_are_a_suite_each_in_junit(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, "vLLM", "m", 5.0) for name in ("1", "2")]

    report(*runs, "--junit", tmp_path / "runs.xml")

    text = (tmp_path / "runs.xml").read_text()
    assert '<testsuite name="1" tests="2"' in text
    assert '<testsuite name="2" tests="2"' in text


def test_the_folder_of_a_repeated_run_is_shown_as_its_runs(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / "group").mkdir(exist_ok=True)
        write_run(tmp_path / "group" / name, "vLLM", "m", 5.0)

    assert [run["run_id"] for run in json.loads(report(tmp_path / "group", "--json"))] == ["1", "2"]


class TestFiles:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        return Path(write_folder(tmp_path / "run", records(60)))

    def invoke(self, *arguments: object) -> Any:
        return CliRunner().invoke(main, ["report", *map(str, arguments)])

    def test_a_page_is_written_to_the_runs_folder_or_to_the_named_file(self, run: Path, tmp_path: Path) -> None:
        there = self.invoke(run, "--html")
        elsewhere = self.invoke(run, run, "--html", tmp_path / "both.html")

        assert (there.exit_code, there.stdout, there.stderr) == (0, "", f"wrote {run / 'report.html'}\n")
        assert (run / "report.html").read_text().startswith("<!doctype html>")
        assert elsewhere.exit_code == 0
        assert "2 runs compared" in (tmp_path / "both.html").read_text()

    def test_a_page_of_several_runs_needs_a_file(self, run: Path) -> None:
        refused = self.invoke(run, run, "--html")

        assert refused.exit_code == 2
        assert "--html of several runs needs a file" in refused.stderr

    def test_exports_say_where_they_are_and_print_nothing_else(self, run: Path, tmp_path: Path) -> None:
        ended = self.invoke(run, "--csv", tmp_path / "r.csv", "--parquet", tmp_path / "r.parquet")

        assert (ended.exit_code, ended.stdout) == (0, "")
        assert ended.stderr == f"wrote {tmp_path / 'r.csv'}\nwrote {tmp_path / 'r.parquet'}\n"
        assert len((tmp_path / "r.csv").read_text().splitlines()) == 61

    @pytest.mark.parametrize("how", ["cut", "removed"])
    def test_lines_that_are_missing_since_the_end_of_the_run_are_said(
        self, run: Path, tmp_path: Path, how: str
    ) -> None:
        file = run / "requests.jsonl"
        held = {"requests.jsonl": {"lines": 60, "size_bytes": file.stat().st_size}}
        summary = summary_of(requests={"started": 60, "completed": 60, "lost_lines": 0}, request_files=held)
        write_json(run / "summary.json", summary)
        whole = [self.invoke(run), self.invoke(run, "--csv", tmp_path / "r.csv")]
        if how == "cut":
            os.truncate(file, sum(len(line) for line in file.read_bytes().splitlines(keepends=True)[:21]) + 9)
        else:
            file.unlink()
        shown, exported, as_json = (
            self.invoke(run, *further) for further in ([], ["--csv", str(tmp_path / "r.csv")], ["--json"])
        )
        page = self.invoke(run, "--html")

        left = 21 if how == "cut" else 0
        said = (
            f"{60 - left} of 60 request lines that the run wrote are missing from its folder now: "
            f"requests.jsonl has {left} of 60"
        )
        assert [each.exit_code for each in whole] == [0, 0]
        assert [each.exit_code for each in (shown, exported, as_json, page)] == [3] * 4
        assert said in " ".join(shown.stdout.split())
        assert exported.stderr == f"wrote {tmp_path / 'r.csv'}\n{run}: {said}\n"
        assert json.loads(as_json.stdout)[0]["verdict"]["reasons"][0]["check"] == "missing_lines"
        assert said in (run / "report.html").read_text()

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({}, 0),
            ({"requests": {"started": 2, "completed": 1, "failed": 1}}, 1),
            ({"verdict": {"level": "INVALID", "reasons": [{"level": "INVALID", "text": "no"}]}}, 3),
        ],
    )
    def test_the_exit_code_is_that_of_the_run(self, run: Path, changes: dict[str, Any], code: int) -> None:
        write_json(run / "summary.json", summary_of(**changes))

        assert [self.invoke(run, *form).exit_code for form in ([], ["--json"], ["--markdown"])] == [code] * 3
        assert self.invoke(run, "--html").exit_code == 0

    def test_a_crashed_run_has_figures_in_every_form(self, run: Path) -> None:
        terminal, markdown, as_json = (self.invoke(run, *of) for of in ([], ["--markdown"], ["--json"]))

        assert "INVALID: the run" in terminal.stdout
        (summary,) = json.loads(as_json.stdout)
        assert summary["recomputed"].endswith("counted from the requests that it wrote")
        assert f"| completed | {summary['requests']['completed']} |" in markdown.stdout

    def test_markdown_has_a_column_a_run_and_escapes_its_cells(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path / name, "vLLM", model, 2.0) for name, model in (("1", "a|b<i>"), ("2", "m"))]
        lines = report(*runs, "--markdown").splitlines()

        assert lines[0] == "|  | 1 | 2 |"
        assert "| model | a\\|b&lt;i&gt; | m |" in lines
        assert "| e2e latency p95, ms | 1,500 | 1,500 |" in lines

    def test_a_broken_line_is_one_line(self, run: Path, tmp_path: Path) -> None:
        with (run / "requests.jsonl").open("a") as file:
            file.write("nonsense\n")
        for option in ("--html", "--csv", "--parquet"):
            refused = self.invoke(run, option, tmp_path / "x")
            assert refused.exit_code == 2
            assert refused.stderr.startswith(f"llmload: {run / 'requests.jsonl'}: line 61 is not JSON: ")
