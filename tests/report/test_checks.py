"""Checks and gates of summaries: what fails, what fails a pipeline, and how a CI system shows it."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from llmload.errors import ConfigError, RunFolderError
from llmload.report.checks import Check, Judgement, Suite, exit_code_of, failed, run_checks, run_suite, write_junit
from llmload.report.markdown import as_markdown, job_summary, write_page
from llmload.report.terminal import console, run_report
from llmload.runs.build_summary import judge_gates
from llmload.runs.summary import Summary
from llmload.scenario import load_scenario
from llmload.scenario.sections import Gates
from llmload.units import escaped
from tests.run_files import manifest_of, summary_of

JUNIT_10 = {
    "testsuites": {"name", "time", "tests", "failures", "disabled", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id"},
    "testcase": {"name", "assertions", "time", "classname", "status"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "system-out": set(),
}
"""Elements and attributes of the schema that Jenkins published as junit-10.xsd."""
LATENCY = {"mean": 0.2, "p50": 0.2, "p90": 0.3, "p95": 0.4, "p99": 0.5, "max": 0.6, "count": 100}


def summary(*objectives: str, **changes: Any) -> Summary:
    content = summary_of(
        **{
            "run_id": "20260101-s",
            "model": "m|n",
            "load": {"kind": "closed_loop", "users": 1, "requests": 100},
            "requests": {"started": 100, "completed": 100},
            "window_s": 60.0,
            "requests_per_min": 100.0,
            "error_share": 0.0,
            "goodput_share": 0.9,
            "output_tokens_per_s": 50.0,
            "request_output_tokens_per_s": {**LATENCY, "mean": 40.0},
            "ttft_s": LATENCY,
            "tpot_s": LATENCY,
            "e2e_s": LATENCY,
        }
        | changes
    )
    gates = judge_gates(Gates(objectives=list(objectives)).parsed(), content, content.verdict.doubts)
    return content.model_copy(update={"gates": gates})


def test_what_is_in_doubt_is_marked_in_terminal_job_summary_table_and_junit(tmp_path: Path) -> None:
    few = {"figure": "ttft_s", "statistic": "p95", "check": "few_values", "text": "p95 of 100 values needs 400"}
    shared = {"figure": "itl_s", "statistic": "p99", "check": "coalesced_share", "text": "chunks share a stamp"}
    doubts = [few | {"low": 0.3, "high": None}, shared | {"low": 0.1, "high": 0.7}]
    doubtful = summary("ttft_s p95 < 0.5", itl_s=LATENCY, verdict={"level": "VALID", "reasons": [], "doubts": doubts})
    screen = console()
    with screen.capture() as shown:
        screen.print(run_report(doubtful))
    lines = ["~ TTFT: few values: p95 needs 400", "~ ITL p99 between 100.0 and 700.0 ms: chunks share a stamp"]

    write_junit(tmp_path / "junit.xml", [run_suite("s", doubtful, None)])
    texts = {
        "terminal": shown.get(),
        "job": job_summary(doubtful),
        "table": as_markdown([doubtful]),
        "junit": (tmp_path / "junit.xml").read_text(),
    }

    for name, text in texts.items():
        assert [line for line in lines if line not in text] == [], name
        if name != "junit":
            assert (text.count("400.0~"), text.count("500.0~")) == (1, 1), name
    gate = "ttft_s p95 0.4, required < 0.5; in doubt, at least 300.0 ms: p95 of 100 values needs 400"
    assert [each.text for each in run_checks(doubtful)][-1] == gate


def test_a_job_summary_has_cost_and_cached_tokens() -> None:
    by_time = {"per_hour": 10.0, "window": 0.1, "per_1000_requests": 10.0, "per_million_output_tokens": None}
    cost = {"currency": "EUR", "by_time": by_time, "by_tokens": None, "energy": None}
    page = job_summary(summary(cost=cost, cached_token_share=0.25, prompt_salt="run"))

    assert "| cost by time | 10 EUR per 1,000 requests, n/a per million output tokens at 10.00 an hour |" in page
    assert "| prefix cache | 25.0% of prompt tokens by the answers, n/a by the engine's metrics |" in page
    assert "one salt per run |" in page


ONE_FAILED = {"requests": {"started": 100, "completed": 99, "failed": 1, "censored": 0, "errors": {"reset": 1}}}


@pytest.mark.parametrize(
    ("judged", "fails"),
    [
        (summary(), False),
        (summary("ttft_s p95 < 0.5", "requests_per_min >= 100"), False),
        (summary("ttft_s p95 < 0.4"), True),
        (summary("ttft_s p95 < 0.5", "goodput_share >= 0.95"), True),
        (summary("itl_s p99 < 9"), True),
        (summary(**ONE_FAILED, error_share=0.01), True),
        (summary("error_share <= 0.01", **ONE_FAILED, error_share=0.01), False),
        (summary("error_share < 0.01", **ONE_FAILED, error_share=0.01), True),
        (summary("ttft_s p95 < 0.5", **ONE_FAILED, error_share=0.01), True),
    ],
    ids=lambda value: "; ".join(gate.objective for gate in value.gates) if isinstance(value, Summary) else str(value),
)
def test_a_failed_gate_or_a_failed_request_without_a_gate_fails_a_run(judged: Summary, fails: bool) -> None:
    assert failed(judged) is fails


def test_a_gate_on_an_unmeasured_figure_fails() -> None:
    (gate,) = summary("itl_s p99 < 9").gates

    assert gate.model_dump() == {
        "objective": "itl_s p99 < 9",
        "figure": None,
        "passed": False,
        "text": "itl_s p99 not measured, required < 9",
    }


def test_checks_are_the_measurement_the_requests_and_each_gate() -> None:
    verdict = {"level": "INVALID", "reasons": [{"level": "INVALID", "text": "cut"}]}

    checks = run_checks(summary("ttft_s p95 < 0.4", "error_share <= 1", verdict=verdict, **ONE_FAILED))

    assert [(check.name, check.judgement.value) for check in checks] == [
        ("measurement", "undecided"),
        ("requests", "passed"),
        ("ttft_s p95 < 0.4", "failed"),
        ("error_share <= 1", "passed"),
    ]
    assert (checks[0].text, checks[1].text) == ("INVALID: cut", "1 of 100 failed: reset 1")


def test_terminal_junit_and_markdown_name_the_failures_in_the_engines_words() -> None:
    words = "[red]gone | *away*"
    known = {"type": "http_5xx", "http_status": 503, "words": words, "count": 3, "share": 0.03}
    silent = known | {"http_status": 502, "words": "", "count": 1, "share": 0.01}
    whole = summary(requests={"started": 100, "completed": 96, "failed": 4, "failures": [known, silent]})

    assert [check.text for check in run_checks(whole) if check.name == "requests"] == [
        f"4 of 100 failed; 3 (3.0%) http_5xx (503): {words}; 1 (1.0%) http_5xx (502): Bad Gateway, without words"
    ]
    shown = console()
    with shown.capture() as capture:
        shown.print(run_report(whole))
    text = " ".join(capture.get().split())
    assert f"http_5xx (503) 3 3.0% {words} http_5xx (502) 1 1.0% Bad Gateway, without words" in text
    assert f"failed requests: {escaped(f'3 (3.0%) http_5xx (503): {words}')}" in as_markdown([whole])


def test_junit_follows_the_schema_of_ci_systems(tmp_path: Path) -> None:
    file = tmp_path / "out.xml"
    checks = [Check(name=f"a < {kind}", judgement=kind, text='<&"> é') for kind in Judgement]

    write_junit(file, [Suite(name="one", checks=checks), Suite(name="two", checks=checks[:1])])

    root = ET.fromstring(file.read_bytes())  # noqa: S314 - our own file
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.keys()) <= JUNIT_10[element.tag], element.tag
    one, two = root
    assert {name: one.get(name) for name in ("name", "tests", "failures", "errors", "skipped")} == {
        "name": "one",
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    assert [[child.tag for child in case] for case in one] == [["system-out"], ["failure"], ["error"], ["skipped"]]
    assert one[1][0].get("message") == '<&"> é'
    assert two.get("tests") == "1"


def test_junit_says_what_was_run_when_how_long_and_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "out.xml"
    manifest = manifest_of(ended_unix_s=76.5, seed=7, command=["locust", "--set", "a=b c"])

    write_junit(file, [run_suite("run", summary("ttft_s p95 < 0.5"), manifest)])

    (suite,) = ET.fromstring(file.read_bytes())  # noqa: S314 - our own file
    assert (suite.get("timestamp"), float(suite.get("time", "0"))) == ("1970-01-01T00:00:01", 75.5)
    assert [float(case.get("time", "-1")) for case in suite.iter("testcase")] == [75.5, 0, 0]
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties | {"seed": "7", "command": "locust --set 'a=b c'", "ttft_s p95": "0.4"} == properties
    assert properties["conclusion"] == "1 user: 100 requests/min, TTFT p95 400 ms; VALID"
    assert "engine_version" not in properties, "it is not known"


def test_the_page_names_failures_and_escapes_its_cells() -> None:
    page = job_summary(summary("ttft_s p95 < 0.4", "requests_per_min >= 30"))

    assert page.startswith("## llmload s: failed\n\nm|n on vLLM, 1 user in a closed loop.\n")
    assert "| **FAILED** | `ttft_s p95 < 0.4` | ttft_s p95 0.4, required < 0.4 |" in page
    assert "| passed | `requests_per_min >= 30` | requests_per_min 100, required >= 30 |" in page
    assert "| ITL | n/a | n/a |" in page
    assert "| TTFT | 200.0 | 200.0 | 300.0 | 400.0 | 500.0 | 600.0 |" in page


@pytest.mark.parametrize("write", [lambda file: write_page(file, "x"), lambda file: write_junit(file, [])])
def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, write: Any) -> None:
    with pytest.raises(RunFolderError, match=r"none/x: cannot be written: No such file or directory"):
        write(tmp_path / "none" / "x")


@pytest.mark.parametrize(
    ("objectives", "complaint"),
    [
        ('["ttft_s p96 < 1"]', "gates.objectives.0: ttft_s is a distribution and has no p96"),
        ('["ttft_s p95 < 1", "ttft_s p95 < 1.0"]', "gates: duplicate objective ttft_s p95 < 1"),
        ('"ttft_s p95 < 1"', "gates.objectives: input should be a valid list"),
    ],
)
def test_an_invalid_gate_is_named_before_the_run(tmp_path: Path, objectives: str, complaint: str) -> None:
    file = tmp_path / "s.toml"
    file.write_text(
        f"""
scenario = {{ name = "s" }}
engine = {{ name = "vllm", base_url = "http://127.0.0.1:8000" }}
model = {{ name = "m" }}
load = {{ kind = "closed_loop", users = 1, requests = 1 }}
gates = {{ objectives = {objectives} }}
"""
    )

    with pytest.raises(ConfigError) as error:
        load_scenario(file)

    assert f"{file}: {complaint}" in str(error.value)


CUT = {"started": 100, "completed": 96, "censored": 4}
OTHERS_FAILED = {"requests": 5, "failed": 1, "exceptions": 0, "most_frequent": []}
OPEN_FILE = {"check": "unwritten_files", "level": "DEGRADED", "text": "users.csv was not written"}


@pytest.mark.parametrize(
    ("changes", "objectives", "code"),
    [
        ({}, (), 0),
        (ONE_FAILED, (), 7),
        (ONE_FAILED, ("error_share < 0.5",), 0),
        ({"other_users": OTHERS_FAILED}, (), 7),
        ({"requests": CUT}, (), 1),
        (ONE_FAILED, ("ttft_s p95 < 0.1",), 1),
        ({"verdict": {"level": "DEGRADED", "reasons": [OPEN_FILE]}}, (), 1),
        (ONE_FAILED | {"verdict": {"level": "INVALID", "reasons": []}}, (), 3),
    ],
    ids=["good", "failed", "failed-as-gated", "others", "cut", "gate", "unwritten", "invalid"],
)
def test_locusts_exit_code_on_error_is_for_requests_that_failed_alone(
    changes: dict[str, Any], objectives: tuple[str, ...], code: int
) -> None:
    assert exit_code_of(summary(*objectives, **changes), on_error=7) == code


def test_requests_that_were_cut_fail_a_pipeline() -> None:
    cut = summary(requests=CUT)

    assert failed(cut)
    assert [check.judgement for check in run_checks(cut) if check.name == "requests"] == [Judgement.FAILED]
