"""`llmload compare` on run folders: what it says, what it refuses, and the code it ends with."""

import json
import operator
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from benchmarks.tools.virtual_engine import Load, Noise
from benchmarks.tools.virtual_runs import System, write_run
from llmload.cli.main import main
from llmload.compare.runs import SAME

QUIET = System(noise=Noise(wander=0.001, stalls_per_s=0.0))
RUNS = {
    "base": QUIET,
    "same": QUIET,
    "slower": QUIET.slower("all", 0.1),
    "unsteady": System(noise=Noise(wander=0.04)),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = tmp_path_factory.mktemp("runs")
    for seed, (name, system) in enumerate(RUNS.items()):
        write_run(index / name, system, Load(duration_s=65, users=8), seed)
    return index


@pytest.fixture
def runs(measured: Path, tmp_path: Path) -> Path:
    """Copies, for tests that change them."""
    return Path(shutil.copytree(measured, tmp_path / "runs"))


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, arguments)])


def as_json(*arguments: object) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(compare(*arguments, "--json").stdout)
    return loaded


def outcomes(*arguments: object) -> dict[str, str]:
    return {found["metric"]: found["outcome"] for found in as_json(*arguments)["metrics"]}


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("candidate", "outcome", "code"), [("same", "PASS", 0), ("slower", "FAIL", 1), ("unsteady", "INCONCLUSIVE", 4)]
)
def test_the_outcome_is_the_exit_code(measured: Path, candidate: str, outcome: str, code: int) -> None:
    result = compare(measured / "base", measured / candidate)

    assert result.exit_code == code, result.output
    assert f"\n{outcome}  " in result.output
    assert "paired by prompt" in result.output
    assert "simulated engine: figures of llmload's own simulation" in result.output


def test_a_tenth_slower_is_reported_as_a_tenth(measured: Path) -> None:
    found = {each["metric"]: each for each in as_json(measured / "base", measured / "slower")["metrics"]}

    for name in ("ttft_s mean", "tpot_s mean", "tpot_s p50", "e2e_s mean"):
        assert found[name]["change"] == pytest.approx(0.1, abs=0.01), name
        assert found[name]["outcome"] == "FAIL", name
    assert found["output_tokens_per_s"]["change"] == pytest.approx(1 / 1.1 - 1, abs=0.01)


def test_figures_are_those_of_the_summaries(measured: Path) -> None:
    summary = json.loads((measured / "base" / "summary.json").read_text())

    for found in as_json(measured / "base", measured / "same")["metrics"]:
        figure, _, statistic = found["metric"].partition(" ")
        expected = summary[figure][statistic] if statistic else summary[figure]
        assert found["base"] == pytest.approx(expected, rel=0.003), found["metric"]


CHANGED: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "model": ("summary.json", lambda s: s.update(model="other")),
    "data": ("manifest.json", lambda m: m["prompts"].update(sha256="0")),
    "prompts": ("manifest.json", lambda m: m["prompts"]["drawn"].reverse()),
    "lengths": ("manifest.json", lambda m: m["scenario"]["prompts"].update(template="excluded")),
    "mix": ("manifest.json", lambda m: m["scenario"].update(mix=[{"name": "short"}])),
    "sampling": ("manifest.json", lambda m: m["scenario"]["request"].update(temperature=0.7)),
    "max_tokens": ("manifest.json", lambda m: m["scenario"]["request"].update(max_tokens=32)),
    "load": ("summary.json", lambda s: s["load"].update(users=9)),
    "gpu": ("manifest.json", lambda m: m["scenario"]["deployment"].update(gpu="H100")),
    "tensor_parallel": ("manifest.json", lambda m: m["scenario"]["deployment"].update(tensor_parallel=2)),
    "precision": ("manifest.json", lambda m: m["scenario"]["deployment"].update(precision="fp8")),
    "replicas": ("manifest.json", lambda m: m["scenario"]["engine"]["base_url"].append("http://127.0.0.1:2")),
    "api": ("manifest.json", lambda m: m["scenario"]["engine"].update(api="tgi-generate")),
    "client": ("manifest.json", lambda m: m["scenario"]["client"].update(kind="openai")),
    "stamps": ("summary.json", lambda s: s.update(stamp_source="user")),
    "tokens": ("summary.json", lambda s: s.update(token_source="chunks")),
    "metrics": ("manifest.json", lambda m: m.update(metrics_version=99)),
    "simulated": ("manifest.json", lambda m: m.update(simulated=False)),
}


def test_every_key_of_comparability_is_tried() -> None:
    assert CHANGED.keys() == SAME.keys()


@pytest.mark.parametrize("key", CHANGED)
def test_runs_that_measured_different_things_are_refused_by_name_unless_allowed(runs: Path, key: str) -> None:
    file, change = CHANGED[key]
    edit(runs / "same" / file, change)

    refused, allowed = (compare(runs / "base", runs / "same", *more) for more in ((), ("--allow", key)))

    assert refused.exit_code == 2
    assert f"{key}: " in refused.stderr
    assert f"(--allow {key})" in refused.stderr
    assert refused.stdout == ""
    assert allowed.exit_code in {0, 4}
    assert f"note       {key}: " in allowed.stdout


def test_runs_with_other_prompts_are_compared_unpaired(runs: Path) -> None:
    edit(runs / "same" / "manifest.json", CHANGED["prompts"][1])

    assert as_json(runs / "base", runs / "same", "--allow", "prompts")["paired_by_prompt"] is False


def test_an_invalid_run_is_refused_and_a_degraded_one_is_named(runs: Path) -> None:
    for name, level in (("same", "INVALID"), ("slower", "DEGRADED")):
        reason = {"check": "c", "level": level, "figure": 1, "limit": 0, "text": "it went wrong"}
        verdict = {"level": level, "reasons": [reason]}
        edit(runs / name / "summary.json", operator.methodcaller("update", verdict=verdict))

    refused, allowed = (compare(runs / "base", runs / "same", *more) for more in ((), ("--allow", "invalid")))
    degraded = compare(runs / "base", runs / "slower")

    assert (refused.exit_code, allowed.exit_code, degraded.exit_code) == (2, 0, 1)
    assert "same is INVALID: it went wrong (--allow invalid)" in refused.stderr
    assert "note       slower is DEGRADED: it went wrong" in degraded.stdout


def test_a_figure_in_doubt_is_named_unless_it_is_of_few_values(runs: Path) -> None:
    doubt = {"figure": "itl_s", "statistic": "p99", "text": "why", "low": 0.01, "high": 0.02}
    doubts = [doubt | {"check": check} for check in ("coalesced_share", "few_values")]
    verdict = {"level": "VALID", "reasons": [], "doubts": doubts}
    edit(runs / "same" / "summary.json", operator.methodcaller("update", verdict=verdict))

    result = compare(runs / "base", runs / "same")

    assert "note       same: ~ ITL p99 between 10.00 and 20.00 ms: why" in result.stdout
    assert "few values" not in result.stdout


def test_a_capacity_search_is_refused(runs: Path) -> None:
    edit(runs / "same" / "summary.json", lambda s: s.update(load={"kind": "capacity"}))

    result = compare(runs / "base", runs / "same")

    assert result.exit_code == 2
    assert "load: same is a search over users, so its figures are of one of many loads" in result.stderr


def test_another_engine_or_version_is_stated_but_not_within_one_side(runs: Path) -> None:
    edit(runs / "same" / "manifest.json", lambda m: m["engine"].update(version="2.0"))

    across = compare(runs / "base", runs / "same")
    within = compare(runs / "base", runs / "same", "--to", runs / "slower")

    assert across.exit_code == 0
    assert "engine: simulated engine virtual against simulated engine 2.0" in across.stdout
    assert within.exit_code == 2
    assert "(--allow engine)" in within.stderr


def test_several_runs_a_side_are_given_around_to_or_as_a_folder_of_runs(runs: Path) -> None:
    (runs / "group").mkdir()
    for name in ("base", "same"):
        shutil.copytree(runs / name, runs / "group" / name)

    listed = as_json(runs / "base", runs / "same", "--to", runs / "slower")
    grouped = as_json(runs / "group", runs / "slower")

    assert len(listed["base"]) == len(grouped["base"]) == 2
    assert listed["noise_between_runs_known"] is True
    assert listed["metrics"] == grouped["metrics"]


@pytest.mark.parametrize("arguments", [("base",), ("base", "same", "slower"), ("base", "--to"), ("--to", "base")])
def test_sides_that_are_not_separated_are_wrong_use(measured: Path, arguments: tuple[str, ...]) -> None:
    paths = [word if word == "--to" else str(measured / word) for word in arguments]

    result = compare(*paths)

    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_thresholds_come_from_the_candidate_the_file_and_the_command_line_in_this_order(runs: Path) -> None:
    def limits(*more: str) -> tuple[float, float, float]:
        found = {
            each["metric"]: each["threshold"] for each in as_json(runs / "base", runs / "slower", *more)["metrics"]
        }
        return found["ttft_s p50"], found["ttft_s mean"], found["tpot_s mean"]

    table = {"thresholds": {"ttft_s p50": 0.5, "ttft_s": 0.3}, "only": [], "allow": []}
    edit(runs / "slower" / "manifest.json", lambda m: m["scenario"].update(compare=table))
    (runs / "a.toml").write_text('[tool.llmload.compare]\nthresholds = { "ttft_s.mean" = "20%", all = 0.25 }\n')
    file = ("--config", str(runs / "a.toml"))

    assert limits() == (0.5, 0.3, 0.02)
    assert limits(*file) == (0.25, 0.2, 0.25)
    assert limits(*file, "--threshold", "tpot_s=1%") == (0.25, 0.2, 0.01)
    result = compare(runs / "base", runs / "slower", "--threshold", "all=30%")
    assert result.exit_code == 0, result.output


def test_only_the_named_metrics_are_judged(measured: Path) -> None:
    judged = outcomes(measured / "base", measured / "slower", "--only", "error_share", "--only", "tpot_s")

    assert set(judged) == {"error_share", "tpot_s mean", "tpot_s p50", "tpot_s p99"}


def test_a_named_percentile_that_cannot_be_judged_is_inconclusive(measured: Path) -> None:
    found = [
        outcomes(measured / "base", measured / "same", *more)["e2e_s p99"]
        for more in ((), ("--threshold", "e2e_s.p99=5%"))
    ]

    assert found == ["not judged", "INCONCLUSIVE"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--threshold", "ttft_s.p95"), "--threshold ttft_s.p95: is not METRIC=SHARE"),
        (("--threshold", "ttft_p95=5%"), "--threshold ttft_p95: no metric is called ttft_p95"),
        (("--threshold", "tpot_s=much"), "an accepted worsening looks like 5% or 0.05"),
        (("--threshold", "tpot_s=-1%"), "an accepted worsening looks like 5% or 0.05"),
        (("--only", "speed"), "--only speed: no metric is called speed"),
        (("--allow", "all"), "--allow all: no such key; known: model, data, prompts"),
        (("--config", "nowhere.toml"), "nowhere.toml: no such configuration file"),
        (("--config", "."), ".: is a directory, not a configuration file"),
        (("--threshold", "ttft_s=nan"), "an accepted worsening looks like 5% or 0.05"),
        (("--threshold", "ttft_s=inf"), "an accepted worsening looks like 5% or 0.05"),
        (("--threshold", "ttft_s=1e999%"), "an accepted worsening looks like 5% or 0.05"),
        (("--config", "pyproject.toml"), "has neither a table [compare] nor [tool.llmload.compare]"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(measured: Path, arguments: tuple[str, ...], complaint: str) -> None:
    result = compare(measured / "base", measured / "same", *arguments)

    assert result.exit_code == 2
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_wrong_table_names_file_key_and_value(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[compare]\nthresholds = { "ttft_s.p96" = 0.1 }\nallows = []\n')

    result = compare(measured / "base", measured / "same", "--config", tmp_path / "c.toml")

    assert result.exit_code == 2
    assert "c.toml: compare.thresholds: no metric is called ttft_s.p96; did you mean ttft_s p" in result.stderr
    assert "c.toml: compare.allows: " in result.stderr


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"compare = 1", "compare: input should be a valid dictionary"),
        (b"tool = 1", "has neither a table [compare] nor [tool.llmload.compare]"),
        (b"tool.llmload = [1]", "has neither a table [compare] nor [tool.llmload.compare]"),
        (b"tool.llmload.compare.only = 1", "compare.only: input should be a valid list"),
        (b"[compare]\nthresholds = { all = nan }", "compare.thresholds: "),
        (b"[compare]\nthresholds = { all = inf }", "compare.thresholds: "),
        (b"[compare]\nthresholds = { all = -1 }", "compare.thresholds: "),
        (b"[compare]\nthresholds = { all = '\xff' }", "is not UTF-8 text (line 2"),
        (b"[compare]\nonly = " + b"[" * 5000 + b"]" * 5000, "nested more than 32 deep"),
        (b"[compare" + b".a" * 5000 + b"]", "nested more than 32 deep"),
        (b"[compare]\nonly = " + b"9" * 5000, "has an integer of more than 4300 digits"),
        (b"[compare]\n" + b"#" * 300_000, "is larger than 256 KiB"),
        ("[compare]\nonly = []".encode("utf-16"), "UTF-16"),
        (b"[compare", "is not TOML"),
    ],
)
def test_a_configuration_of_any_content_is_refused_in_one_line(
    measured: Path, tmp_path: Path, content: bytes, complaint: str
) -> None:
    (tmp_path / "c.toml").write_bytes(content)

    result = compare(measured / "base", measured / "same", "--config", tmp_path / "c.toml")

    assert result.exit_code == 2
    assert result.stderr.startswith(f"llmload: {tmp_path / 'c.toml'}: ")
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("file", ["summary.json", "manifest.json"])
def test_a_folder_without_a_finished_run_is_refused(runs: Path, file: str) -> None:
    (runs / "same" / file).unlink()

    result = compare(runs / "base", runs / "same")

    assert result.exit_code == 2
    assert "runs/same" in result.stderr


def test_a_run_with_an_unknown_window_is_refused(runs: Path) -> None:
    edit(runs / "same" / "summary.json", lambda s: s.update(window_started_unix_s=None))

    result = compare(runs / "base", runs / "same")

    assert result.exit_code == 2
    assert "window_started_unix_s is null" in result.stderr


def test_junit_and_markdown_are_written_for_ci_systems(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    xml, page = tmp_path / "compare.xml", tmp_path / "summary.md"
    page.write_text("what an earlier step wrote\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))

    result = compare(measured / "base", measured / "slower", "--junit", xml, "--markdown", page)

    assert result.exit_code == 1
    (suite,) = ET.fromstring(xml.read_text())  # noqa: S314 - our own file
    cases = {case.get("name"): case for case in suite}
    assert suite.get("name") == "compare"
    assert int(suite.get("failures") or 0) == sum(case.find("failure") is not None for case in suite) > 3
    failure = cases["tpot_s mean"].find("failure")
    assert failure is not None
    assert (failure.get("message") or "").startswith("TPOT mean: ")
    assert cases["tpot_s p99"].find("skipped") is not None
    text = page.read_text()
    assert text.startswith("what an earlier step wrote\n## llmload compare: FAIL\n")
    assert "| TPOT mean, ms | " in text
    assert "| **FAIL** |" in text
