"""Totals by name: a bounded set that merges, from records and tables alike; and what outputs show of it."""

from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from llmload.loadgen.collected import Collected
from llmload.loadgen.credible import Limits
from llmload.loadgen.messages import Totals
from llmload.metrics.by_name import MAX_NAME_CHARACTERS, MAX_NAMES, OTHER_NAMES, NamedTotals, as_name
from llmload.metrics.lines import columns_of
from llmload.metrics.received import named_totals_of
from llmload.metrics.requests import RequestTable, line_writer
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Verdict
from llmload.prometheus.families import FAMILIES, Snapshot
from llmload.record import RequestRecord, Window
from llmload.report.by_name import NAME_COLUMNS, name_rows
from llmload.report.markdown import job_summary
from llmload.report.terminal import console, run_report
from llmload.runs.build_summary import RunOutcome, build_summary
from llmload.runs.summary import Summary
from tests import recorded
from tests.metrics.test_totals import SLO
from tests.run_files import scenario_of


def named(names: Sequence[str | None]) -> list[RequestRecord]:
    answered = (record for record in recorded.records(4 * len(names)) if record.ok)
    return [replace(record, name=name) for record, name in zip(answered, names, strict=False)]


def counted(records: Sequence[RequestRecord]) -> NamedTotals:
    totals, began_ns = NamedTotals(), min(record.started_ns for record in records)
    for record in records:
        totals.add(record, window=Window(start_ns=began_ns), slo=SLO, run_start_ns=began_ns)
    return totals


def test_requests_are_counted_by_their_names() -> None:
    totals = counted(named(["ask", "tool", None, "ask"]))

    assert {name: each.completed for name, each in totals.items()} == {"ask": 2, "tool": 1}


def test_a_table_gives_the_same_as_its_records() -> None:
    records = named(["ask", "tool", None, "ask"])
    write, began_ns = line_writer(with_chunks=True), min(record.started_ns for record in records)
    table = RequestTable.of_columns(
        columns_of([orjson.loads(orjson.dumps(write(each, 0), option=orjson.OPT_SERIALIZE_NUMPY)) for each in records]),
        began_ns / 1e9,
    )

    totals = NamedTotals()
    totals.add_table(table, window=Window(start_ns=0), slo=SLO)

    one_by_one = counted(records)
    assert list(totals) == list(one_by_one)
    for name, each in one_by_one.items():
        assert totals[name].completed == each.completed
        assert totals[name].distributions["ttft_s"].count == each.distributions["ttft_s"].count


def test_names_are_bounded_in_a_process_and_over_several() -> None:
    one, two = (counted(named([f"{letter}{index}" for index in range(MAX_NAMES + 3)])) for letter in "ab")
    one.merge(two)

    assert len(one) == MAX_NAMES + 1
    assert one[OTHER_NAMES].completed == 3 + MAX_NAMES + 3


@pytest.mark.parametrize(
    ("text", "name"), [("ask", "ask"), (" a\n b ", "a b"), ("", OTHER_NAMES), ("x" * 200, "x" * MAX_NAME_CHARACTERS)]
)
def test_a_text_becomes_a_name(text: str, name: str) -> None:
    assert as_name(text) == name


@pytest.mark.parametrize("names", [[f"{index}" for index in range(MAX_NAMES + 2)], ["x" * 200], ["a\nb"], [3]])
def test_names_that_no_worker_sends_are_refused(names: list[object]) -> None:
    with pytest.raises(ValueError, match="has totals of"):
        named_totals_of({name: RunTotals().to_message() for name in names})


def test_a_name_with_more_requests_than_the_run_is_doubted() -> None:
    of = counted(named(["ask"]))["ask"].to_message()
    collected = Collected("run")
    doubt = collected.take("w", Totals.pack("run", RunTotals().to_message(), {}, {"ask": of}), Limits(elapsed_s=1e6))

    assert doubt == "ask: completed is 1, and 0 in the run"
    assert not collected.merged_names()


@pytest.fixture(scope="module")
def summary() -> Summary:
    records = named(["ask", "follow-up", "ask"])
    totals = counted([replace(record, name="all") for record in records])["all"]
    return build_summary(
        RunOutcome(
            run_id="r",
            scenario=scenario_of(),
            simulated=False,
            totals=totals,
            judged=totals,
            window_s=60.0,
            window_started_unix_s=1.0,
            verdict=Verdict.of(),
            names=counted(records),
            names_window_s=60.0,
        )
    )


def test_the_summary_has_a_row_a_name(summary: Summary) -> None:
    assert summary.by_name is not None
    assert [(each.name, each.completed, each.requests_per_min) for each in summary.by_name] == [
        ("ask", 2, 2.0),
        ("follow-up", 1, 1.0),
    ]
    assert sum(each.completed for each in summary.by_name) == summary.requests.completed
    assert Summary.model_validate_json(summary.model_dump_json()) == summary


def test_tables_have_a_row_a_name(summary: Summary) -> None:
    terminal = console(record=True)
    terminal.print(run_report(summary))

    assert [row[:3] for row in name_rows(summary)] == [("ask", "2", "0"), ("follow-up", "1", "0")]
    assert all(len(row) == len(NAME_COLUMNS) for row in name_rows(summary))
    assert "follow-up" in terminal.export_text()
    assert "| follow-up |" in job_summary(summary)


def test_a_run_without_names_has_no_such_rows() -> None:
    outcome = RunOutcome(
        run_id="r",
        scenario=scenario_of(),
        simulated=False,
        totals=RunTotals(),
        judged=RunTotals(),
        window_s=None,
        window_started_unix_s=None,
        verdict=Verdict.of(),
    )

    assert name_rows(build_summary(outcome)) == []
    assert "by_name" not in build_summary(outcome).model_dump()


def test_the_exporter_has_series_by_name() -> None:
    labels = {"engine": "e", "model": "m", "scenario": "s"}
    snapshot = Snapshot(labels=labels, names=counted(named(["ask", "tool", "ask"])))
    read = {family.name: family.read(snapshot) for family in FAMILIES if family.name.startswith("llmload_named")}

    assert read["llmload_named_requests_total"][("ask", "completed")] == 2  # type: ignore[index]  # by two labels
    assert set(read["llmload_named_output_tokens_total"]) == {"ask", "tool"}
    assert len(read["llmload_named_time_to_first_token_quantile_seconds"]) == 6
