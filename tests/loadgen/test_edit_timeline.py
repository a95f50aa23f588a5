"""The timeline of an edited load: what came before the first edit, and each phase that an edit began."""

import time

import pytest

from llmload.loadgen.commanded import EditTimeline
from llmload.loadgen.phases import StepCommand
from llmload.scenario.loads import ClosedLoop, OpenLoop
from llmload.units import NS_PER_S

CLOSED = ClosedLoop(kind="closed_loop", users=2, duration_s=60)


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, in seconds."""
    now = [10.0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: round(now[0] * NS_PER_S))
    return now


def test_each_edit_ends_a_phase_and_its_window(now_s: list[float]) -> None:
    timeline = EditTimeline.at_edit(CLOSED, 0, 3 * NS_PER_S)
    timeline.apply(StepCommand(index=1, load=8))
    unopened = timeline.measured_s("phase-2")
    now_s[0] = 14.0
    timeline.apply(StepCommand(index=1, load=8, measured=True))
    timeline.apply(StepCommand(index=1, load=8, measured=True))
    now_s[0] = 20.0
    timeline.apply(StepCommand(index=2, load=4))
    now_s[0] = 25.0
    timeline.end()
    timeline.apply(StepCommand(index=2, load=4, measured=True))

    assert [(phase.name, phase.users) for phase in timeline.phases] == [("phase-1", 2), ("phase-2", 8), ("phase-3", 4)]
    assert unopened is None
    assert [timeline.window_s(f"phase-{number}") for number in (1, 2, 3)] == [7, 6, None]
    assert timeline.name_at(15 * NS_PER_S) == "phase-2"
    assert [name for name, _ in timeline.touched(9 * NS_PER_S, 11 * NS_PER_S)] == ["phase-1", "phase-2"]


@pytest.mark.parametrize("opened_s", [None, 12.0], ids=["users missing", "warm-up"])
def test_an_edit_before_the_window_opened_leaves_nothing_of_the_first_phase(
    now_s: list[float], opened_s: float | None
) -> None:
    timeline = EditTimeline.at_edit(CLOSED, 0, None if opened_s is None else round(opened_s * NS_PER_S))
    timeline.apply(StepCommand(index=1, load=8))
    now_s[0] = 30.0

    assert timeline.measured_s("phase-1") is None


def test_an_open_loops_rate_is_that_of_its_phase(now_s: list[float]) -> None:
    timeline = EditTimeline.at_edit(OpenLoop(kind="open_loop", rate_per_s=5, duration_s=60), 0, 0)
    rates = [timeline.rate_per_s]
    timeline.apply(StepCommand(index=1, load=40))
    now_s[0] = 11.0

    assert [*rates, timeline.rate_per_s] == [5, 40]
    assert [phase.rate_per_s for phase in timeline.phases] == [5, 40]
