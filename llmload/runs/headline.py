"""Which part of a run its figures are of: the whole, the step that a search found, the last whole phase of an edit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Level, Reason, nothing_measured
from llmload.runs.build_summary import StageTotals
from llmload.runs.summary_parts import EditedLoad
from llmload.scenario import Scenario

_OF_THE_RUN: Final = (
    "started",
    "completed",
    "failed",
    "censored",
    "dropped",
    "reconnects",
    "retries",
    "reused_prompts",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What a run's figures and its verdict are of; the window of it all is None where nothing was measured."""

    totals: RunTotals
    """What the figures speak of: counts of the whole run, and all else of the part that is judged."""
    health: RunTotals
    """What the verdict speaks of: the part that is judged alone."""
    window_s: float | None
    opened_unix_s: float | None
    scenario: Scenario
    """With the load of the part that is judged."""
    edited: EditedLoad | None = None


def counts_of_the_run(part: RunTotals | None, whole: RunTotals) -> RunTotals:
    """Return a copy of the totals of a part, None for no part, with the counts of requests of the whole run."""
    view = RunTotals()
    if part is not None:
        view.merge(part)
    for name in _OF_THE_RUN:
        setattr(view, name, getattr(whole, name))
    view.errors, view.failures, view.lost_lines = whole.errors, whole.failures, whole.lost_lines
    view.distributions["event_loop_lag_s"] = whole.distributions["event_loop_lag_s"]
    return view


def counts_of_the_part(part: RunTotals, whole: RunTotals) -> RunTotals:
    """Return a copy of the totals of a part, as a verdict judges it: requests that ended in its window count."""
    view = counts_of_the_run(part, whole)
    view.completed, view.failed = part.completed_in_window, part.failed_in_window
    view.failures = part.failures
    view.censored, view.dropped = part.censored, part.dropped
    return view


LOAD_EDITED: Final = "load_edited"
"""The check whose reason says that no phase of an edited load was measured whole."""


def last_whole(phases: Sequence[StageTotals]) -> int | None:
    """Return the index of the last phase in whose window a request ended; None where there is no such phase."""
    return next((index for index in reversed(range(len(phases))) if _is_whole(phases[index])), None)


def _is_whole(phase: StageTotals) -> bool:
    totals = phase.totals
    return phase.window_s is not None and bool(totals.completed_in_window or totals.failed_in_window)


def of_phases(
    phases: Sequence[StageTotals],
    opened_unix_s: Sequence[float | None],
    *,
    whole: RunTotals,
    scenario: Scenario,
    edits: int,
) -> Headline:
    """Return the headline of a load that was edited: its last whole phase, or nothing but counts without one."""
    index = last_whole(phases)
    text = f"the load was edited {_times(edits)}"
    if index is None:
        edited = EditedLoad(edits=edits, phase=None, text=f"{text}, and no phase of it was measured whole")
        view = counts_of_the_run(None, whole)
        return Headline(totals=view, health=whole, window_s=None, opened_unix_s=None, scenario=scenario, edited=edited)
    phase = phases[index]
    load = scenario.load.model_copy(update={scenario.load.target_key or "": phase.users or phase.rate_per_s})
    return Headline(
        totals=counts_of_the_run(phase.totals, whole),
        health=counts_of_the_part(phase.totals, whole),
        window_s=phase.window_s,
        opened_unix_s=opened_unix_s[index],
        scenario=scenario.model_copy(update={"load": load}),
        edited=EditedLoad(edits=edits, phase=phase.name, text=f"{text}: figures are of {phase.name}, {load.brief}"),
    )


def unmeasured_phase(headline: Headline, edited: EditedLoad, longer: str) -> Iterator[Reason]:
    """Yield why the figures of an edited load say nothing; `longer` is the options that make the load longer."""
    if edited.phase is None:
        text = f"nothing was measured: {edited.text}: let a load run beyond its ramp and warm-up before it is edited"
        yield Reason(check=LOAD_EDITED, level=Level.INVALID, text=text)
        return
    reason = nothing_measured(
        headline.totals, headline.window_s, unopened="it ended too soon", remedy=longer, where=edited.phase
    )
    if reason is not None:
        yield reason


def _times(edits: int) -> str:
    return "once" if edits == 1 else f"{edits} times"
