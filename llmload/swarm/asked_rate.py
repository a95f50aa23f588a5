"""Which rate an open loop is asked for at this moment: the start form's, which may be edited while it runs."""

import math
from collections.abc import Callable

from llmload.scenario.capacity import Capacity
from llmload.scenario.loads import AnyLoad, OpenLoop, Staged
from llmload.scenario.reading import read_value
from llmload.swarm.stages import StageClock
from llmload.swarm.steps import StepClock


def edited_rate(load: OpenLoop, text_now: Callable[[], str]) -> Callable[[], float]:
    """
    Return what tells the form's rate while its text is a number above 0; the last good one while it is mistyped.

    Until the text changes, the scenario's rate holds: it has what stood in the form at the start already.
    """
    asked, seen = load.rate_per_s, text_now()

    def as_edited() -> float:
        nonlocal asked, seen
        text = text_now()
        if text != seen:
            seen, edited = text, read_value(text)
            if isinstance(edited, int | float) and 0 < edited < math.inf:
                asked = float(edited)
        return asked

    return as_edited


def asked_rate(
    load: AnyLoad, clock: StageClock | StepClock | None, text_now: Callable[[], str]
) -> Callable[[], float | None]:
    """Return what tells the rate over all workers, in conversations a second; None where the load asks for none."""
    if isinstance(load, OpenLoop):
        return edited_rate(load, text_now)
    if isinstance(clock, StepClock) and isinstance(load, Capacity) and not load.has_users:
        return clock.rate_per_s_now
    if isinstance(load, Staged) and clock is not None:
        return lambda: load.stages[clock.place].rate_per_s
    return lambda: None
