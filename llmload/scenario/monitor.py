"""What is read beside the run: the engine's own series and the GPUs'."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from llmload.scenario.table import Positive, Table


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
