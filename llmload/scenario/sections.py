"""The smaller tables of a scenario: gates, monitoring, cost, comparison."""

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llmload.metrics.compared import metrics_named, share
from llmload.metrics.objective import Objective

# What every table of a scenario is.

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A table of the file: a misspelt key is an error, since it would silently lose its setting."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


# A promise as a scenario writes it.


def _as_written(text: str) -> str:
    return str(Objective.parse(text))


ObjectiveText = Annotated[str, AfterValidator(_as_written)]
"""A line that `Objective.parse` understands, such as `ttft_s p95 < 0.5`."""


# What is read beside the run: the engine's own series and the GPUs'.


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("a metrics URL looks like http://127.0.0.1:8000/metrics")
    if parts.username or parts.password:
        raise ValueError("a metrics URL carries no password: it would stand in the run folder")
    return url


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


MetricsUrl = Annotated[str, AfterValidator(_checked)]


class Monitor(Table):
    """Where the engine and DCGM's exporter serve their series; read by the steering node into the run folder."""

    engine_metrics_url: Annotated[list[MetricsUrl], BeforeValidator(_as_list)] = Field(default_factory=list)
    """One URL or a list, an engine each; their counts are added up."""
    dcgm_url: MetricsUrl | None = None
    interval_s: Positive = 1.0


class Cost(Table):
    """Prices in one currency; each kind of price gives a cost of its own, since they are rarely paid together."""

    currency: str = Field(min_length=1)
    """What the prices are in, as it is to be printed."""
    price_per_hour: Positive | None = None
    """Of the whole deployment."""
    price_per_gpu_hour: Positive | None = None
    """Of each of `deployment.gpus`."""
    price_per_million_input_tokens: NotNegative | None = None
    price_per_million_output_tokens: NotNegative | None = None
    price_per_kwh: Positive | None = None
    """Of the energy that the GPUs' own counters tell of (`monitor.dcgm_url`)."""

    @model_validator(mode="after")
    def _prices_agree(self) -> Self:
        prices = {name: getattr(self, name) for name in type(self).model_fields if name != "currency"}
        if all(price is None for price in prices.values()):
            raise ValueError(f"needs a price: {', '.join(prices)}")
        if self.price_per_hour is not None and self.price_per_gpu_hour is not None:
            raise ValueError("price_per_hour is the whole deployment's: leave it or price_per_gpu_hour out")
        if (self.price_per_million_input_tokens is None) != (self.price_per_million_output_tokens is None):
            raise ValueError("price_per_million_input_tokens and price_per_million_output_tokens belong together")
        return self


# What a run must keep to succeed in a pipeline.


class Gates(Table):
    """Promises about the run's figures; one that is missed makes its exit code 1."""

    objectives: list[ObjectiveText] = Field(default_factory=list)
    """Such as `ttft_s p95 < 0.5`, `goodput_share >= 0.95`, `error_share <= 0.01`."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for index, text in enumerate(self.objectives):
            if text in self.objectives[:index]:
                raise ValueError(f"{text} is promised twice")
        return self

    def parsed(self) -> tuple[Objective, ...]:
        """Return the promises."""
        return tuple(map(Objective.parse, self.objectives))


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
    """What `llmload compare` accepts, where the candidate's scenario says so."""

    thresholds: Annotated[dict[str, float], BeforeValidator(_as_thresholds)] = Field(default_factory=dict)
    """Accepted worsening by metric: `"ttft_s p95" = "5%"`; a figure stands for all its statistics, `all` for all."""
    only: Annotated[list[str], AfterValidator(_all_known)] = Field(default_factory=list)
    """Metrics that are judged; all where empty."""
    allow: list[str] = Field(default_factory=list)
    """What may differ between the runs."""
