"""`summary.json` as types: docs/summary.md's tables and the JSON Schema are generated from them."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_serializer, model_serializer

from llmload.metrics.validity import Verdict
from llmload.scenario.loads import AnyLoad

SCHEMA_VERSION: Final = 1
"""Raised by every change to a key or its meaning; a folder of another version is refused."""


def _in(unit: str) -> Any:
    return Field(json_schema_extra={"unit": unit})


Seconds = Annotated[float, _in("s")]
UnixSeconds = Annotated[float, _in("s since 1970")]
PerMinute = Annotated[float, _in("1/min")]
PerSecond = Annotated[float, _in("1/s")]
TokensPerSecond = Annotated[float, _in("tokens/s")]
Tokens = Annotated[int, _in("tokens")]
CountedTokens = Annotated[float, _in("tokens")]
Requests = Annotated[int, _in("requests")]
Interval = tuple[float, float]
Bytes = Annotated[float, _in("bytes")]
BytesPerSecond = Annotated[float, _in("bytes/s")]
Gib = Annotated[float, _in("GiB")]
Watts = Annotated[float, _in("W")]
Joules = Annotated[float, _in("J")]
Money = Annotated[float, _in("currency")]


class Part(BaseModel):
    """A JSON object of a run's files: no key is missing, no other key is there, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Distribution(Part):
    """A distribution: mean, greatest and count are exact; percentiles are by nearest rank, at most 0.25 % off."""

    mean: float
    """The mean; failed requests never enter it."""
    p50: float
    """The median."""
    p90: float
    """The 90th percentile."""
    p95: float
    """The 95th percentile."""
    p99: float
    """The 99th percentile."""
    max: float
    """The greatest value."""
    count: int
    """How many values there are."""

    def value(self, statistic: str) -> float:
        """Return `mean`, `p50`, `p90`, `p95`, `p99`, `max` or `count`."""
        return float(getattr(self, statistic))


class PercentilesWithFailures(Part):
    """Percentiles in which a failed request is later than every answer; `null`: beyond all answers."""

    p50: Seconds | None
    """The median."""
    p90: Seconds | None
    """The 90th percentile."""
    p95: Seconds | None
    """The 95th percentile."""
    p99: Seconds | None
    """The 99th percentile."""
    count: Requests
    """Answers and failed requests."""


class IncludingFailures(Part):
    """Latencies with failed requests counted as later than every answer; `null` where none failed."""

    ttft_s: PercentilesWithFailures | None
    """Time to first token."""
    e2e_s: PercentilesWithFailures | None
    """Time to the last byte."""


class RequestCounts(Part):
    """Requests of the whole run, by how they ended."""

    started: Requests
    """Requests that were sent: completed + failed + censored."""
    completed: Requests
    """A complete answer came."""
    failed: Requests
    """The request ended in an error."""
    censored: Requests
    """Cut by the end of the run, after the drain's time-out."""
    dropped: Requests | None
    """Due in an open loop, but not sent: `max_in_flight` were on their way; not among `started`."""
    errors: dict[str, int]
    """Failed requests by type of error, the most common first."""
    completed_in_window: Requests
    """Answers that ended in the window."""
    reconnects: int
    """A kept-alive connection had gone: it was opened again and the request sent again."""
    retries: int
    """Requests sent again because the scenario asks for it (`client.retries`)."""


class Figures(Part):
    """What was measured in a window: rates, token counts and distributions; `null` is not measured."""

    window_s: Seconds | None
    """Length of the window."""
    requests_per_min: PerMinute | None
    """Answers that ended in the window / `window_s` x 60."""
    goodput_per_min: PerMinute | None
    """The same for answers that met every limit of `[slo]`."""
    goodput_share: float | None
    """Answers that met every limit of `[slo]` / requests that ended in the window, failed ones among them."""
    error_share: float | None
    """Failed requests / requests that ended in the window."""
    prompt_tokens: Tokens | None
    """Prompt tokens of answers whose request started in the window."""
    output_tokens: Tokens | None
    """Output tokens of answers whose request started in the window."""
    cached_token_share: float | None
    """Prompt tokens that the answers say were cached / prompt tokens of the answers that say so."""
    output_tokens_per_s: TokensPerSecond | None
    """Tokens that arrived inside the window / `window_s`."""
    request_output_tokens_per_s: Annotated[Distribution | None, _in("tokens/s")]
    """Of each request: output tokens / full round trip."""
    ttft_s: Annotated[Distribution | None, _in("s")]
    """First chunk with text - start."""
    itl_s: Annotated[Distribution | None, _in("s")]
    """Gaps between neighbouring chunks with text; a distribution over gaps."""
    tpot_s: Annotated[Distribution | None, _in("s")]
    """(Last - first chunk with text) / (output tokens - 1); unknown below 2 tokens."""
    e2e_s: Annotated[Distribution | None, _in("s")]
    """Last byte of the answer - start."""
    schedule_lag_s: Annotated[Distribution | None, _in("s")]
    """Start - the moment the request was due; open loop only."""
    ttft_from_schedule_s: Annotated[Distribution | None, _in("s")]
    """`ttft_s` from the moment the request was due (no coordinated omission); open loop only."""
    e2e_from_schedule_s: Annotated[Distribution | None, _in("s")]
    """`e2e_s` from the moment the request was due (no coordinated omission); open loop only."""
    request_prompt_tokens: Annotated[Distribution | None, _in("tokens")]
    """Prompt tokens a request."""
    request_output_tokens: Annotated[Distribution | None, _in("tokens")]
    """Output tokens a request."""

    def distribution(self, name: str) -> Distribution | None:
        """Return the distribution of that name; None where it was not measured."""
        found = getattr(self, name)
        return found if isinstance(found, Distribution) else None

    def value(self, name: str, statistic: str | None = None) -> float | None:
        """Return a figure, of a distribution the statistic; None where it was not measured."""
        if statistic is None:
            found = getattr(self, name)
            return None if found is None else float(found)
        distribution = self.distribution(name)
        return None if distribution is None else distribution.value(statistic)


class _StageLoad(Part):
    """Which load a stage had."""

    name: str
    """The stage's name, or the search's step."""
    users: int | None
    """Users of a closed loop."""
    rate_per_s: PerSecond | None
    """Requests a second of an open loop."""


class StageSummary(Figures, _StageLoad):
    """A stage of a staged load, or a step of a search; beside these keys, the figures of its own window."""


class ObjectiveResult(Part):
    """How a step did by one objective."""

    objective: str
    """The objective as the scenario writes it."""
    figure: float | None
    """The measured figure."""
    interval: Interval | None
    """The figure's confidence interval."""
    passed: bool
    """Whether the figure meets the objective."""
    significant: bool
    """Whether the whole interval is on that side of the limit."""


class CurvePoint(Part):
    """A step of a search."""

    name: str
    """The step's name, as in `stages`."""
    load: float
    """Users, or requests a second."""
    users: int | None
    """Users, where these are searched."""
    rate_per_s: PerSecond | None
    """Requests a second, where these are searched."""
    passed: bool | None
    """Whether every objective was met; `null`: not decided, or invalidated."""
    significant: bool
    """Whether the step was decided with the search's confidence."""
    reason: str
    """Why it passed or failed."""
    objectives: tuple[ObjectiveResult, ...]
    """Each objective with its figure."""
    window_s: Seconds | None
    """Length of the step's window."""
    completed: Requests
    """Answers that ended in the step's window."""
    in_flight_mean: Annotated[float | None, _in("requests")]
    """Mean number of requests in flight in the window."""
    requests_per_min: PerMinute | None
    """As the key of that name of the run, in the step's window."""
    output_tokens_per_s: TokensPerSecond | None
    """As the key of that name of the run, in the step's window."""
    goodput_share: float | None
    """As the key of that name of the run, in the step's window."""
    error_share: float | None
    """As the key of that name of the run, in the step's window."""
    ttft_s: Annotated[Distribution | None, _in("s")]
    """As the key of that name of the run, in the step's window."""
    tpot_s: Annotated[Distribution | None, _in("s")]
    """As the key of that name of the run, in the step's window."""
    e2e_s: Annotated[Distribution | None, _in("s")]
    """As the key of that name of the run, in the step's window."""
    requests_per_min_interval: Annotated[Interval | None, _in("1/min")]
    """Confidence interval of `requests_per_min`."""
    output_tokens_per_s_interval: Annotated[Interval | None, _in("tokens/s")]
    """Confidence interval of `output_tokens_per_s`."""


class CapacityResult(Part):
    """What a search for a capacity found."""

    search: str
    """What was searched: `users` or `rate_per_s`."""
    objectives: tuple[str, ...]
    """The objectives that a load must meet."""
    confidence: float
    """Confidence of each step's verdict."""
    precision: float
    """The search ends when `fails` is at most this share above `passes`."""
    passes: float | None
    """The highest load that passes; `null` where none was found."""
    fails: float | None
    """The lowest load that fails an objective."""
    ended: str
    """`precision` (found), `at_most` (even this load passes), `at_least` (not even this load passes), or `stopped`."""
    significant: bool
    """Whether the load that passes was decided with the search's confidence."""
    step: str | None
    """Name of the step that was found."""
    requests_per_min: PerMinute | None
    """Of the step that was found."""
    requests_per_min_interval: Annotated[Interval | None, _in("1/min")]
    """Confidence interval of `requests_per_min`."""
    output_tokens_per_s: TokensPerSecond | None
    """Of the step that was found."""
    output_tokens_per_s_interval: Annotated[Interval | None, _in("tokens/s")]
    """Confidence interval of `output_tokens_per_s`."""
    knee: float | None
    """The load with the greatest throughput / mean e2e latency."""
    curve: tuple[CurvePoint, ...]
    """Every step, in the order in which it was tried."""


class GateResult(Part):
    """A gate of `[gates]` and what came of it."""

    objective: str
    """The gate as the scenario writes it."""
    figure: float | None
    """The measured figure; one that was not measured fails its gate."""
    passed: bool
    """Whether the figure meets the gate's objective."""
    text: str
    """The same in words."""


class BandwidthUse(Part):
    """A single user's speed beside what the GPU's memory bandwidth allows."""

    mbu: float
    """Memory bandwidth use: measured speed / `bound_tokens_per_s`."""
    bound_tokens_per_s: TokensPerSecond
    """Speed at which every weight is read once a token."""
    implausible: str | None
    """Why the speed cannot be right, if it cannot."""


class CostShares(Part):
    """A cost shared by what it paid for."""

    per_1000_requests: Money | None
    """Cost / answers x 1,000."""
    per_million_output_tokens: Money | None
    """Cost / output tokens x 1,000,000."""


class CostByTime(CostShares):
    """The price of the window's hours, over what was answered in it."""

    per_hour: Money
    """Price of the whole deployment an hour."""
    window: Money | None
    """Price of the window."""


class CostByTokens(CostShares):
    """The price of all prompt and output tokens of the answers whose request started in the window."""

    window: Money | None
    """Price of these tokens."""


class EnergyCost(CostShares):
    """The GPUs' energy over the whole run, and its price where the scenario names one."""

    energy_j: Joules
    """Energy by the GPUs' own counters."""
    j_per_request: Joules | None
    """Energy / answers of the whole run."""
    j_per_output_token: Joules | None
    """Energy / output tokens of the whole run."""
    run: Money | None
    """Price of the energy."""


class CostSummary(Part):
    """What the answers cost; each part is `null` where the scenario names no such price."""

    currency: str | None
    """What the prices are in."""
    by_time: CostByTime | None
    """By the hours of the window."""
    by_tokens: CostByTokens | None
    """By prompt and output tokens."""
    energy: EnergyCost | None
    """By the GPUs' energy."""


class EngineMetrics(Part):
    """What the engine's own series said over the whole run, warm-up included, beside the client's figures."""

    samples: int
    """Reads that succeeded."""
    failed_reads: int
    """Reads that failed."""
    ttft_mean_s: Seconds | None
    """Mean time to first token, by the engine."""
    client_ttft_mean_s: Seconds | None
    """The same by llmload."""
    ttft_gap_s: Seconds | None
    """`client_ttft_mean_s` - `ttft_mean_s`: network, proxies, and queues before the engine."""
    itl_mean_s: Seconds | None
    """Mean gap between tokens, by the engine."""
    client_itl_mean_s: Seconds | None
    """The same by llmload."""
    itl_gap_s: Seconds | None
    """`client_itl_mean_s` - `itl_mean_s`."""
    e2e_mean_s: Seconds | None
    """Mean latency of a request, by the engine."""
    running_max: Annotated[float | None, _in("requests")]
    """Most requests at work at a time."""
    waiting_max: Annotated[float | None, _in("requests")]
    """Most requests in the engine's queue at a time."""
    kv_cache_usage_max: float | None
    """Greatest share of the KV cache in use."""
    preemptions: float | None
    """Requests that the engine put back."""
    prefix_cache_hit_share: float | None
    """Prompt tokens that the prefix cache answered / prompt tokens looked up in it."""
    prompt_tokens: CountedTokens | None
    """Prompt tokens, by the engine."""
    client_prompt_tokens: Tokens
    """The same by the answers that llmload got."""
    output_tokens: CountedTokens | None
    """Output tokens, by the engine."""
    client_output_tokens: Tokens
    """The same by the answers that llmload got."""
    output_tokens_gap: CountedTokens | None
    """`output_tokens` - `client_output_tokens`."""


class GpuMetrics(Part):
    """What DCGM's exporter said over the whole run, added up over the GPUs."""

    samples: int
    """Reads that succeeded."""
    failed_reads: int
    """Reads that failed."""
    gpus: int
    """How many GPUs were seen."""
    memory_used_max_gib: Gib | None
    """Most memory in use."""
    memory_estimate_gib: Gib | None
    """What `llmload vram` expects for weights and overhead."""
    memory_estimate_with_kv_cache_gib: Gib | None
    """The same with the KV cache that fills the rest."""
    power_max_w: Watts | None
    """Greatest power."""
    energy_j: Joules | None
    """Energy."""
    energy_j_per_output_token: Joules | None
    """Energy / output tokens of the whole run."""
    tensor_active_max: float | None
    """Greatest share of time in which the tensor cores were active."""
    nvlink_tx_max_bytes_per_s: BytesPerSecond | None
    """Greatest rate sent over NVLink."""
    nvlink_rx_max_bytes_per_s: BytesPerSecond | None
    """Greatest rate received over NVLink."""
    nvlink_tx_bytes: Bytes | None
    """Bytes sent over NVLink."""
    nvlink_rx_bytes: Bytes | None
    """Bytes received over NVLink."""


class _RunHead(Part):
    """What was run."""

    schema_version: Literal[1]
    """Version of this file's keys; llmload reads no other version than its own."""
    run_id: str
    """The run's name: start time, scenario and four random characters."""
    scenario: str
    """The scenario's name."""
    protocol: str | None
    """Which of the reference document's tables the run belongs in: `speed` or `throughput`."""
    engine: str
    """What tables call the engine."""
    model: str
    """What tables call the model."""
    simulated: bool
    """Whether the simulated engine answered: then no figure is a real engine's."""
    prompt_salt: str | None
    """`request` or `run` where prompts were salted against prefix caches (docs/prefix-cache.md)."""
    load: AnyLoad
    """The load as the scenario has it, without keys that are not set."""
    recomputed: str | None = None
    """Why the figures were counted from the requests, where the run left no summary; else the key is absent."""
    window_started_unix_s: UnixSeconds | None
    """When the window began, by the clock of the process that coordinated the run."""
    requests: RequestCounts
    """Requests of the whole run."""

    @field_serializer("load")
    def _without_unset(self, load: AnyLoad) -> dict[str, Any]:
        return load.model_dump(mode="json", exclude_none=True)


class Summary(Figures, _RunHead):
    """A run's `summary.json`. Keys come in the order of the bases, the last one first."""

    including_failures: IncludingFailures
    """Percentiles in which a failed request is later than every answer."""
    token_source: str | None
    """`usage` (the engine's count), `details` (TGI's), `chunk_usage`, `chunks` (text chunks counted), or `mixed`."""
    stamp_source: str | None
    """`kernel`, `user` where the kernel gave no receive time stamps, or `mixed`."""
    coalesced_share: float | None
    """Chunks that were read together with the one before, and so share its stamp / all chunks."""
    finish_reasons: dict[str, int]
    """Answers by the engine's finish reason, the most common first."""
    verdict: Verdict
    """How far the figures can be trusted."""
    stages: tuple[StageSummary, ...]
    """Each stage of a staged load, or step of a search."""
    capacity: CapacityResult | None = None
    """What a search found (docs/capacity.md); all figures are then of that step. Absent for other loads."""
    engine_metrics: EngineMetrics | None
    """What the engine said of itself, if `[monitor]` names its address (docs/monitoring.md)."""
    gpu_metrics: GpuMetrics | None
    """What the GPUs said of themselves, if `[monitor]` names their exporter (docs/monitoring.md)."""
    bandwidth: BandwidthUse | None
    """For one user on a GPU and model that the catalogue has: the share of memory bandwidth used."""
    cost: CostSummary | None
    """What the answers cost, where `[cost]` or DCGM's exporter is there (docs/cost.md)."""
    gates: tuple[GateResult, ...]
    """Each gate of `[gates]`."""

    @model_serializer(mode="wrap")
    def _without_absent(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = whole(self)
        return {key: value for key, value in content.items() if value is not None or key not in _ABSENT_WHEN_NONE}


_ABSENT_WHEN_NONE: Final = ("recomputed", "capacity")
