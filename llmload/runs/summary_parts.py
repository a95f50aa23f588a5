"""Objects inside a summary: distributions, a search's result, cost, bandwidth, metrics of engine and GPUs."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from llmload.metrics.failures import Failure
from llmload.units import number, percent


def in_unit(unit: str) -> Any:
    """Return the annotation that gives a key its unit."""
    return Field(json_schema_extra={"unit": unit})


Seconds = Annotated[float, in_unit("s")]
UnixSeconds = Annotated[float, Field(ge=0, le=2**32), in_unit("s since 1970")]
PerMinute = Annotated[float, in_unit("1/min")]
PerSecond = Annotated[float, in_unit("1/s")]
TokensPerSecond = Annotated[float, in_unit("tokens/s")]
Tokens = Annotated[int, in_unit("tokens")]
CountedTokens = Annotated[float, in_unit("tokens")]
Requests = Annotated[int, in_unit("requests")]
Interval = tuple[float, float]
Bytes = Annotated[float, in_unit("bytes")]
BytesPerSecond = Annotated[float, in_unit("bytes/s")]
Gib = Annotated[float, in_unit("GiB")]
Watts = Annotated[float, in_unit("W")]
Joules = Annotated[float, in_unit("J")]
Money = Annotated[float, in_unit("currency")]


class Part(BaseModel):
    """A JSON object of a run's files: no key is missing, no other key is there, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class FailedRequests(Part):
    """Failed requests of one type and status that say the same."""

    type: str
    """The type of error: one of `errors`."""
    http_status: int | None
    """The answer's status; `null` where there was none."""
    words: str
    """What the engine or the system said: `#` and `*` are numbers and ids that differ, an ellipsis what was cut."""
    count: Requests
    """How many there were."""
    share: float
    """`count` / requests that ended, with any outcome."""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """What failed how, how many, the share, and the words, as text."""
        what = Failure(self.type, self.http_status, self.words, self.count)
        return what.name, number(self.count, 0), percent(self.share), what.said

    @property
    def text(self) -> str:
        """The same in one line."""
        name, count, share, said = self.cells
        return f"{count} ({share}) {name}: {said}"


RequestFileName = Annotated[str, Field(pattern=r"^requests[\w.-]*\.jsonl$")]
"""A file of the run's own folder, not the path of another."""


class RequestFile(Part):
    """What a file of requests held at the run's end."""

    lines: int
    """Requests that were written to it."""
    size_bytes: int
    """Its size."""


class Distribution(Part):
    """A distribution: mean, greatest and count are exact; percentiles are by nearest rank, at most 0.18 % off."""

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
    in_flight_mean: Annotated[float | None, in_unit("requests")]
    """Mean number of requests in flight in the window."""
    requests_per_min: PerMinute | None
    """As the key of that name of the run, in the step's window."""
    output_tokens_per_s: TokensPerSecond | None
    """As the key of that name of the run, in the step's window."""
    goodput_share: float | None
    """As the key of that name of the run, in the step's window."""
    error_share: float | None
    """As the key of that name of the run, in the step's window."""
    ttft_s: Annotated[Distribution | None, in_unit("s")]
    """As the key of that name of the run, in the step's window."""
    tpot_s: Annotated[Distribution | None, in_unit("s")]
    """As the key of that name of the run, in the step's window."""
    e2e_s: Annotated[Distribution | None, in_unit("s")]
    """As the key of that name of the run, in the step's window."""
    requests_per_min_interval: Annotated[Interval | None, in_unit("1/min")]
    """Confidence interval of `requests_per_min`."""
    output_tokens_per_s_interval: Annotated[Interval | None, in_unit("tokens/s")]
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
    requests_per_min_interval: Annotated[Interval | None, in_unit("1/min")]
    """Confidence interval of `requests_per_min`."""
    output_tokens_per_s: TokensPerSecond | None
    """Of the step that was found."""
    output_tokens_per_s_interval: Annotated[Interval | None, in_unit("tokens/s")]
    """Confidence interval of `output_tokens_per_s`."""
    knee: float | None
    """The load with the greatest throughput / mean e2e latency."""
    curve: tuple[CurvePoint, ...]
    """Every step, in the order in which it was tried."""


class OtherFailure(Part):
    """A failed request of another user, or an exception of a user's task."""

    text: str
    """What failed, and what it said."""
    count: int
    """How often."""


class OtherUsers(Part):
    """What users that are not llmload's did beside the load, by Locust's own tables."""

    requests: Requests
    """Their requests."""
    failed: Requests
    """Those of them that Locust counts as failures."""
    exceptions: int
    """Exceptions that tasks of users raised."""
    most_frequent: tuple[OtherFailure, ...]
    """The three most frequent failures and exceptions."""

    @property
    def all_good(self) -> bool:
        """Whether nothing failed, so that Locust's exit code would be 0."""
        return not self.failed and not self.exceptions

    @property
    def summed_up(self) -> str:
        """The same in one line."""
        said = "".join(f"; {each.text} ({each.count} times)" for each in self.most_frequent)
        return f"{self.requests} requests, {self.failed} failed, {self.exceptions} exceptions{said}"


class EditedLoad(Part):
    """How the load was edited during the run, and which of its phases the figures are of."""

    edits: int
    """How many edits changed the load; `manifest.json` has each."""
    phase: str | None
    """The phase that all figures are of, as in `stages`: the last whole one; `null`: none was whole."""
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


class Speculation(Part):
    """What speculative decoding did in a window."""

    source: str
    """`requests` (the engine's account of each answer), or `engine` (its counters)."""
    drafts: float | None
    """Steps; `null` where the engine does not count them."""
    draft_tokens: CountedTokens
    """Tokens that were drafted."""
    accepted_tokens: CountedTokens
    """Those of them that the model took."""
    acceptance_rate: float
    """`accepted_tokens` / `draft_tokens`."""
    accept_length: float | None
    """Tokens a step: 1 + `accepted_tokens` / `drafts`."""
    by_position: tuple[float, ...]
    """Of the first, second, ... drafted token: in which part of the steps it was accepted; empty where not known."""


class EngineWindow(Part):
    """What the engine's own series said of a window: counters from its start to its end, gauges within it."""

    samples: int
    """Reads within the window."""
    running_mean: Annotated[float | None, in_unit("requests")]
    """Requests at work, the mean."""
    running_max: Annotated[float | None, in_unit("requests")]
    """The most at a time."""
    waiting_mean: Annotated[float | None, in_unit("requests")]
    """Requests in the engine's queue, the mean."""
    waiting_max: Annotated[float | None, in_unit("requests")]
    """The most at a time."""
    kv_cache_usage_mean: float | None
    """Share of the KV cache in use, the mean."""
    kv_cache_usage_max: float | None
    """The greatest."""
    preemptions: float | None
    """Requests that the engine put back."""
    prompt_tokens: CountedTokens | None
    """Prompt tokens, by the engine."""
    output_tokens: CountedTokens | None
    """Output tokens, by the engine."""
    prefix_cache_hit_share: float | None
    """Prompt tokens that the prefix cache answered / prompt tokens looked up in it."""
    ttft_mean_s: Seconds | None
    """Mean time to first token, by the engine."""
    itl_mean_s: Seconds | None
    """Mean gap between tokens, by the engine."""
    queue_mean_s: Seconds | None
    """Mean time of a request in the engine's queue."""
    prefill_mean_s: Seconds | None
    """Mean time of a request's prefill."""
    decode_mean_s: Seconds | None
    """Mean time from a request's first token to its last."""


class Limit(Part):
    """What limits a load, by what was seen in its window (docs/timings.md)."""

    limit: str
    """`client`, `kv_cache`, `max_num_seqs`, `network`, `prefill`, `bandwidth` or `nothing`."""
    text: str
    """What shows it."""
    remedy: str
    """What moves it: the engine's option, where there is one."""

    @property
    def name(self) -> str:
        """The limit in words."""
        return {"kv_cache": "KV cache", "max_num_seqs": "max-num-seqs"}.get(self.limit, self.limit)


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
    running_max: Annotated[float | None, in_unit("requests")]
    """Most requests at work at a time."""
    waiting_max: Annotated[float | None, in_unit("requests")]
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
