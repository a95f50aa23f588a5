"""A summary is built from totals, scenario and what was watched, without any run, and read back as the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from benchmarks.tools.generated import PAGES, SCHEMAS, page_with_tables, schema_text
from llmload.cli.main import main
from llmload.errors import RunFolderError
from llmload.metrics.checks import health, judge
from llmload.metrics.totals import RunTotals
from llmload.record import (
    ErrorType,
    Outcome,
    RequestError,
    RequestRecord,
    Slo,
    StampSource,
    TokenSource,
    Window,
    stamps_of,
)
from llmload.runs.build_summary import RunOutcome, StageTotals, build_summary
from llmload.runs.folder import Manifest, RunFolder
from llmload.runs.summary import Summary
from llmload.scenario import Scenario
from llmload.units import NS_PER_S
from tests.run_files import manifest_of, scenario_of, summary_of, write_json

ROOT = Path(__file__).parents[2]
WINDOW_S = 30.0
ENERGY = summary_of(gpu_metrics={"samples": 1, "failed_reads": 0, "gpus": 1, "energy_j": 3_600_000.0}).gpu_metrics


def totals(answers: int = 10, failures: int = 0, *, started: int = 0) -> RunTotals:
    """An answer a second, each with 5 chunks 0.1 s apart, the first after 0.2 s, 10 tokens in, 5 out; then failures."""
    sums = RunTotals(started=started or answers + failures)
    for index in range(answers + failures):
        began_ns = index * NS_PER_S
        known: dict[str, Any] = {"outcome": Outcome.FAILED, "error": RequestError(type=ErrorType.RESET, message="")}
        if index < answers:
            gaps = [NS_PER_S // 5, *([NS_PER_S // 10] * 4)]
            known = {
                "outcome": Outcome.COMPLETED,
                "chunk_ns": stamps_of(began_ns, gaps),
                "prompt_tokens": 10,
                "output_tokens": 5,
                "token_source": TokenSource.USAGE,
                "stamp_source": StampSource.KERNEL,
                "finish_reason": "stop",
            }
        record = RequestRecord(
            request_id=str(index), prompt_id="p", started_ns=began_ns, done_ns=began_ns + 6 * NS_PER_S // 10, **known
        )
        sums.add(record, window=Window(start_ns=0), slo=Slo(ttft_s=0.5), run_start_ns=0)
    return sums


def outcome(of: RunTotals | None = None, **changes: Any) -> RunOutcome:
    of = totals() if of is None else of
    known = RunOutcome(
        run_id="r",
        scenario=scenario_of(
            deployment={"gpus": 2},
            cost={"currency": "EUR", "price_per_hour": 12.0},
            gates={"objectives": ["ttft_s p95 < 0.5", "error_share <= 0.01", "schedule_lag_s max < 1"]},
        ),
        simulated=False,
        totals=of,
        judged=of,
        window_s=WINDOW_S,
        window_started_unix_s=1_000.0,
        verdict=judge(health(of)),
    )
    return replace(known, **changes)


class TestBuilt:
    def test_figures_are_those_of_the_totals(self) -> None:
        summary = build_summary(outcome())

        assert (summary.requests.started, summary.requests.completed, summary.requests.failed) == (10, 10, 0)
        assert (summary.requests_per_min, summary.goodput_per_min, summary.error_share) == (20.0, 20.0, 0.0)
        assert (summary.prompt_tokens, summary.output_tokens) == (100, 50)
        assert summary.output_tokens_per_s == pytest.approx(50 / 30)
        assert summary.value("ttft_s", "p95") == pytest.approx(0.2, rel=0.003)
        assert summary.value("tpot_s", "mean") == pytest.approx(0.1)
        assert summary.value("e2e_s", "count") == 10
        assert (summary.schedule_lag_s, summary.value("schedule_lag_s", "mean")) == (None, None)
        assert (summary.token_source, summary.stamp_source, summary.finish_reasons) == ("usage", "kernel", {"stop": 10})
        assert summary.verdict.level == "VALID"

    def test_cost_and_gates_speak_of_the_same_figures_in_whatever_order_they_are_made(self) -> None:
        summary = build_summary(outcome(gpu_metrics=ENERGY))

        assert summary.cost is not None
        assert summary.cost.by_time is not None
        assert summary.cost.by_time.window == pytest.approx(0.1), "30 s at 12 an hour"
        assert summary.cost.by_time.per_1000_requests == pytest.approx(10.0)
        assert summary.cost.energy is not None
        assert summary.cost.energy.j_per_request == 360_000.0
        assert [(gate.passed, gate.figure is None) for gate in summary.gates] == [
            (True, False),
            (True, False),
            (False, True),
        ]

    def test_failures_are_in_their_shares_and_percentiles(self) -> None:
        summary = build_summary(outcome(totals(8, 2)))

        assert (summary.error_share, summary.requests.errors) == (0.2, {"reset": 2})
        assert summary.including_failures.ttft_s is not None
        assert summary.including_failures.ttft_s.p99 is None, "beyond all answers"
        assert summary.including_failures.ttft_s.p50 == pytest.approx(0.2, rel=0.003)
        assert [gate.passed for gate in summary.gates] == [True, False, False]

    def test_a_search_costs_what_the_step_that_it_found_cost(self) -> None:
        """The whole run answered more than the step, in a longer time than the step's window."""
        summary = build_summary(outcome(totals(40), judged=totals(10), gpu_metrics=ENERGY))

        assert summary.cost is not None
        assert summary.cost.by_time is not None
        assert summary.cost.by_time.per_1000_requests == pytest.approx(10.0)
        assert summary.cost.energy is not None
        assert summary.cost.energy.j_per_request == 90_000.0, "of the whole run"

    def test_stages_have_their_own_figures(self) -> None:
        stage = StageTotals(name="one", users=4, rate_per_s=None, totals=totals(5), window_s=10.0)
        summary = build_summary(outcome(stages=[stage]))

        (of,) = summary.stages
        assert (of.name, of.users, of.requests_per_min, of.value("ttft_s", "count")) == ("one", 4, 30.0, 5)

    def test_a_run_that_measured_nothing_has_a_summary_of_what_is_not_known(self) -> None:
        summary = build_summary(outcome(RunTotals(), window_s=None, window_started_unix_s=None))

        assert {summary.requests_per_min, summary.ttft_s, summary.error_share, summary.token_source} == {None}
        assert summary.requests.started == 0
        assert not any(gate.passed for gate in summary.gates)

    def test_a_recomputed_summary_does_not_know_what_was_dropped(self) -> None:
        summary = build_summary(outcome(recomputed="it crashed"))

        assert (summary.recomputed, summary.requests.dropped) == ("it crashed", None)


class TestFile:
    def test_what_is_written_is_read_as_the_same(self, tmp_path: Path) -> None:
        folder, summary, manifest = RunFolder(tmp_path), build_summary(outcome(totals(8, 2))), manifest_of()
        folder.write("summary.json", summary)
        folder.write("manifest.json", manifest)

        assert folder.summary() == summary
        assert folder.manifest() == manifest

    def test_a_key_that_means_nothing_to_the_run_is_absent_and_the_file_begins_with_what_was_run(self) -> None:
        content = build_summary(outcome()).model_dump(mode="json")

        assert not {"capacity", "recomputed"} & content.keys()
        assert list(content)[:3] == ["schema_version", "run_id", "scenario"]
        assert content["load"] == {
            "kind": "closed_loop",
            "users": 1,
            "requests": 3,
            "warmup_s": 0.0,
            "think_time_s": 0.0,
        }
        assert orjson.loads(orjson.dumps(content)) == json.loads(json.dumps(content))

    def test_nothing_changes_a_summary(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            summary_of().run_id = "other"

    @pytest.mark.parametrize("name", ["summary.json", "manifest.json"])
    @pytest.mark.parametrize(("version", "says"), [(2, "schema_version is 2"), (None, "schema_version is missing")])
    def test_another_schema_version_is_refused_with_both_versions(
        self, tmp_path: Path, name: str, version: int | None, says: str
    ) -> None:
        run = finished(tmp_path / "run")
        edit(run / name, schema_version=version)

        with pytest.raises(RunFolderError) as error:
            RunFolder(run).summary() if name == "summary.json" else RunFolder(run).manifest()

        assert f"{run / name}: {says}, and this llmload reads version 1" in str(error.value)

    def test_a_broken_value_is_named_by_file_and_key(self, tmp_path: Path) -> None:
        run = finished(tmp_path / "run")
        edit(run / "summary.json", window_s="long", requests={"started": 1}, surplus=1)

        with pytest.raises(RunFolderError) as error:
            RunFolder(run).summary()

        file, lines = run / "summary.json", str(error.value).splitlines()
        assert any(line.startswith(f"{file}: window_s: Input should be a valid number") for line in lines)
        assert f"{file}: requests.completed: Field required" in lines
        assert f"{file}: surplus: Extra inputs are not permitted, got 1" in lines


def finished(folder: Path) -> Path:
    folder.mkdir()
    write_json(folder / "summary.json", summary_of())
    write_json(folder / "manifest.json", manifest_of())
    (folder / "requests.jsonl").touch()
    return folder


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(
        json.dumps({key: value for key, value in content.items() if value is not None or key not in changes})
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("summary.json", ["report", "RUN"]),
        ("summary.json", ["report", "RUN", "--json"]),
        ("summary.json", ["report", "RUN", "--markdown"]),
        ("summary.json", ["report", "RUN", "--reference-tables"]),
        ("summary.json", ["report", "RUN", "--definitions", "vllm"]),
        ("summary.json", ["report", "RUN", "--junit", "OUT"]),
        ("summary.json", ["report", "RUN", "--html", "OUT"]),
        ("summary.json", ["compare", "RUN", "RUN"]),
        ("manifest.json", ["report", "RUN", "--html", "OUT"]),
        ("manifest.json", ["report", "RUN", "--csv", "OUT"]),
        ("manifest.json", ["report", "RUN", "--parquet", "OUT"]),
        ("manifest.json", ["report", "RUN", "--reference-tables"]),
        ("manifest.json", ["report", "RUN", "--definitions", "vllm"]),
        ("manifest.json", ["compare", "RUN", "RUN"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_every_verb_refuses_the_folder_of_another_llmload_in_one_line(
    tmp_path: Path, name: str, arguments: list[str]
) -> None:
    run = finished(tmp_path / "run")
    edit(run / name, schema_version=99)

    words = [{"RUN": str(run), "OUT": str(tmp_path / "out")}.get(word, word) for word in arguments]
    ended = CliRunner().invoke(main, words)

    assert ended.exit_code == 2, ended.output
    assert f"{run / name}: schema_version is 99, and this llmload reads version 1" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.name)
def test_the_schemas_that_are_shipped_are_the_models(file: Path) -> None:
    """`python -m benchmarks.tools.generated` writes them."""
    assert file.read_text(encoding="utf-8") == schema_text(SCHEMAS[file])


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_the_tables_of_the_pages_are_the_models(file: Path) -> None:
    """`python -m benchmarks.tools.generated` writes them."""
    assert file.read_text(encoding="utf-8") == page_with_tables(file)


@pytest.mark.parametrize("model", [Summary, Manifest])
def test_every_key_says_what_it_means(model: type[Summary | Manifest]) -> None:
    schema = model.model_json_schema()
    ours = {name: each for name, each in schema["$defs"].items() if each.get("additionalProperties") is False}
    parts = {"": schema} | {name: each for name, each in ours.items() if name not in SCENARIO}
    keys = [(part, key, each) for part, of in parts.items() for key, each in of["properties"].items()]

    silent = [f"{part}.{key}" for part, key, each in keys if "description" not in each]

    assert silent == []


SCENARIO = {"Scenario", *Scenario.model_json_schema()["$defs"]}
"""Tables of a scenario, which its own page describes."""


def test_counts_that_numpy_made_are_written_as_numbers() -> None:
    sums = totals()
    sums.distributions["itl_s"].add_many(np.array([0.1, 0.2]))

    assert b'"count":' in orjson.dumps(build_summary(outcome(sums)).model_dump(mode="json"))
