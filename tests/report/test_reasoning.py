"""Reasoning in totals, verdict, summary, objectives and tables: shown where there is some, and nowhere else."""

from typing import Any

import numpy as np
import pytest

from llmload.capacity.evidence import measured
from llmload.metrics.checks import health, judge
from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Verdict
from llmload.record import Outcome, ReasoningSource, RequestRecord, Slo, TokenSource, Window
from llmload.report.markdown import as_markdown, job_summary
from llmload.report.terminal import console, run_report
from llmload.runs.build_summary import RunOutcome, build_summary
from llmload.runs.summary import Summary
from tests.run_files import scenario_of

MS = 1_000_000
THINKS: dict[str, Any] = {
    "reasoning_chunks": 2,
    "reasoning_tokens": 2,
    "reasoning_source": ReasoningSource.USAGE,
    "first_answer_ns": 300 * MS,
}
HIDDEN = {"reasoning_tokens": 2, "reasoning_source": ReasoningSource.USAGE}
ONLY = {**THINKS, "reasoning_chunks": 5, "first_answer_ns": None}


def totals_of(*kinds: dict[str, Any]) -> RunTotals:
    totals = RunTotals()
    for kind in kinds:
        record = RequestRecord(
            request_id="r",
            prompt_id="p",
            started_ns=0,
            done_ns=500 * MS,
            outcome=Outcome.COMPLETED,
            chunk_ns=np.array([100, 200, 300, 340, 380], dtype=np.int64) * MS,
            prompt_tokens=10,
            output_tokens=5,
            token_source=TokenSource.USAGE,
            finish_reason="stop",
            **kind,
        )
        totals.started += 1
        totals.add(record, window=Window(start_ns=0), slo=Slo(ttfa_s=0.2), run_start_ns=0)
    return totals


def summary_of(totals: RunTotals, **tables: Any) -> Summary:
    return build_summary(
        RunOutcome(
            run_id="r",
            scenario=scenario_of(**tables),
            simulated=False,
            totals=totals,
            judged=totals,
            window_s=10.0,
            window_started_unix_s=1.0,
            verdict=Verdict.of(),
        )
    )


def shown(summary: Summary) -> list[str]:
    terminal = console()
    with terminal.capture() as captured:
        terminal.print(run_report(summary))
    return [captured.get(), as_markdown([summary]), job_summary(summary)]


def test_an_ordinary_run_has_no_row_of_it_and_an_objective_on_the_first_answer_is_one_on_ttft() -> None:
    totals = totals_of({}, {})
    summary = summary_of(totals, gates={"objectives": ["ttfa_s p95 < 0.2"]})

    assert summary.reasoning is None
    assert not {"reasoning", "lengths"} & summary.model_dump().keys()
    assert all(word not in page for page in shown(summary) for word in ("first answer", "thinking", "of the answer"))
    assert [gate.passed for gate in summary.gates] == [True]
    assert totals.good == 2
    assert not any(doubt.figure == "ttfa_s" for doubt in judge(health(totals), totals=totals).doubts)


def test_a_run_with_reasoning_shows_it_everywhere_and_answers_without_count_by_their_ttft() -> None:
    totals = totals_of(THINKS, {}, {}, {})
    summary = summary_of(totals, gates={"objectives": ["ttfa_s max < 0.2", "thinking_s mean < 0.21"]})

    assert summary.reasoning is not None
    assert summary.reasoning.model_dump() == {
        "answers": 1,
        "hidden": 0,
        "without_answer": 0,
        "tokens": 2,
        "share": 0.1,
        "estimated": False,
    }
    assert summary.value("ttfa_s", "mean") == pytest.approx((0.3 + 3 * 0.1) / 4)
    assert summary.value("thinking_s", "count") == 1
    assert summary.value("answer_tpot_s", "mean") == pytest.approx(0.04)
    assert [gate.passed for gate in summary.gates] == [False, True]
    assert totals.good == 3
    for page in shown(summary):
        assert all(word in page for word in ("time to first answer", "thinking time", "TPOT of the answer"))


def test_a_search_reads_the_first_answer_from_a_steps_totals() -> None:
    assert measured(Objective.parse("ttfa_s max < 1"), totals_of(THINKS, {})) == pytest.approx(0.3)


def test_hidden_reasoning_doubts_ttft_and_tpot_and_not_the_first_answer() -> None:
    totals = totals_of(HIDDEN, {})
    verdict = judge(health(totals), totals=totals)

    (reason,) = (each for each in verdict.reasons if each.check == "hidden_reasoning_share")
    assert (reason.level, reason.figure) == (Level.DEGRADED, 0.5)
    assert set(reason.figures) == {"ttft_s", "ttft_from_schedule_s", "tpot_s"}
    assert "hidden in 1" in shown(summary_of(totals))[0]


def test_answers_that_never_came_doubt_the_time_to_the_answer() -> None:
    totals = totals_of(ONLY, THINKS)
    verdict = judge(health(totals), totals=totals)

    (reason,) = (each for each in verdict.reasons if each.check == "only_reasoning_share")
    assert set(reason.figures) == {"ttfa_s", "thinking_s", "answer_tpot_s"}
    assert "1 ended without an answer" in shown(summary_of(totals))[0]
    assert totals.distributions["ttfa_s"].count == 1


def test_estimated_tokens_say_so() -> None:
    totals = totals_of({**THINKS, "reasoning_source": ReasoningSource.CHUNKS})

    assert "about 2 tokens" in shown(summary_of(totals))[0]
