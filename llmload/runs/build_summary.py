"""How a `Summary` is made: one pure function of totals, scenario and what was watched; plausibility too."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from llmload.errors import ConfigError
from llmload.metrics.asked import LengthsKept
from llmload.metrics.doubts import doubt_of, doubts_of
from llmload.metrics.objective import Objective
from llmload.metrics.requests import QUANTILES, REQUEST_DISTRIBUTIONS
from llmload.metrics.totals import RunTotals
from llmload.metrics.validity import Doubt, Verdict
from llmload.record import AFTER_ACKNOWLEDGEMENT, StampSource
from llmload.runs.costs import cost_of
from llmload.runs.reading import plained
from llmload.runs.summary import (
    SCHEMA_VERSION,
    AskedLengths,
    Figures,
    GateResult,
    IncludingFailures,
    LengthsSummary,
    NameSummary,
    NetworkSummary,
    PercentilesWithFailures,
    Reasoning,
    RequestCounts,
    StageSummary,
    Summary,
)
from llmload.runs.summary_parts import (
    BandwidthUse,
    CapacityResult,
    Distribution,
    EditedLoad,
    EngineMetrics,
    EngineWindow,
    FailedRequests,
    GpuMetrics,
    Limit,
    OtherUsers,
    RequestFile,
    Speculation,
)
from llmload.runs.sweep import SweepResult
from llmload.scenario import Scenario
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.cards import find_gpu
from llmload.sizing.catalogue import load_model
from llmload.sizing.engines import is_version
from llmload.sizing.fit import DeploymentRequest, Fit, fit, plan_deployment, pool_warning
from llmload.sizing.speed import decode_bound_tokens_per_s, implausible, mbu
from llmload.sizing.start_command import engine_of, options_of
from llmload.sizing.weights import default_format
from llmload.stats.histogram import Histogram
from llmload.units import S_PER_MIN

# Compares a measured speed with the bound of the GPU's memory bandwidth, and a load with its memory.

FORMATS: Final = {"fp32": "fp32", "fp16": "bf16", "bf16": "bf16", "fp8": "fp8", "int8": "int8", "int4": "w4a16"}


def decode_bound(scenario: Scenario) -> float | None:
    """Return the decode steps/s that the GPUs' memory bandwidth allows; None if GPU or model is not known."""
    deployment = scenario.deployment
    if not deployment.gpu:
        return None
    try:
        model, gpu = _model_of(scenario), find_gpu(deployment.gpu)
        weight_format = FORMATS[deployment.precision] if deployment.precision else default_format(model)
        return decode_bound_tokens_per_s(model, gpu, gpus=deployment.gpus or 1, weight_format=weight_format)
    except ConfigError:
        return None


def bandwidth_use(scenario: Scenario, request_output_tokens_per_s: float | None) -> BandwidthUse | None:
    """
    Return a single request's speed as a fraction of the bound by the GPU's memory bandwidth (MBU).

    None without a speed, with several users at a time, or for a GPU or model that is not in the catalogue.
    """
    if request_output_tokens_per_s is None or scenario.load.constant_users != 1:
        return None
    bound = decode_bound(scenario)
    if bound is None:
        return None
    used = mbu(request_output_tokens_per_s, bound)
    return BandwidthUse(mbu=used, bound_tokens_per_s=bound, implausible=implausible(used))


def gpu_warning(scenario: Scenario) -> str | None:
    """Return why a run has no MBU and no memory estimate where its GPU's name is not known; None where it is."""
    if not scenario.deployment.gpu:
        return None
    try:
        find_gpu(scenario.deployment.gpu)
    except ConfigError as error:
        return f"no MBU and no memory estimate: deployment.gpu: {error}"
    return None


def memory_warning(scenario: Scenario, tokens_a_request: int) -> str | None:
    """Return a warning if the load may not fit the KV cache; None if it does or that is not known."""
    users = scenario.load.constant_users
    if users is None:
        return None
    try:
        found = _fit_of(scenario)
        return None if found is None else pool_warning(found, users, tokens_a_request)
    except ConfigError:
        return None


def memory_estimate(scenario: Scenario) -> dict[str, float] | None:
    """
    Return the bytes that sizing expects on each GPU: `weights`, `overhead`, and `kv_cache`, which fills the rest.

    For a pipeline, those of its tightest stage. None if GPU or model is not in the catalogue, or if the weights alone
    do not fit.
    """
    try:
        found = _fit_of(scenario)
    except ConfigError:
        return None
    if found is None or found.tightest.pool_bytes.best < 0:
        return None
    stage = found.tightest
    return {
        "weights": stage.weights_bytes.best + stage.tower_bytes.best,
        "overhead": stage.overhead.total_bytes.best,
        "kv_cache": stage.pool_bytes.best,
    }


def _fit_of(scenario: Scenario) -> Fit | None:
    """The scenario's deployment in the sizing; None without a GPU, ConfigError if GPU or model is not known."""
    deployment = scenario.deployment
    if not deployment.gpu:
        return None
    command = deployment.command or ""
    request = DeploymentRequest(
        model=_model_of(scenario),
        gpu=find_gpu(deployment.gpu),
        count=deployment.gpus or 1,
        tensor=deployment.tensor_parallel,
        engine=engine_of(command),
        engine_version=deployment.engine_version if command and is_version(deployment.engine_version) else None,
        options=options_of(command),
        weight_format=FORMATS[deployment.precision] if deployment.precision else None,
    )
    return fit(plan_deployment(request))


def _model_of(scenario: Scenario) -> ModelSpec:
    """The model by its catalogue name, its name or its name in requests; ConfigError if none is in the catalogue."""
    if scenario.model.catalogue is not None:
        return load_model(scenario.model.catalogue)
    try:
        return load_model(scenario.model.name)
    except ConfigError:
        return load_model(scenario.model.request_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What the engine said of itself in a window, and what limited the load there; None is not known."""

    engine: EngineWindow | None = None
    speculation: Speculation | None = None
    limit: Limit | None = None


NOT_WATCHED: Final = Watched()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTotals:
    """A stage's load, the totals of its requests, and the length of its window."""

    name: str
    users: int | None
    rate_per_s: float | None
    totals: RunTotals
    window_s: float | None
    watched: Watched = NOT_WATCHED


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What is known of a run at its end."""

    run_id: str
    scenario: Scenario
    simulated: bool
    totals: RunTotals
    """Of the whole run."""
    judged: RunTotals
    """What the figures speak of: the whole run's totals, or those of a search's step, or of an edited load's phase."""
    window_s: float | None
    window_started_unix_s: float | None
    verdict: Verdict
    stages: Sequence[StageTotals] = ()
    names: Mapping[str, RunTotals] = field(default_factory=dict)
    """The totals of each name; empty where requests have no names."""
    names_window_s: float | None = None
    """The length of the whole run's window, which they are of."""
    edited: EditedLoad | None = None
    capacity: CapacityResult | None = None
    sweep: SweepResult | None = None
    other_users: OtherUsers | None = None
    engine_metrics: EngineMetrics | None = None
    gpu_metrics: GpuMetrics | None = None
    request_files: Mapping[str, RequestFile] | None = None
    watched: Watched = NOT_WATCHED
    cut: bool = False
    """Whether the run was ended before it had done what it was to do; then no gate is judged."""
    recomputed: str | None = None
    """Why the totals were counted from the requests; then what was dropped is not known."""


def build_summary(outcome: RunOutcome) -> Summary:
    """Return the run's summary, its texts plain, since engines wrote some; what was not measured is None."""
    scenario, judged, measured = outcome.scenario, outcome.judged, figures(outcome.judged, outcome.window_s)
    summary = Summary(
        schema_version=SCHEMA_VERSION,
        run_id=outcome.run_id,
        scenario=scenario.scenario.name,
        protocol=scenario.scenario.protocol,
        engine=scenario.engine.display_name,
        model=scenario.model.name,
        simulated=outcome.simulated,
        prompt_salt=scenario.prompts.salting,
        load=scenario.load,
        recomputed=outcome.recomputed,
        window_started_unix_s=outcome.window_started_unix_s,
        requests=_requests(judged, outcome.totals, by_run=outcome.recomputed is None),
        request_files=None if outcome.request_files is None else dict(outcome.request_files),
        **dict(measured),
        including_failures=IncludingFailures(
            ttft_s=_with_failures(judged.distributions["ttft_s"]), e2e_s=_with_failures(judged.distributions["e2e_s"])
        ),
        token_source=_one_or_mixed(judged.token_sources),
        stamp_source=_one_or_mixed(judged.stamp_sources),
        coalesced_share=judged.coalesced_chunks / judged.chunks if judged.chunks else None,
        network=_network(judged, outcome.totals, by_run=outcome.recomputed is None),
        reasoning=_reasoning(judged),
        lengths=_lengths(scenario, judged),
        finish_reasons=dict(judged.finish_reasons.most_common()),
        verdict=outcome.verdict,
        stages=tuple(_stage(stage) for stage in outcome.stages),
        by_name=tuple(_of_name(name, each, outcome) for name, each in outcome.names.items()) or None,
        edited=outcome.edited,
        other_users=outcome.other_users,
        capacity=outcome.capacity,
        sweep=outcome.sweep,
        limited_by=outcome.watched.limit,
        engine_window=outcome.watched.engine,
        speculation=outcome.watched.speculation,
        engine_metrics=outcome.engine_metrics,
        gpu_metrics=outcome.gpu_metrics,
        gpu_warning=gpu_warning(scenario),
        bandwidth=bandwidth_use(scenario, measured.value("request_output_tokens_per_s", "mean")),
        cost=cost_of(
            scenario,
            judged,
            outcome.window_s,
            whole=outcome.totals,
            energy_j=None if outcome.gpu_metrics is None else outcome.gpu_metrics.energy_j,
        ),
        gates=judge_gates(scenario.gates.parsed(), measured, outcome.verdict.doubts, cut=outcome.cut),
    )
    content = summary.model_dump(mode="json")
    return summary if plained(content) == content else Summary.model_validate(plained(content))


def _network(totals: RunTotals, whole: RunTotals, *, by_run: bool) -> NetworkSummary | None:
    """Return what the packet ring saw; None where no answer has its stamps."""
    if not (totals.stamp_sources[StampSource.PACKET] or totals.missed_bytes):
        return None
    return NetworkSummary(
        same_segment_share=totals.same_segment_chunks / totals.chunks if totals.chunks else None,
        retransmissions=totals.retransmissions,
        late_segments=totals.late_segments,
        engine_closed_windows=totals.engine_closed_windows,
        client_closed_windows=totals.client_closed_windows,
        dropped_segments=whole.dropped_segments if by_run else None,
        missed_bytes=totals.missed_bytes,
        resets=dict(totals.resets.most_common()),
        waits_for_acknowledgements=AFTER_ACKNOWLEDGEMENT in totals.engine_writes if totals.engine_writes else None,
    )


def _lengths(scenario: Scenario, totals: RunTotals) -> LengthsSummary | None:
    """Return asked and counted lengths; None where none were requested."""
    prompts, outputs = totals.lengths_kept
    if prompts is None and outputs is None:
        return None
    return LengthsSummary(
        input=_asked(prompts, totals.prompt_length_off_max),
        output=_asked(outputs, totals.output_length_off_max),
        template=scenario.prompts.template,
    )


def _asked(kept: LengthsKept | None, deviation_max: int | None) -> AskedLengths | None:
    if kept is None:
        return None
    return AskedLengths(
        requests=kept.requests,
        asked_mean=kept.asked_mean,
        counted_mean=kept.counted_mean,
        deviation_max=deviation_max or 0,
        exact_share=kept.exact_share,
        missed_share=kept.off_share,
    )


def _reasoning(totals: RunTotals) -> Reasoning | None:
    """Return what was thought; None where nothing was."""
    if not totals.reasoned_answers:
        return None
    return Reasoning(
        answers=totals.reasoned_answers,
        hidden=totals.hidden_reasoning_answers,
        without_answer=totals.only_reasoning_answers,
        tokens=totals.reasoning_tokens,
        share=totals.reasoning_tokens / totals.output_tokens if totals.output_tokens else None,
        estimated=totals.estimated_reasoning_answers > 0,
    )


def figures(totals: RunTotals, window_s: float | None) -> Figures:
    """Return what was measured in a window of that length: rates, token counts and distributions."""
    tokens_known = totals.completed_in_window > 0 and totals.uncounted_answers == 0
    distributions = totals.distributions
    ended = totals.completed_in_window + totals.failed_in_window
    minutes = window_s / S_PER_MIN if window_s and ended else None
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


def judge_gates(
    objectives: Iterable[Objective], measured: Figures, doubts: Sequence[Doubt] = (), *, cut: bool = False
) -> tuple[GateResult, ...]:
    """
    Return what came of each gate; a figure that was not measured fails its gate, one in doubt says so.

    A cut run's gates are not judged.
    """
    return tuple(_gate_result(objective, objective.figure(measured), doubts, cut=cut) for objective in objectives)


def _gate_result(objective: Objective, figure: float | None, doubts: Sequence[Doubt], *, cut: bool) -> GateResult:
    doubt = doubt_of(doubts, objective.metric, objective.statistic)
    judged = f"{objective.describe(figure)}{doubt and '; '}{doubt}"
    return GateResult(
        objective=str(objective),
        figure=figure,
        passed=None if cut else objective.passed(figure),
        text=f"{objective}: not judged: the run was cut" if cut else judged,
    )


def _requests(totals: RunTotals, whole: RunTotals, *, by_run: bool) -> RequestCounts:
    """Return the counts; only the run itself knows what was dropped and which lines were lost."""
    return RequestCounts(
        started=totals.started,
        completed=totals.completed,
        failed=totals.failed,
        censored=totals.censored,
        dropped=totals.dropped if by_run else None,
        errors=dict(totals.errors.most_common()),
        failures=most_frequent_failures(totals),
        completed_in_window=totals.completed_in_window,
        reconnects=totals.reconnects,
        lost_lines=whole.lost_lines.total() if by_run else None,
        retries=totals.retries,
    )


FAILURES_SHOWN: Final = 3


def most_frequent_failures(totals: RunTotals) -> tuple[FailedRequests, ...]:
    """Return the most frequent failures, at most three."""
    return tuple(
        FailedRequests(
            type=each.type,
            http_status=each.http_status,
            words=each.words,
            count=each.count,
            share=each.count / totals.ended,
        )
        for each in totals.failures.most_common(FAILURES_SHOWN)
    )


def _stage(stage: StageTotals) -> StageSummary:
    measured = figures(stage.totals, stage.window_s)
    return StageSummary(
        name=stage.name,
        users=stage.users,
        rate_per_s=stage.rate_per_s,
        **dict(measured),
        limited_by=stage.watched.limit,
        engine_window=stage.watched.engine,
        speculation=stage.watched.speculation,
        doubts=doubts_of(stage.totals),
    )


def _of_name(name: str, totals: RunTotals, outcome: RunOutcome) -> NameSummary:
    return NameSummary(
        name=name,
        completed=totals.completed,
        failed=totals.failed,
        censored=totals.censored,
        errors=dict(totals.errors.most_common()),
        **dict(figures(totals, outcome.names_window_s)),
        lengths=_lengths(outcome.scenario, totals),
        doubts=doubts_of(totals),
    )


def _with_failures(histogram: Histogram) -> PercentilesWithFailures | None:
    if not histogram.infinite:
        return None
    quantiles = {name: histogram.quantile(share, with_infinite=True) for name, share in QUANTILES.items()}
    return PercentilesWithFailures(**quantiles, count=histogram.count + histogram.infinite)


def _one_or_mixed(tally: dict[str, int]) -> str | None:
    if not tally:
        return None
    return next(iter(tally)) if len(tally) == 1 else "mixed"
