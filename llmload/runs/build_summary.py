"""How a `Summary` is made: one pure function of a run's totals, its scenario and what was watched beside it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmload.metrics.distributions import QUANTILES, REQUEST_DISTRIBUTIONS
from llmload.metrics.objective import Objective
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Verdict
from llmload.runs.cost import cost_of
from llmload.runs.plausibility import bandwidth_use
from llmload.runs.summary import (
    SCHEMA_VERSION,
    Figures,
    GateResult,
    IncludingFailures,
    PercentilesWithFailures,
    RequestCounts,
    StageSummary,
    Summary,
)
from llmload.runs.summary_parts import CapacityResult, Distribution, EngineMetrics, GpuMetrics
from llmload.scenario import Scenario
from llmload.stats.histogram import Histogram
from llmload.units import S_PER_MIN


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTotals:
    """A stage's load, the totals of its requests, and the length of its window."""

    name: str
    users: int | None
    rate_per_s: float | None
    totals: RunTotals
    window_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What is known of a run at its end."""

    run_id: str
    scenario: Scenario
    simulated: bool
    totals: RunTotals
    """Of the whole run."""
    judged: RunTotals
    """What the figures speak of: the whole run's totals, or those of the step that a search found."""
    window_s: float | None
    window_started_unix_s: float | None
    verdict: Verdict
    stages: Sequence[StageTotals] = ()
    capacity: CapacityResult | None = None
    engine_metrics: EngineMetrics | None = None
    gpu_metrics: GpuMetrics | None = None
    recomputed: str | None = None
    """Why the totals were counted from the requests; then what was dropped is not known."""


def build_summary(outcome: RunOutcome) -> Summary:
    """Return the run's summary; what was not measured is None."""
    scenario, judged, measured = outcome.scenario, outcome.judged, figures(outcome.judged, outcome.window_s)
    return Summary(
        schema_version=SCHEMA_VERSION,
        run_id=outcome.run_id,
        scenario=scenario.scenario.name,
        protocol=scenario.scenario.protocol,
        engine=scenario.engine.display_name,
        model=scenario.model.name,
        simulated=outcome.simulated,
        prompt_salt=scenario.prompts.salt,
        load=scenario.load,
        recomputed=outcome.recomputed,
        window_started_unix_s=outcome.window_started_unix_s,
        requests=_requests(judged, dropped_known=outcome.recomputed is None),
        **dict(measured),
        including_failures=IncludingFailures(
            ttft_s=_with_failures(judged.distributions["ttft_s"]), e2e_s=_with_failures(judged.distributions["e2e_s"])
        ),
        token_source=_one_or_mixed(judged.token_sources),
        stamp_source=_one_or_mixed(judged.stamp_sources),
        coalesced_share=judged.coalesced_chunks / judged.chunks if judged.chunks else None,
        finish_reasons=dict(judged.finish_reasons.most_common()),
        verdict=outcome.verdict,
        stages=tuple(_stage(stage) for stage in outcome.stages),
        capacity=outcome.capacity,
        engine_metrics=outcome.engine_metrics,
        gpu_metrics=outcome.gpu_metrics,
        bandwidth=bandwidth_use(scenario, measured.value("request_output_tokens_per_s", "mean")),
        cost=cost_of(
            scenario,
            judged,
            outcome.window_s,
            whole=outcome.totals,
            energy_j=None if outcome.gpu_metrics is None else outcome.gpu_metrics.energy_j,
        ),
        gates=judge_gates(scenario.gates.parsed(), measured),
    )


def figures(totals: RunTotals, window_s: float | None) -> Figures:
    """Return what was measured in a window of that length: rates, token counts and distributions."""
    minutes = window_s / S_PER_MIN if window_s else None
    tokens_known = totals.completed_in_window > 0 and totals.uncounted_answers == 0
    distributions = totals.distributions
    ended = totals.completed_in_window + totals.failed_in_window
    return Figures(
        window_s=window_s,
        requests_per_min=totals.completed_in_window / minutes if minutes else None,
        goodput_per_min=totals.good_in_window / minutes if minutes else None,
        goodput_share=totals.good_in_window / ended if ended else None,
        error_share=totals.failed_in_window / ended if ended else None,
        prompt_tokens=totals.prompt_tokens if distributions["request_prompt_tokens"].count else None,
        output_tokens=totals.output_tokens if distributions["request_output_tokens"].count else None,
        cached_token_share=totals.cached_token_share,
        output_tokens_per_s=totals.window_tokens / window_s if window_s and tokens_known else None,
        **{name: distribution(distributions[name]) for name in REQUEST_DISTRIBUTIONS},
    )


def distribution(histogram: Histogram) -> Distribution | None:
    """Return mean, percentiles, greatest and count of a histogram; None when it is empty."""
    if not histogram.count:
        return None
    quantiles = {name: histogram.quantile(share) for name, share in QUANTILES.items()}
    return Distribution.model_validate(
        {"mean": histogram.mean, **quantiles, "max": histogram.max_value, "count": histogram.count}
    )


def judge_gates(objectives: Iterable[Objective], measured: Figures) -> tuple[GateResult, ...]:
    """Return what came of each gate; a figure that was not measured fails its gate."""
    return tuple(
        GateResult(
            objective=str(objective),
            figure=(figure := objective.figure(measured)),
            passed=objective.passed(figure),
            text=objective.describe(figure),
        )
        for objective in objectives
    )


def _requests(totals: RunTotals, *, dropped_known: bool) -> RequestCounts:
    return RequestCounts(
        started=totals.started,
        completed=totals.completed,
        failed=totals.failed,
        censored=totals.censored,
        dropped=totals.dropped if dropped_known else None,
        errors=dict(totals.errors.most_common()),
        completed_in_window=totals.completed_in_window,
        reconnects=totals.reconnects,
        retries=totals.retries,
    )


def _stage(stage: StageTotals) -> StageSummary:
    measured = figures(stage.totals, stage.window_s)
    return StageSummary(name=stage.name, users=stage.users, rate_per_s=stage.rate_per_s, **dict(measured))


def _with_failures(histogram: Histogram) -> PercentilesWithFailures | None:
    if not histogram.infinite:
        return None
    quantiles = {name: histogram.quantile(share, with_infinite=True) for name, share in QUANTILES.items()}
    return PercentilesWithFailures(**quantiles, count=histogram.count + histogram.infinite)


def _one_or_mixed(tally: dict[str, int]) -> str | None:
    if not tally:
        return None
    return next(iter(tally)) if len(tally) == 1 else "mixed"
