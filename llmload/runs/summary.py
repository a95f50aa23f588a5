"""`summary.json` as types: docs/summary.md's tables and the JSON Schema are generated from them."""

from typing import Annotated, Any, Final, Literal

from pydantic import SerializerFunctionWrapHandler, field_serializer, model_serializer

from llmload.metrics.validity import Doubt, Verdict
from llmload.runs.summary_parts import (
    BandwidthUse,
    CapacityResult,
    CostSummary,
    Distribution,
    EditedLoad,
    EngineMetrics,
    EngineWindow,
    FailedRequests,
    GpuMetrics,
    Limit,
    OtherUsers,
    Part,
    PerMinute,
    PerSecond,
    RequestFile,
    RequestFileName,
    Requests,
    Seconds,
    Speculation,
    Tokens,
    TokensPerSecond,
    UnixSeconds,
    in_unit,
)
from llmload.runs.sweep import SweepResult
from llmload.scenario.loads import AnyLoad
from llmload.units import counted

SCHEMA_VERSION: Final = 1
"""Raised by every change to a key or its meaning; a folder of another version is refused."""


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
    failures: tuple[FailedRequests, ...]
    """The three most frequent failures, by type, status and the engine's own words."""
    completed_in_window: Requests
    """Answers that ended in the window."""
    reconnects: int
    """A kept-alive connection had gone: it was opened again and the request sent again."""
    lost_lines: Requests | None = None
    """Requests that ended, but whose line could not be written to the folder; `null`: not known."""
    retries: int
    """Requests sent again because the scenario asks for it (`client.retries`)."""


class NetworkSummary(Part):
    """What the packet ring saw of the network between client and engine, in the whole run."""

    same_segment_share: float | None
    """Chunks that came in one TCP segment with the one before / all chunks: these really came together."""
    retransmissions: int
    """TCP segments of requests and answers that came twice."""
    late_segments: int
    """TCP segments of answers that came after later ones, which had to wait: lost and sent again, or overtaken."""
    engine_closed_windows: int
    """Times that the engine's host took no more bytes of a request for a while."""
    client_closed_windows: int
    """Times that the client's host took no more bytes of an answer for a while: the client read too late."""
    dropped_segments: int | None
    """Segments that the packet rings had no room for; `null`: not known, as only the run itself counts them."""
    missed_bytes: int
    """Bytes of answers whose segments the ring missed, so the process stamped them after it read them."""
    resets: dict[str, int]
    """Requests whose connection was reset, by the side that did it: `engine` or `client`."""
    waits_for_acknowledgements: bool | None
    """Whether an engine (or a proxy) uses Nagle's algorithm: small writes wait until the last is acknowledged."""


class Reasoning(Part):
    """What answers thought before they said something, of requests that started in the window."""

    answers: Requests
    """Answers with reasoning, by their chunks or by the engine's count."""
    hidden: Requests
    """Those of which the engine counted reasoning tokens and sent none."""
    without_answer: Requests
    """Those that ended while the model still reasoned."""
    tokens: Tokens
    """Their reasoning tokens."""
    share: float | None
    """`tokens` / output tokens of all answers."""
    estimated: bool
    """Whether the tokens of some answers are estimated: output tokens x the share of reasoning among the chunks."""


class AskedLengths(Part):
    """Requested lengths beside those that the engine counted, of requests that started in the window."""

    requests: Requests
    """Answers whose length is known."""
    asked_mean: float
    """Requested tokens, a request."""
    counted_mean: float
    """Tokens that the engine counted, a request."""
    deviation_max: Tokens
    """The most tokens that one is longer or shorter than requested."""
    exact_share: float
    """Requests with exactly their length / requests."""
    missed_share: float
    """Tokens missing or too many, of each request / requested tokens."""


class LengthsSummary(Part):
    """Whether prompts and answers have the lengths that the scenario requests; `null`: none were requested."""

    input: AskedLengths | None
    """Of prompts, the chat template included."""
    output: AskedLengths | None
    """Of answers."""
    template: Literal["counted", "excluded"]
    """Whether the scenario's `input_tokens` include the chat template; here they always do."""


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
    request_output_tokens_per_s: Annotated[Distribution | None, in_unit("tokens/s")]
    """Of each request: output tokens / full round trip."""
    ttft_s: Annotated[Distribution | None, in_unit("s")]
    """First chunk with text - start."""
    ttfa_s: Annotated[Distribution | None, in_unit("s")]
    """Time to first answer: first chunk that is not reasoning - start; `ttft_s` of an answer without reasoning."""
    thinking_s: Annotated[Distribution | None, in_unit("s")]
    """First chunk of the answer - first chunk with text; of answers with reasoning alone."""
    answer_tpot_s: Annotated[Distribution | None, in_unit("s")]
    """(Last - first chunk of the answer) / (its tokens - 1), without reasoning; of answers with reasoning alone."""
    engine_queue_s: Annotated[Distribution | None, in_unit("s")]
    """The part of TTFT in the engine's queue, by its own account of each request (docs/timings.md)."""
    engine_prefill_s: Annotated[Distribution | None, in_unit("s")]
    """The part of TTFT in which the engine computed the prompt, by its own account of each request."""
    ttft_rest_s: Annotated[Distribution | None, in_unit("s")]
    """`ttft_s` - queue and prefill of each request: network, proxies, tokenising; the queue where it is not known."""
    engine_decode_s: Annotated[Distribution | None, in_unit("s")]
    """First to last token of each request, by the engine's own account."""
    itl_s: Annotated[Distribution | None, in_unit("s")]
    """Gaps between neighbouring chunks with text; a distribution over gaps."""
    tpot_s: Annotated[Distribution | None, in_unit("s")]
    """(Last - first chunk with text) / (output tokens - 1); unknown below 2 tokens."""
    e2e_s: Annotated[Distribution | None, in_unit("s")]
    """Last byte of the answer - start."""
    schedule_lag_s: Annotated[Distribution | None, in_unit("s")]
    """Start - the moment the request was due; open loop only."""
    ttft_from_schedule_s: Annotated[Distribution | None, in_unit("s")]
    """`ttft_s` from the moment the request was due (no coordinated omission); open loop only."""
    ttft_wire_s: Annotated[Distribution | None, in_unit("s")]
    """First chunk with text - departure of the request: TTFT without the client's part; by the packet ring only."""
    departure_delay_s: Annotated[Distribution | None, in_unit("s")]
    """Departure of the request - start, or opening of its new connection: what the client took; by the ring only."""
    rtt_s: Annotated[Distribution | None, in_unit("s")]
    """Departure of the request to its acknowledgement, or the same of its connection's opening; by the ring only."""
    e2e_from_schedule_s: Annotated[Distribution | None, in_unit("s")]
    """`e2e_s` from the moment the request was due (no coordinated omission); open loop only."""
    request_prompt_tokens: Annotated[Distribution | None, in_unit("tokens")]
    """Prompt tokens a request."""
    request_output_tokens: Annotated[Distribution | None, in_unit("tokens")]
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
    """The stage's name, the step of a search or a sweep, or the phase that an edit began."""
    users: int | None
    """Users of a closed loop."""
    rate_per_s: PerSecond | None
    """Requests a second of an open loop."""

    @property
    def load_text(self) -> str:
        """Its load in few words."""
        return load_text(self.users, self.rate_per_s)


def load_text(users: int | None, rate_per_s: float | None) -> str:
    """Return a stage's load in few words: `8 users`, `2.5 req/s`."""
    return counted(users, "user") if users else f"{rate_per_s:g} req/s" if rate_per_s else "no load"


class StageSummary(Figures, _StageLoad):
    """A stage of a load, step of a search or sweep, or phase of an edited load, with the figures of its window."""

    doubts: tuple[Doubt, ...] = ()
    """The figures of the stage that may be off."""
    limited_by: Limit | None = None
    """What limited the load; `null` where the engine says nothing of itself."""
    engine_window: EngineWindow | None = None
    """What the engine's own series said of the stage's window."""
    speculation: Speculation | None = None
    """What speculative decoding did in it."""


class _NameCounts(Part):
    """Which requests, and how they ended."""

    name: str
    """The requests' name; `other names`: those of all further ones, where there are more than 32."""
    completed: Requests
    """A complete answer came."""
    failed: Requests
    """The request ended in an error."""
    censored: Requests
    """Cut by the end of the run."""
    errors: dict[str, int]
    """Failed requests by type of error, the most common first."""


class NameSummary(Figures, _NameCounts):
    """Requests of one name (`LlmUser`, `[[mix]]`), with their figures in the window of the whole run."""

    lengths: LengthsSummary | None = None
    """The lengths that were requested of them, and those that the engine counted."""
    doubts: tuple[Doubt, ...] = ()
    """The figures that may be off."""


class GateResult(Part):
    """A gate of `[gates]` and what came of it."""

    objective: str
    """The gate as the scenario writes it."""
    figure: float | None
    """The measured figure; one that was not measured fails its gate."""
    passed: bool | None
    """Whether the figure meets the gate's objective; `null`: not judged, since the run was cut."""
    text: str
    """The same in words."""


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
    prompt_salt: Literal["request", "run", "repeats"] | None
    """`request`, `run` or `repeats` where prompts were salted against prefix caches (docs/prefix-cache.md)."""
    load: AnyLoad
    """The load as the scenario has it, without keys that are not set; of one that was edited, that of its phase."""
    recomputed: str | None = None
    """Why the figures were counted from the requests, where the run left no summary; else the key is absent."""
    window_started_unix_s: UnixSeconds | None
    """When the window began, by the clock of the process that coordinated the run."""
    requests: RequestCounts
    """Requests of the whole run."""
    request_files: dict[RequestFileName, RequestFile] | None = None
    """The folder's files of requests, as the run left them, without those of workers on other machines."""

    @field_serializer("load")
    def _without_unset(self, load: AnyLoad) -> dict[str, Any]:
        return load.model_dump(mode="json", exclude_none=True)


class Summary(Figures, _RunHead):
    """A run's `summary.json`. Keys come in the order of the bases, the last one first."""

    including_failures: IncludingFailures
    """Percentiles in which a failed request is later than every answer."""
    token_source: str | None
    """`usage` (the engine's count), `chunks` (text chunks counted), another of docs/answers.md, or `mixed`."""
    stamp_source: str | None
    """`packet` (the packet ring), `kernel` (stamped reads), `user` (the process after it read), or `mixed`."""
    coalesced_share: float | None
    """Chunks that were read together with the one before, and so share its stamp / all chunks."""
    network: NetworkSummary | None
    """What the packet ring saw besides stamps; `null` where no stamp is from it."""
    reasoning: Reasoning | None = None
    """What answers thought before they said something; absent where none did."""
    lengths: LengthsSummary | None = None
    """The lengths that were requested, and those that the engine counted; absent where none were requested."""
    finish_reasons: dict[str, int]
    """Answers by the engine's finish reason, the most common first."""
    verdict: Verdict
    """How far the figures can be trusted."""
    stages: tuple[StageSummary, ...]
    """Each stage of a staged load, step of a search or a sweep, or phase of a load that was edited during the run."""
    by_name: tuple[NameSummary, ...] | None = None
    """Requests by their names, in the order in which they came; absent where requests have no names."""
    edited: EditedLoad | None = None
    """How the load was edited during the run; absent where it was not."""
    capacity: CapacityResult | None = None
    """What a search found (docs/capacity.md); all figures are then of that step. Absent for other loads."""
    sweep: SweepResult | None = None
    """What a sweep measured (docs/sweep.md); all figures are then of the last round of its point with the most output
    tokens/s that misses no gate. Absent for other loads."""
    other_users: OtherUsers | None = None
    """What users that are not llmload's did, where there were any; their failures make the exit code 1."""
    limited_by: Limit | None = None
    """What limited the load in the window (docs/timings.md); absent where the engine says nothing of itself."""
    engine_window: EngineWindow | None = None
    """What the engine's own series said of the window, if `[monitor]` names its address; else absent."""
    speculation: Speculation | None = None
    """What speculative decoding did in the window; absent where the engine has none."""
    engine_metrics: EngineMetrics | None
    """What the engine said of itself, if `[monitor]` names its address (docs/monitoring.md)."""
    gpu_metrics: GpuMetrics | None
    """What the GPUs said of themselves, if `[monitor]` names their exporter (docs/monitoring.md)."""
    bandwidth: BandwidthUse | None
    """For one user on a GPU and model that the catalogue has: the share of memory bandwidth used."""
    gpu_warning: str | None = None
    """Why there is neither `bandwidth` nor a memory estimate: `deployment.gpu` tells no card; absent where it does."""
    cost: CostSummary | None
    """What the answers cost, where `[cost]` or DCGM's exporter is there (docs/cost.md)."""
    gates: tuple[GateResult, ...]
    """Each gate of `[gates]`."""

    @model_serializer(mode="wrap")
    def _without_absent(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = whole(self)
        return {key: value for key, value in content.items() if value is not None or key not in _ABSENT_WHEN_NONE}


_ABSENT_WHEN_NONE: Final = (
    "gpu_warning",
    "recomputed",
    "reasoning",
    "lengths",
    "by_name",
    "edited",
    "capacity",
    "sweep",
    "other_users",
    "limited_by",
    "engine_window",
    "speculation",
)
