"""What of a run is judged while it runs and at its end: the whole, a search's step, an edited load's phase."""

from collections.abc import Callable, Mapping

from llmload.loadgen.commanded import EditTimeline
from llmload.loadgen.phases import PhaseTimeline, Span
from llmload.loadgen.step_driver import StepDriver
from llmload.metrics.totals import RunTotals
from llmload.runs.build_summary import StageTotals
from llmload.runs.headline import Headline, counts_of_the_part, counts_of_the_run, of_phases
from llmload.scenario import Scenario


def whole_run(span: Span, totals: RunTotals, scenario: Scenario) -> Headline:
    """Return the headline of a run that is judged as a whole."""
    return Headline(
        totals=totals,
        health=totals,
        window_s=span.length_s(totals),
        opened_unix_s=span.opened_unix_s(totals),
        scenario=scenario,
    )


def found_step(
    driver: StepDriver,
    totals: RunTotals,
    stages: Mapping[str, RunTotals],
    scenario: Scenario,
    unix_s: Callable[[int | None], float | None],
) -> Headline:
    """
    Return the headline of a search or a sweep: the step that it found.

    Without such a step there are only counts, and the verdict is of the whole run.
    """
    part, window_s, opened_ns = driver.found(stages)
    return Headline(
        totals=counts_of_the_run(part, totals),
        health=totals if part is None else counts_of_the_part(part, totals),
        window_s=window_s,
        opened_unix_s=unix_s(opened_ns),
        scenario=scenario,
    )


def edited_load(
    timeline: EditTimeline,
    totals: RunTotals,
    stages: Mapping[str, RunTotals],
    scenario: Scenario,
    unix_s: Callable[[int | None], float | None],
) -> Headline:
    """Return the headline of a load that was edited: its last whole phase, be it over or not."""
    opened = [unix_s(timeline.window(index).start_ns) for index in range(timeline.index + 1)]
    return of_phases(stage_totals(timeline, stages), opened, whole=totals, scenario=scenario, edits=timeline.index)


def stage_totals(timeline: PhaseTimeline, totals: Mapping[str, RunTotals]) -> list[StageTotals]:
    """Return load, totals and length of each phase, measured as far as it has come."""
    return [
        StageTotals(
            name=phase.name,
            users=phase.users,
            rate_per_s=phase.rate_per_s,
            totals=totals.get(phase.name, RunTotals()),
            window_s=timeline.measured_s(phase.name),
        )
        for phase in timeline.phases
    ]
