"""What tables say of the network, and what they leave out where nothing is known of it."""

from typing import Any

import pytest

from llmload.compare.runs import SAME, FinishedRun
from llmload.metrics.validity import Doubt
from llmload.report.markdown import as_markdown, groups, job_summary
from llmload.report.network import network_rows
from llmload.runs.summary import Summary
from tests.run_files import summary_of

NETWORK = {
    "same_segment_share": 0.001,
    "retransmissions": 3,
    "late_segments": 2,
    "engine_closed_windows": 0,
    "client_closed_windows": 1,
    "dropped_segments": 0,
    "missed_bytes": 0,
    "resets": {},
    "waits_for_acknowledgements": False,
}


def times(p50: float) -> dict[str, float]:
    return {"mean": p50, "p50": p50, "p90": p50, "p95": p50, "p99": 2 * p50, "max": 2 * p50, "count": 100}


def seen(rtt_s: float = 0.0002, **network: Any) -> Summary:
    return summary_of(
        requests={"started": 100, "completed": 100},
        stamp_source="packet",
        ttft_s=times(0.2),
        ttft_wire_s=times(0.19),
        departure_delay_s=times(0.0001),
        rtt_s=times(rtt_s),
        network=NETWORK | network,
    )


def notes(summary: Summary) -> dict[str, str]:
    return dict(network_rows(summary)[2:])


def test_without_the_ring_no_table_speaks_of_the_network() -> None:
    unknown = summary_of(stamp_source="kernel", network=None)

    assert network_rows(unknown) == []
    assert "Network" not in {group.title for group in groups([unknown])}
    assert "on the wire" not in as_markdown([unknown])


def test_tables_say_what_the_ring_saw_and_of_whom_nothing_is_known() -> None:
    rows = {row.name: row.cells for row in groups([seen(), summary_of(network=None)])[-1].rows}

    assert rows["TTFT on the wire p50, ms"] == ("190.0", "n/a")
    assert rows["windows closed by the client"] == ("1", "n/a")
    assert rows["connections reset"] == ("none", "n/a")
    assert "| round trip p99, ms | 0.40 |" in as_markdown([seen()])
    assert "3 segments came twice, 2 after later ones" in job_summary(seen())


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (seen(), {}),
        (seen(rtt_s=0.009), {}),
        (
            seen(rtt_s=0.05),
            {
                "far away": "50.00 of the 200.0 ms of TTFT p50 are the network's round trip: "
                "send from a machine nearer to the engine"
            },
        ),
        (
            seen(engine_closed_windows=20),
            {"engine's host": "closed its window: it took requests late, and TTFT contains that"},
        ),
        (
            seen(missed_bytes=300, dropped_segments=2),
            {"packet ring": "dropped 2 segments; 300 bytes of answers have stamps of the process"},
        ),
        (seen(resets={"engine": 2}), {"resets": "2 by the engine"}),
    ],
)
def test_a_note_says_whose_time_a_part_is(summary: Summary, expected: dict[str, str]) -> None:
    assert notes(summary) == expected


@pytest.mark.parametrize(
    ("source", "checks", "expected"),
    [
        ("packet", (), "kernel"),
        ("kernel", ("coalesced_share",), "kernel"),
        ("mixed", (), "kernel"),
        ("mixed", ("missed_segments",), "mixed"),
        ("mixed", ("user_stamp_share",), "mixed"),
        ("user", (), "user"),
    ],
)
def test_stamps_of_the_arrival_compare_with_each_other(source: str, checks: tuple[str, ...], expected: str) -> None:
    summary = summary_of(stamp_source=source)
    doubts = tuple(Doubt(figure="itl_s", statistic="p99", check=check, text="") for check in checks)
    judged = summary.model_copy(update={"verdict": summary.verdict.model_copy(update={"doubts": doubts})})

    run = FinishedRun(folder=None, summary=judged, manifest=None)  # type: ignore[arg-type] # only the summary is read
    assert SAME["stamps"](run) == {"stamp_source": expected}
