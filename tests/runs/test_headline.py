"""The phase that the figures of an edited load are of: the last one in whose window requests ended."""

from typing import Any

import pytest

from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level
from llmload.runs.build_summary import StageTotals
from llmload.runs.headline import counts_of_the_part, last_whole, of_phases, unmeasured_phase
from llmload.scenario.loads import ClosedLoop, OpenLoop
from tests.run_files import scenario_of

CLOSED = ClosedLoop(kind="closed_loop", users=4, duration_s=60)


def phase(number: int, window_s: float | None, users: int | None = None, **totals: Any) -> StageTotals:
    rate = None if users else 20.0
    return StageTotals(
        name=f"phase-{number}", users=users, rate_per_s=rate, totals=RunTotals(**totals), window_s=window_s
    )


@pytest.mark.parametrize(
    ("last", "index"),
    [
        (phase(3, 9.0, 16, completed_in_window=5), 2),
        (phase(3, 9.0, 16, failed_in_window=5), 2),
        (phase(3, 0.1, 16), 1),
        (phase(3, None, 16), 1),
    ],
    ids=["measured", "all failed", "no answer", "window not open"],
)
def test_the_last_phase_counts_in_which_requests_ended(last: StageTotals, index: int) -> None:
    phases = [phase(1, 5.0, 4, completed_in_window=9), phase(2, 5.0, 8, completed_in_window=7), last]

    assert last_whole(phases) == index


def test_figures_are_of_the_phase_and_counts_of_the_run() -> None:
    whole = RunTotals(started=30, completed=27, failed=2, censored=1, completed_in_window=20)
    phases = [phase(1, 5.0, 4, completed_in_window=9), phase(2, 6.0, 8, completed=15, completed_in_window=7)]

    headline = of_phases(phases, [100.0, 107.0], whole=whole, scenario=scenario_of(load=CLOSED), edits=1)

    assert (headline.window_s, headline.opened_unix_s) == (6.0, 107.0)
    assert (headline.totals.started, headline.totals.completed, headline.totals.completed_in_window) == (30, 27, 7)
    assert (headline.health.completed, headline.health.failed, headline.health.censored) == (7, 0, 0)
    assert headline.scenario.load.constant_users == 8
    assert headline.edited is not None
    assert headline.edited.text == "the load was edited once: figures are of phase-2, 8 users"
    (reason,) = unmeasured_phase(headline, headline.edited, "--run-time 60s")
    assert reason.check == "nothing_measured", "no latency is known"


def test_a_rate_that_was_edited_is_the_loads() -> None:
    load = OpenLoop(kind="open_loop", rate_per_s=5, duration_s=60)

    headline = of_phases(
        [phase(1, 6.0, completed_in_window=3)], [1.0], whole=RunTotals(), scenario=scenario_of(load=load), edits=3
    )

    assert headline.scenario.load.constant_rate_per_s == 20
    assert headline.edited is not None
    assert headline.edited.text.startswith("the load was edited 3 times: figures are of phase-1, 20 requests/s")


def test_without_a_whole_phase_the_run_is_invalid_and_has_counts_alone() -> None:
    whole = RunTotals(started=9, completed=9, completed_in_window=9)

    headline = of_phases(
        [phase(1, None, 4), phase(2, 0.1, 8)], [None, 5.0], whole=whole, scenario=scenario_of(load=CLOSED), edits=1
    )

    assert headline.edited is not None
    (reason,) = unmeasured_phase(headline, headline.edited, "--run-time 60s")
    assert (reason.check, reason.level) == ("load_edited", Level.INVALID)
    assert (headline.window_s, headline.totals.completed, headline.totals.completed_in_window) == (None, 9, 0)
    assert headline.scenario.load.constant_users == 4


def test_a_verdict_judges_the_part_alone() -> None:
    part, whole = RunTotals(completed_in_window=4, failed_in_window=1, dropped=2), RunTotals(started=50, failed=20)

    view = counts_of_the_part(part, whole)

    assert (view.started, view.completed, view.failed, view.dropped) == (50, 4, 1, 2)
