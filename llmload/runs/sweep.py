"""The object `sweep` of a summary: every point, what a user of it gets, and which points are on the Pareto front."""

from typing import Annotated, Final, Literal

from llmload.metrics.validity import Verdict
from llmload.runs.summary_parts import Interval, Part, PerMinute, PerSecond, Requests, Tokens, TokensPerSecond, in_unit

USER_SPEEDS: Final = {
    "median": "1/P50 of TPOT, as InferenceX",
    "p90": "1/P90 of TPOT, as MLPerf",
    "mean": "mean of 1/TPOT, as AIPerf",
    "share": "output tok/s / concurrency, as vLLM",
}
"""The four definitions of what a user gets, by their keys in `tokens_per_s_per_user`."""
SpeedName = Literal["median", "p90", "mean", "share"]
FRONT_SPEED: Final[SpeedName] = "median"
"""What a user gets on the front that tables mark: one answer that came at once, or late, hardly moves it."""


GpuSource = Literal["scenario", "engine", "dcgm"]


class UserSpeed(Part):
    """Output tokens a second of one user, by four definitions that differ: none is to be compared with another."""

    median: TokensPerSecond | None
    """1 / the median of TPOT: the interactivity of InferenceX."""
    mean: TokensPerSecond | None
    """Mean of 1/TPOT over requests, AIPerf's, by the histogram of TPOT (each value within 0.18 %); `null` where tokens
    of an answer came together."""
    mean_interval: Annotated[Interval | None, in_unit("tokens/s")]
    """Its confidence interval."""
    p90: TokensPerSecond | None
    """1 / the 90th percentile of TPOT: MLPerf's."""
    share: TokensPerSecond | None
    """Output tokens/s / users, or / mean requests in flight of an open loop: vLLM's."""
    share_interval: Annotated[Interval | None, in_unit("tokens/s")]
    """Its confidence interval."""

    def value(self, name: SpeedName) -> float | None:
        """Return the speed by a definition."""
        found: float | None = getattr(self, name)
        return found

    def interval(self, name: SpeedName) -> Interval | None:
        """Return its confidence interval, where that is known."""
        return {"mean": self.mean_interval, "share": self.share_interval}.get(name)


class SweepPoint(Part):
    """A load of a sweep, over all rounds in which it was measured; `stages` has the figures of each."""

    name: str
    """Its shape, if any, and its load in few words: `1024/128, 8 users`."""
    stages: tuple[str, ...]
    """The names of its rounds among the summary's `stages`."""
    input_tokens: Tokens | None
    """Tokens that each prompt was to have, where each of `prompts.shapes` has its own ladder."""
    output_tokens: Tokens | None
    """The same of each answer."""
    users: int | None
    """Users of a closed loop."""
    rate_per_s: PerSecond | None
    """Requests a second of an open loop."""
    window_s: Annotated[float | None, in_unit("s")]
    """Length of its windows together."""
    completed: Requests
    """Answers that ended in its windows."""
    wanted: Requests
    """Answers that it was to have."""
    in_flight_mean: Annotated[float | None, in_unit("requests")]
    """Mean number of requests in flight."""
    requests_per_min: PerMinute | None
    """As the key of that name of the run, in its windows."""
    requests_per_min_interval: Annotated[Interval | None, in_unit("1/min")]
    """Its confidence interval."""
    output_tokens_per_s: TokensPerSecond | None
    """As the key of that name of the run, in its windows."""
    output_tokens_per_s_interval: Annotated[Interval | None, in_unit("tokens/s")]
    """Its confidence interval."""
    output_tokens_per_s_per_gpu: TokensPerSecond | None
    """`output_tokens_per_s` / `gpus`."""
    input_tokens_per_s_per_gpu: TokensPerSecond | None
    """Prompt tokens of answers in its windows / their length / `gpus`; with the output's, InferenceX's throughput per
    GPU."""
    requests_per_min_per_gpu: PerMinute | None
    """`requests_per_min` / `gpus`."""
    tokens_per_s_per_user: UserSpeed
    """What a user gets."""
    ttft_p50_s: Annotated[float | None, in_unit("s")]
    """Median of TTFT."""
    ttft_p95_s: Annotated[float | None, in_unit("s")]
    """95th percentile of TTFT."""
    tpot_p50_s: Annotated[float | None, in_unit("s")]
    """Median of TPOT."""
    e2e_p50_s: Annotated[float | None, in_unit("s")]
    """Median of the end-to-end latency."""
    error_share: float | None
    """Failed requests / requests that ended in its windows."""
    prompt_tokens_mean: Annotated[float | None, in_unit("tokens")]
    """Mean of prompt tokens a request."""
    output_tokens_mean: Annotated[float | None, in_unit("tokens")]
    """Mean of output tokens a request."""
    client_bound: bool
    """Whether the load generator, not the engine, may have limited it."""
    missed_gates: tuple[str, ...]
    """The gates that it misses, in words."""
    verdict: Verdict
    """How far its figures can be trusted; an INVALID point is on no front."""

    @property
    def shape(self) -> str:
        """The lengths of its prompts and answers, as the field writes them; empty where it has no shape."""
        return "" if self.input_tokens is None else f"{self.input_tokens}/{self.output_tokens}"

    @property
    def load(self) -> float:
        """Its users, or its rate."""
        return float(self.users or self.rate_per_s or 0.0)


class SweepFront(Part):
    """The points that no other of their shape beats in both what a user gets and what the deployment gives."""

    median: tuple[str, ...]
    """With 1/P50 of TPOT as what a user gets; names of points, the fastest for a user last."""
    p90: tuple[str, ...]
    """With 1/P90 of TPOT."""
    mean: tuple[str, ...]
    """With the mean of 1/TPOT."""
    share: tuple[str, ...]
    """With output tokens/s / concurrency."""


class SweepResult(Part):
    """What a sweep measured."""

    points: tuple[SweepPoint, ...]
    """Every point, shape by shape, in ascending order of load."""
    front: SweepFront
    """The Pareto fronts."""
    gpus: int | None
    """The number of GPUs that figures per GPU are of; `null`: not known, so there are none."""
    gpus_counted_from: GpuSource | None
    """Who says so: `deployment.gpus`, the engine by all its parallel sizes, or DCGM's exporter."""
    gpus_said: dict[GpuSource, int]
    """The number by each of these who says one; the first is `gpus`."""
    between: str
    """What kept points apart in the prefix cache: `salt`, `reset_prefix_cache` or `nothing`."""
    rounds: int
    """How often the ladder was to be measured."""
    interval_from: Literal["rounds", "window"]
    """Whether intervals are by the spread between rounds (three or more), or by parts of one window."""
    ended: str | None
    """Why the ladder ended before its last load; `null` where it did not."""
    complete: bool
    """Whether every point was measured as often as asked, so far as the ladder went."""

    def on_front(self, point: SweepPoint, name: SpeedName = FRONT_SPEED) -> bool:
        """Return whether a point is on the front by a definition of what a user gets."""
        return point.name in getattr(self.front, name)
