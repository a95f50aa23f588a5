"""What a run shows at its end: its conclusion in a sentence, a row a stage, and no figure shortened."""

from typing import Any

import pytest

from llmload.report.conclusion import conclusion
from llmload.report.terminal import console, run_report
from tests.run_files import summary_of

VALID: dict[str, Any] = {"level": "VALID", "reasons": []}
INVALID = VALID | {"level": "INVALID"}
FEW = {"figure": "ttft_s", "statistic": "p95", "check": "few_values", "text": "few", "low": None, "high": None}
USERS = {"kind": "closed_loop", "users": 8, "duration_s": 60}
STAGED = {"kind": "staged", "stages": [{"users": 2, "duration_s": 9}, {"users": 1000, "duration_s": 9}]}
MEASURED: dict[str, Any] = {"load": USERS, "requests_per_min": 774.4, "ttft_s": {"p95": 0.0663}, "verdict": VALID}
STAGES = [
    {"name": "stage-1", "users": 2, "requests_per_min": 283.7, "ttft_s": {"p50": 0.1, "p95": 0.2}, "window_s": 9},
    {
        "name": "stage-2",
        "users": 1000,
        "requests_per_min": 123_456.7,
        "output_tokens_per_s": 1_234_567.8,
        "request_output_tokens_per_s": {"mean": 1234.5},
        "ttft_s": {"p50": 5.081, "p95": 12.345},
        "tpot_s": {"p50": 12.345},
        "error_share": 0.125,
        "doubts": [FEW],
    },
]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "8 users: 774 requests/min, TTFT p95 66.3 ms; VALID"),
        ({"verdict": VALID | {"doubts": [FEW]}}, "8 users: 774 requests/min, TTFT p95 66.3~ ms; VALID"),
        (
            {"protocol": "speed", "request_output_tokens_per_s": {"mean": 52.77}},
            "8 users: 52.8 output tokens/s a request, TTFT p95 66.3 ms; VALID",
        ),
        (
            {"requests": {"completed": 9, "failed": 1}},
            "8 users: 774 requests/min, TTFT p95 66.3 ms, 10.0% failed; VALID",
        ),
        (
            {"requests_per_min": 0.0, "ttft_s": None, "requests": {"failed": 1941}, "verdict": INVALID},
            "8 users: no answer, all 1,941 requests failed; INVALID",
        ),
        ({"requests_per_min": None, "verdict": INVALID}, "8 users: nothing measured; INVALID"),
        (
            {"load": STAGED, "stages": STAGES},
            "2 stages, most answers at 1,000 users: 123,457 requests/min, TTFT p95 12,345~ ms; VALID",
        ),
    ],
)
def test_a_run_is_concluded_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert conclusion(summary_of(**MEASURED | changes)) == sentence


def test_an_empty_run_has_no_tables_of_nothing() -> None:
    shown = printed(summary_of(load=USERS, verdict=INVALID))

    assert "latency, ms" not in shown
    assert shown.splitlines()[-1] == "8 users: nothing measured; INVALID"


def test_a_stage_is_a_row_in_which_no_figure_is_shortened_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")

    shown = printed(summary_of(**MEASURED | {"load": STAGED, "stages": STAGES}))

    assert "…" not in shown
    row = next(line for line in shown.splitlines() if line.startswith("stage-2"))
    assert row.split() == [
        *("stage-2", "1,000", "users", "123,456.7", "1,234,567.8", "1,234.5", "5,081", "12,345~", "12,345", "12.5%")
    ]


def test_in_a_pipe_a_line_is_as_long_as_its_text() -> None:
    text = "very " * 60 + "long"
    shown = printed(summary_of(**MEASURED | {"requests": {"failures": [failure(text)]}}))

    assert text in shown
    assert not [line for line in shown.splitlines() if line.endswith(" ")]


def test_requested_lengths_are_beside_the_counted_ones() -> None:
    kept = {"requests": 8, "asked_mean": 64.0, "counted_mean": 63.5, "deviation_max": 3, "exact_share": 0.75}
    lengths = {"input": {**kept, "missed_share": 0.01}, "output": None, "template": "counted"}
    shown = printed(summary_of(**MEASURED | {"lengths": lengths}))

    (row,) = (line for line in shown.splitlines() if line.startswith("input lengths"))
    assert row.endswith("64.0 tokens requested, 63.5 counted (mean), exact in 75.0%, at most 3 off")
    assert "output lengths" not in shown


def test_names_have_their_own_lengths_where_there_are_several() -> None:
    kept = {"requests": 8, "asked_mean": 64.0, "counted_mean": 64.0, "deviation_max": 0, "exact_share": 1.0}
    each = {**kept, "missed_share": 0.0}
    lengths = {"input": each, "output": {**each, "asked_mean": 8.0}, "template": "counted"}
    counts = {"completed": 8, "failed": 0, "censored": 0, "errors": {}}
    names = [{"name": name, "lengths": lengths, **counts} for name in ("chat", "summary")]
    several, one = (printed(summary_of(**MEASURED | {"lengths": lengths, "by_name": of})) for of in (names, names[:1]))

    (row,) = (line for line in several.splitlines() if line.startswith("summary: lengths"))
    assert "input 64.0 tokens requested, 64.0 counted (mean), exact in 100.0%; output 8.0 tokens requested" in row
    assert ": lengths" not in one


def failure(words: str) -> dict[str, Any]:
    return {"type": "http_5xx", "http_status": 500, "words": words, "count": 1, "share": 0.1}


def printed(summary: Any) -> str:
    """What is printed into a pipe."""
    pipe = console()
    with pipe.capture() as captured:
        pipe.print(run_report(summary))
    return captured.get()
