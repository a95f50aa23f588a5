"""What every table of a scenario is, and the tables beside the load: `[gates]`, `[monitor]`, `[cost]`, `[compare]`."""

from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llmload.access.address import checked_url
from llmload.metrics.objective import Objective, metrics_named, share

_LARGEST: Final = 1e9
"""Thirty years in seconds: what is added up in nanoseconds stays an integer of 64 bits."""
Positive = Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
MAX_LOAD: Final = 1_000_000
"""Users, or requests a second, of any load: a message to a worker takes no more."""
Users = Annotated[int, Field(ge=1, le=MAX_LOAD)]
Rate = Annotated[float, Field(gt=0, le=MAX_LOAD, allow_inf_nan=False)]


class Table(BaseModel):
    """A table of the file; a misspelt key is an error, since its setting would be lost without notice."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


def _normalised(text: str) -> str:
    return str(Objective.parse(text))


ObjectiveText = Annotated[str, AfterValidator(_normalised)]
"""A line that `Objective.parse` accepts, such as `ttft_s p95 < 0.5`."""


class Gates(Table):
    """Objectives that decide whether a pipeline passes: where the run misses one, its exit code is 1."""

    objectives: list[ObjectiveText] = Field(default_factory=list)
    """Such as `ttft_s p95 < 0.5`, `goodput_share >= 0.95`, `error_share <= 0.01`."""

    @model_validator(mode="after")
    def _no_duplicates(self) -> Self:
        for index, text in enumerate(self.objectives):
            if text in self.objectives[:index]:
                raise ValueError(f"duplicate objective {text}")
        return self

    def parsed(self) -> tuple[Objective, ...]:
        """Return the objectives."""
        return tuple(map(Objective.parse, self.objectives))


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


MetricsUrl = Annotated[str, AfterValidator(checked_url)]


class Monitor(Table):
    """Metrics of the engine and the GPUs, which the master (or the only process) reads into the run folder."""

    engine_metrics_url: Annotated[
        list[MetricsUrl], BeforeValidator(_as_list, json_schema_input_type=str | list[str])
    ] = Field(default_factory=list)
    """The engine's `/metrics`; a list has one URL for each engine, and their counts are summed."""
    dcgm_url: MetricsUrl | None = None
    """The `/metrics` of DCGM's exporter: the GPUs' utilisation, memory and energy."""
    interval_s: Positive = 1.0
    """Time between two reads."""


class Cost(Table):
    """Prices in one currency; each kind of price gives its own cost, since they are rarely paid together."""

    currency: str = Field(min_length=1)
    """The currency of all prices, as it is printed."""
    price_per_hour: Positive | None = None
    """Price of the whole deployment for an hour."""
    price_per_gpu_hour: Positive | None = None
    """Price of each of `deployment.gpus` for an hour."""
    price_per_million_input_tokens: NotNegative | None = None
    """Price of a million prompt tokens, as a hosted API charges it."""
    price_per_million_output_tokens: NotNegative | None = None
    """Price of a million output tokens, as a hosted API charges it."""
    price_per_kwh: Positive | None = None
    """Price of the energy that the GPUs' counters report (`monitor.dcgm_url`)."""

    @model_validator(mode="after")
    def _prices_agree(self) -> Self:
        prices = {name: getattr(self, name) for name in type(self).model_fields if name != "currency"}
        if all(price is None for price in prices.values()):
            raise ValueError(f"needs a price: {', '.join(prices)}")
        if self.price_per_hour is not None and self.price_per_gpu_hour is not None:
            raise ValueError("price_per_hour is the whole deployment's: leave out either it or price_per_gpu_hour")
        if (self.price_per_million_input_tokens is None) != (self.price_per_million_output_tokens is None):
            raise ValueError("price_per_million_input_tokens and price_per_million_output_tokens belong together")
        return self


def _as_thresholds(value: object) -> object:
    if not isinstance(value, dict):
        return value
    for key in value:
        metrics_named(str(key))
    return {str(key): share(each) for key, each in value.items()}


def _all_known(keys: list[str]) -> list[str]:
    for key in keys:
        metrics_named(key)
    return keys


class Compare(Table):
    """What `llmload compare` accepts when this scenario's run is the candidate."""

    thresholds: Annotated[
        dict[str, float], BeforeValidator(_as_thresholds, json_schema_input_type=dict[str, float | str])
    ] = Field(default_factory=dict)
    """Accepted worsening by metric: `"ttft_s p95" = "5%"`; `"ttft_s"` means all of its statistics, `"all"` every
    metric."""
    only: Annotated[list[str], AfterValidator(_all_known)] = Field(default_factory=list)
    """The metrics that are compared; all where empty."""
    allow: list[str] = Field(default_factory=list)
    """The settings that may differ between the runs."""
