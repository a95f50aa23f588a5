"""The benchmark of tool definitions compares figure by figure: what agrees passes, what does not fails."""

import json
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from click.testing import CliRunner

from benchmarks.comparisons import definitions as comparison
from benchmarks.comparisons.client_cost.vllm_bench import VllmBench
from benchmarks.comparisons.definitions import Tool, compare, ended, flat, main, relative, run
from benchmarks.tools.llmload_client import Llmload
from benchmarks.tools.load_client import Command, LoadClient, Reported, Task
from benchmarks.tools.paced_engine import END_S, FINISH_S, PROMPT_TOKENS, ROLE_S, TEXTS_S, PacedEngine
from benchmarks.tools.work import Work
from llmload.definitions.catalogue import TOOL_DEFINITIONS
from llmload.definitions.sample import read_sample
from llmload.runs.folder import RunFolder

QUICK = Work(streams=2, tokens_per_s=100, tokens=5, ttft_s=0.05, ttft_spread_s=0.01)


def test_an_export_is_read_by_its_keys_however_deep() -> None:
    export = {"a": 1, "b": {"c": {"d": 2.5}, "list": [1]}, "text": "no", "none": None}

    assert dict(flat(export)) == {"a": 1, "b.c.d": 2.5, "none": None}


def test_figures_that_both_report_are_compared_and_prompt_tokens_never_fail() -> None:
    reported = {"mean_ttft_ms": 100.0, "total_input_tokens": 5.0, "only_theirs": 1.0}
    rows = compare("vllm", reported, {"mean_ttft_ms": 103.0, "total_input_tokens": 9.0, "only_ours": 1.0}, 0.02)

    assert [(row.key, row.passed, row.why_not is None) for row in rows] == [
        ("mean_ttft_ms", False, True),
        ("total_input_tokens", False, False),
    ]


@pytest.mark.parametrize(
    ("reported", "computed", "difference"),
    [
        (100.0, 102.0, 0.02),
        (100.0, 97.0, 0.03),
        (0.0, 0.0, 0.0),
        (0.0, 1.0, None),
        (None, 1.0, None),
        (1.0, None, None),
    ],
)
def test_differences_are_relative_to_the_tools_figure(
    reported: float | None, computed: float | None, difference: float | None
) -> None:
    assert relative(reported, computed, reported) == (None if difference is None else pytest.approx(difference))


def test_a_standard_deviation_is_compared_relative_to_the_mean() -> None:
    reported, computed = {"x.avg": 100.0, "x.std": 1.0}, {"x.avg": 100.0, "x.std": 2.0}

    assert [row.difference for row in compare("aiperf", reported, computed, 0.02)] == [0.0, pytest.approx(0.01)]


def test_genai_benchs_clock_runs_on() -> None:
    (row,) = compare("genai-bench", {"run_duration": 5.0}, {"run_duration": 4.0}, 0.02)

    assert row.why_not is not None


class Replayed:
    """A tool whose export is llmload's own figures, but for a tenth of the TTFT."""

    name = "replayed"

    def missing(self) -> str | None:
        return None

    def command(self, task: Task) -> Command:
        return Llmload(ramp_s=0.001).command(task)

    def reported(self, task: Task) -> Reported:
        return Llmload().reported(task)

    def export(self, folder: Path) -> dict[str, Any]:
        runs = folder / "runs"
        command = ["report", *map(str, runs.iterdir()), "--definitions", "sglang", "--json"]
        figures: dict[str, Any] = json.loads(CliRunner().invoke(_report(), command).output)[0]["figures"]
        return figures | {"mean_ttft_ms": figures["mean_ttft_ms"] / 10}


def _report() -> Any:
    from llmload.cli.main import main as llmload

    return llmload


def test_a_figure_that_differs_from_the_tools_fails_and_the_others_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = Replayed()
    monkeypatch.setattr(comparison, "TOOLS", {"sglang": Tool(client=tool, export=tool.export)})
    monkeypatch.setattr(comparison, "WORK", QUICK)
    monkeypatch.setattr(comparison, "LATE_S", {False: 10.0})
    monkeypatch.setattr(comparison, "LIMIT", {False: 2.0})  # two runs on a busy machine; a tenth is beyond it

    out = tmp_path / "out.json"
    result = CliRunner().invoke(main, ["--only", "sglang", "--json", str(out), "--keep", str(tmp_path)])

    rows = {row["key"]: row for row in json.loads(out.read_text())["sglang"]}
    assert result.exit_code == 1, result.output
    assert not rows["mean_ttft_ms"]["passed"]
    assert rows["completed"]["passed"]
    assert rows["median_tpot_ms"]["passed"]
    assert rows["total_input_tokens"]["why_not"] is not None


def test_a_program_that_fails_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Broken(Replayed):
        def command(self, task: Task) -> Command:
            return Command(arguments=("sh", "-c", "echo out of order; exit 7"))

    monkeypatch.setattr(comparison, "WORK", QUICK)
    broken: LoadClient = Broken()

    with pytest.raises(ClickException, match="exit code 7\nout of order"):
        run(broken, 2, tmp_path)


def test_a_program_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(comparison, "TIMEOUT_S", 0.2)

    assert ended(Command(arguments=("sleep", "60")), tmp_path) is None


def test_all_definitions_have_their_tool_and_a_wrong_name_is_an_error() -> None:
    assert comparison.TOOLS.keys() == TOOL_DEFINITIONS.keys()

    result = CliRunner().invoke(main, ["--only", "nobody"])

    assert result.exit_code == 2
    assert "--only: nobody: known are vllm, sglang" in result.output


def test_vllms_load_generator_reads_its_own_result(tmp_path: Path) -> None:
    ttft = {"mean_ttft_ms": 100.0, "median_ttft_ms": 99.0, "p99_ttft_ms": 120.0}
    gaps = {"median_tpot_ms": 5.0, "p99_tpot_ms": 6.0, "median_itl_ms": 5.0, "p99_itl_ms": 6.0}
    result = {"completed": 3, "failed": 1, "output_throughput": 7.0, **ttft, **gaps}
    (tmp_path / "result.json").write_text(json.dumps(result))
    task = Task(work=QUICK, requests=4, base_url="http://127.0.0.1:1", ca_file=None, model="m", folder=tmp_path)

    assert VllmBench().reported(task).ttft_mean_s == pytest.approx(0.1)
    assert "--num-prompts=4" in VllmBench().command(task).arguments


def test_the_paced_engine_sends_role_texts_finish_and_end_at_separate_times(tmp_path: Path) -> None:
    with PacedEngine() as engine:
        task = Task(
            work=comparison.PACED_WORK,
            requests=1,
            base_url=engine.base_url,
            ca_file=None,
            model=engine.model,
            folder=tmp_path,
        )
        assert ended(Llmload(ramp_s=0.001).command(task), tmp_path) in {0, 3}
    (answer,) = read_sample(RunFolder(next((tmp_path / "runs").iterdir()))).answers

    known = [ROLE_S, *TEXTS_S, FINISH_S, END_S]
    found = [*(answer.since_start_s(moment) for moment in answer.all_chunks_ns), answer.done_s]
    assert len(found) == len(known)
    assert all(-0.001 < late < 0.5 for late in (f - k for f, k in zip(found, known, strict=True)))
    assert (answer.record.prompt_tokens, answer.record.output_tokens) == (PROMPT_TOKENS, len(TEXTS_S))
