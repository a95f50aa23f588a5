"""The results of a suite show verdicts, failures and unknown figures."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmload.client.settings import EngineInfo
from llmload.errors import ConfigError
from llmload.sizing.cards import LocalGpu
from llmload.suite.launch import describe_mismatch, wait_until_memory_is_free
from llmload.suite.outcome import read_outcome, to_json, to_markdown, write_outcome
from llmload.suite.plan import SuitePlan, make_plan
from llmload.suite.run import judge_run
from llmload.suite.state import Status, SuiteProgress, SuiteState, left_text, time_left_s
from tests.run_files import manifest_of, summary_of, write_json
from tests.suite.conftest import WriteSuite

FURTHER = """
[engines.vllm]
[models."vicuna-7b-v1.3"]
precision = "fp16"
[protocols.throughput]
scenario = "lima-throughput"
"""


@pytest.fixture
def plan(write_suite: WriteSuite, tmp_path: Path) -> SuitePlan:
    return make_plan(write_suite(further=FURTHER), folder=tmp_path / "suite")


def end(plan: SuitePlan, state: SuiteState, name: str, status: Status, **known: Any) -> None:
    deployment = next(d for d in plan.deployments for cell in d.cells if cell.name == name)
    cell = next(cell for cell in deployment.cells if cell.name == name)
    state.folder.mkdir(exist_ok=True)
    state.begin(name, plan.fingerprint(deployment, cell))
    if value := known.pop("value", None):
        state.cells[name].run_folder = write_run(plan.folder, name, cell, value, known.pop("level", "VALID"))
    reason = known.pop("reason", None)
    for key, said in known.items():
        setattr(state.cells[name], key, said)
    state.end(name, status, reason)


def write_run(folder: Path, name: str, cell: Any, value: float, level: str) -> str:
    run = folder / "runs" / name / "r"
    run.mkdir(parents=True)
    reasons = [] if level == "VALID" else [{"level": level, "text": "too late"}]
    summary = summary_of(
        engine=cell.scenario.engine.display_name,
        model=cell.scenario.model.name,
        requests_per_min=value,
        request_output_tokens_per_s={"mean": value},
        requests={"completed": 7},
        verdict={"level": level, "reasons": reasons},
        bandwidth={"mbu": 0.5, "bound_tokens_per_s": 2 * value, "implausible": None},
    )
    write_json(run / "summary.json", summary)
    write_json(run / "manifest.json", manifest_of(cell.scenario))
    return str(run.relative_to(folder))


MODEL = "vicuna-7b-v1.3"


def test_the_three_tables_have_every_cell_with_verdict_mbu_and_failure(plan: SuitePlan) -> None:
    state = SuiteState(plan.folder, ready_s={f"vllm/{MODEL}": 41.5})
    end(plan, state, f"vllm/{MODEL}/speed", Status.GOOD, value=41.14, engine_version="0.1.3")
    end(plan, state, f"vllm/{MODEL}/throughput", Status.INVALID, value=14.4, level="INVALID", reason="too late")
    end(plan, state, f"quick/{MODEL}/speed", Status.FAILED, reason="the engine ended with exit code 1\n    CUDA")
    end(plan, state, f"quick/{MODEL}/throughput", Status.FAILED, reason="the engine ended with exit code 1\n    CUDA")

    text = to_markdown(read_outcome(plan, SuiteState.read(plan.folder)))

    assert "|vicuna-7b-v1.3|6.74b     |29.61 GB|14.81 GB |7.4 GB|3.7 GB|" in text
    assert "vicuna-7b-v1.3 |              | 41.14 |     | failed" in text
    assert "vicuna-7b-v1.3 |              | 14.4 |     | failed" in text
    assert "INVALID: too late." in text
    assert f"| vllm/{MODEL}/speed       | 41.14 tok/s       | VALID    | 50.0% | 7        | 41.5 " in text
    assert (
        f"| vllm/{MODEL}/throughput  | 14.4 requests/min | INVALID  | 50.0% | 7        | 41.5           | n/a " in text
    )
    assert "| quick/one/speed                 | n/a               | not done | n/a   | n/a      | n/a " in text
    assert (
        f"- quick/{MODEL}/speed, quick/{MODEL}/throughput: failed: the engine ended with exit code 1\n      CUDA"
        in text
    )
    assert "- one: model 'one' is neither in the catalogue" in text


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        ([Status.GOOD] * 8, 0),
        ([Status.GOOD] * 7, 1),
        ([Status.GOOD] * 7 + [Status.FAILED], 1),
        ([Status.GOOD] * 6 + [Status.FAILED, Status.INVALID], 3),
    ],
)
def test_the_exit_code_is_the_worst_of_the_cells(plan: SuitePlan, statuses: list[Status], code: int) -> None:
    state = SuiteState(plan.folder)
    for cell, status in zip(plan.cells, statuses, strict=False):
        end(plan, state, cell.name, status)

    outcome = read_outcome(plan, state)

    assert outcome.exit_code == to_json(outcome)["exit_code"] == code
    assert read_outcome(plan, state, [plan.cells[0].name]).exit_code == 0, "the others are not selected"


def test_an_interrupted_a_changed_and_a_lost_cell_are_not_done(plan: SuitePlan, write_suite: WriteSuite) -> None:
    state = SuiteState(plan.folder)
    end(plan, state, "quick/one/speed", Status.GOOD, value=5.0)
    end(plan, state, "quick/one/throughput", Status.RUNNING)

    def statuses(of: SuitePlan) -> list[str]:
        return [cell.status for cell in read_outcome(of, SuiteState.read(plan.folder)).cells][:2]

    assert statuses(plan) == ["good", "not done"]
    changed = make_plan(write_suite(("0.01", "0.02"), further=FURTHER), folder=plan.folder)
    assert statuses(changed) == ["not done", "not done"]
    (plan.folder / str(state.cells["quick/one/speed"].run_folder) / "summary.json").unlink()
    assert statuses(plan) == ["not done", "not done"]


def test_a_state_file_that_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"cells": {"a": {"status": "odd"}}}')

    with pytest.raises(ConfigError, match=r"state\.json: cannot be read .*--restart starts from the beginning"):
        SuiteState.read(tmp_path)


def test_the_time_left_follows_the_durations_of_cells_and_starts(plan: SuitePlan) -> None:
    state = SuiteState(plan.folder)
    names = {cell.name for cell in plan.cells}
    assert time_left_s(plan, state, names, None) is None, "no start has been seen"

    end(plan, state, "quick/one/speed", Status.GOOD, measured_s=10.0)
    state.starts_s = {"quick/one": 60.0}

    # 3 starts to come, 3 speed cells as long as the first one, 4 throughput cells of the scenario's 330 s
    assert time_left_s(plan, state, names - {"quick/one/speed"}, "quick/one") == pytest.approx(
        3 * 60 + 3 * 10 + 4 * 330
    )
    assert time_left_s(plan, state, set(), None) == 0.0


@pytest.mark.parametrize(
    ("left_s", "text"), [(None, "n/a"), (41.7, "about 42 s"), (600, "about 10 min"), (7200, "about 2.0 h")]
)
def test_the_time_left_is_rounded_for_people(left_s: float | None, text: str) -> None:
    assert text in left_text(left_s)


@pytest.mark.parametrize("terminal", [True, False])
def test_each_step_is_shown_by_a_bar_on_a_terminal_and_else_by_lines(terminal: bool) -> None:
    out = StringIO()
    progress = SuiteProgress(Console(file=out, force_terminal=terminal, width=120))
    with progress:
        progress.show("vllm/one: starting", 1, 4, 80.0)
        progress.line("quick/one/speed: good")
        progress.show("vllm/one/speed: 3 of 9 answers", 1, 4, 80.0, every_s=60)

    if terminal:
        assert all(each in out.getvalue() for each in ("\x1b", "quick/one/speed: good", "3 of 9 answers", "1/4"))
    else:
        started = "vllm/one: starting (1 of 4 cells done, about 80 s left)"
        assert out.getvalue().splitlines() == [started, "quick/one/speed: good"]


def gpu(used_gib: float) -> LocalGpu:
    return LocalGpu(index=0, name="A100", total_gib=80.0, used_gib=used_gib, driver="1", nvlinks=0)


def test_the_next_engine_waits_until_the_gpu_is_free() -> None:
    readings = iter([[gpu(70.0)], [gpu(30.0)], [gpu(1.2)]])

    assert wait_until_memory_is_free([gpu(1.0)], timeout_s=20, read=lambda: next(readings))
    assert next(readings, None) is None
    assert not wait_until_memory_is_free([gpu(1.0)], timeout_s=0.0, read=lambda: [gpu(70.0)])
    assert wait_until_memory_is_free([], read=lambda: [gpu(70.0)]), "no NVML, nothing to wait for"


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({}, None),
        ({"/v1/models": {"data": []}}, None),
        ({"/v1/models": {"data": [{"id": "one"}, {"id": "x"}]}}, None),
        ({"/v1/models": {"data": [{"id": "x"}]}}, "serves x, not 'one'"),
        ({"/info": {"model_id": "org/other"}}, "has loaded org/other, not 'org/one'"),
        ({"/info": {"model_id": "org/one", "version": "1.0.1"}}, "reports version 1.0.1, not 2.0"),
        ({"/version": {"version": "v2.0"}}, None),
    ],
)
def test_an_engine_that_differs_from_the_plan_is_described(
    write_suite: WriteSuite, answers: dict[str, Any], says: str | None
) -> None:
    changes = (("[models.one]", '[models.one]\nid = "org/one"'), ("options", 'version = "2.0"\noptions'))
    deployment = make_plan(write_suite(*changes)).deployments[0]

    difference = describe_mismatch(deployment, EngineInfo(base_url="http://a", answers=answers))

    assert (difference is None) if says is None else says in str(difference)


OUT_OF_MEMORY = {"type": "http_5xx", "http_status": 500, "words": "out of memory", "share": 0.25}


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({}, Status.GOOD, None),
        ({"failed": 1}, Status.FAILED, "1 of 4 requests failed: http_5xx 1; the most frequent: out of memory"),
        ({"level": "INVALID"}, Status.INVALID, "too late"),
        ({"level": "INVALID", "completed": 0, "failed": 4}, Status.FAILED, "4 of 4 requests failed"),
        ({"passed": False}, Status.FAILED, "gates failed: ttft_s p95 0.7, required < 0.5"),
        ({"passed": False, "failed": 1}, Status.FAILED, "gates failed: ttft_s p95 0.7"),
    ],
)
def test_a_cells_status_follows_from_verdict_requests_and_gates(
    tmp_path: Path, changes: dict[str, Any], status: Status, reason: str | None
) -> None:
    failed = changes.get("failed", 0)
    summary = summary_of(
        requests={
            "started": 4,
            "completed": changes.get("completed", 3),
            "failed": failed,
            "errors": {"http_5xx": failed} if failed else {},
            "failures": [OUT_OF_MEMORY | {"count": failed}] if failed else [],
        },
        verdict={
            "level": changes.get("level", "VALID"),
            "reasons": [{"level": "INVALID", "text": "too late"}] if "level" in changes else [],
        },
        gates=[
            {
                "objective": "ttft_s p95 < 0.5",
                "passed": changes.get("passed", True),
                "text": "ttft_s p95 0.7, required < 0.5",
            }
        ],
    )
    write_json(tmp_path / "summary.json", summary)

    measured = judge_run(tmp_path)

    assert measured.status is status
    assert (measured.reason is None) if reason is None else reason in str(measured.reason)
    assert (measured.folder is None) is (changes.get("completed") == 0)


def test_files_of_a_suite_that_cannot_be_written_end_no_cell_and_are_named_once(
    plan: SuitePlan, caplog: pytest.LogCaptureFixture
) -> None:
    state, names = SuiteState(plan.folder), [cell.name for deployment in plan.deployments for cell in deployment.cells]

    for name in names:
        state.begin(name, "f")
        state.end(name, Status.FAILED, "no engine")
    write_outcome(read_outcome(plan, state, set(names)), plan.folder, state.faults)

    assert set(state.faults.unwritten) == {"state.json", "suite.json", "suite.md"}
    assert len(caplog.messages) == 3
    with pytest.raises(ConfigError, match=r"state\.json: cannot be written: No such file or directory; make room"):
        state.forget(set())
