"""How much worse a candidate may be: `[compare]` of a scenario or a pyproject, and what the command line says."""

import difflib
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from llmload.errors import ConfigError
from llmload.measure.comparison import METRICS, Metric
from llmload.scenario.table import Table

ALL: Final = "all"
NAMES: Final = tuple(metric.name for metric in METRICS)
FIGURES: Final = tuple(dict.fromkeys(metric.figure for metric in METRICS))


def share(value: object) -> float:
    """Return the share that `0.05` or `5%` is; ValueError for what is none."""
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise ValueError("an accepted worsening looks like 5% or 0.05")
    return number


def named_by(key: str) -> tuple[str, ...]:
    """Return the metrics that `ttft_s.p95`, `ttft_s p95`, `ttft_s` or `all` names; ValueError for a name of none."""
    name = " ".join(key.replace(".", " ").split())
    found = tuple(metric.name for metric in METRICS if name in {ALL, metric.figure, metric.name})
    if not found:
        close = difflib.get_close_matches(name, (*NAMES, *FIGURES), n=1)
        advice = f"did you mean {close[0]}? known" if close else "known"
        raise ValueError(
            f"no metric is called {key}; {advice}: {', '.join((ALL, *NAMES))}, or a figure without statistic"
        )
    return found


def _as_thresholds(value: object) -> object:
    if not isinstance(value, dict):
        return value
    for key in value:
        named_by(str(key))
    return {str(key): share(each) for key, each in value.items()}


def _all_known(keys: list[str]) -> list[str]:
    for key in keys:
        named_by(key)
    return keys


class Compare(Table):
    """What `llmload compare` accepts, where the candidate's scenario says so."""

    thresholds: Annotated[dict[str, float], BeforeValidator(_as_thresholds)] = Field(default_factory=dict)
    """Accepted worsening by metric: `"ttft_s p95" = "5%"`; a figure stands for all its statistics, `all` for all."""
    only: Annotated[list[str], AfterValidator(_all_known)] = Field(default_factory=list)
    """Metrics that are judged; all where empty."""
    allow: list[str] = Field(default_factory=list)
    """What may differ between the runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparing:
    """What a comparison was asked for: metrics, thresholds by metric, metrics that were named, what may differ."""

    metrics: tuple[Metric, ...]
    thresholds: Mapping[str, float]
    asked_for: frozenset[str]
    allow: tuple[str, ...]


def read_comparing(
    config: Path | None,
    recorded: Mapping[str, Any] | None,
    options: Sequence[str],
    only: Sequence[str],
    allow: Sequence[str],
) -> Comparing:
    """
    Return what is asked for: by the candidate's own scenario, over it by the file, over that by the command line.

    ConfigError names whatever of it is wrong.
    """
    tables = [Compare.model_validate(recorded or {})] + ([] if config is None else [_table_of(config)])
    limits: dict[str, float] = {}
    asked_for: set[str] = set()
    for key, value in (*(pair for table in tables for pair in _general_first(table.thresholds)), *_parsed(options)):
        names = named_by(key)
        limits |= dict.fromkeys(names, value)
        asked_for |= set(names) if len(names) == 1 else set()
    for key in only:
        _known("--only", key)
    alone = list(only) or next((table.only for table in reversed(tables) if table.only), [])
    named = {name for key in alone for name in named_by(key)}
    asked_for |= {name for key in alone for name in named_by(key) if len(named_by(key)) == 1}
    return Comparing(
        metrics=tuple(metric for metric in METRICS if not named or metric.name in named),
        thresholds=limits,
        asked_for=frozenset(asked_for),
        allow=tuple(dict.fromkeys([*(key for table in tables for key in table.allow), *allow])),
    )


def _known(option: str, key: str) -> None:
    try:
        named_by(key)
    except ValueError as error:
        raise ConfigError(f"{option} {key}: {error}") from None


def _general_first(thresholds: Mapping[str, float]) -> list[tuple[str, float]]:
    """In a table, order says nothing: what names more metrics comes first, so that what names one stands."""
    return sorted(thresholds.items(), key=lambda pair: -len(named_by(pair[0])))


def _parsed(options: Sequence[str]) -> Iterator[tuple[str, float]]:
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--threshold {option}: is not METRIC=SHARE, such as ttft_s.p95=5%")
        _known("--threshold", key)
        try:
            yield key, share(value)
        except ValueError as error:
            raise ConfigError(f"--threshold {option}: {error}") from None


def _table_of(file: Path) -> Compare:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from None
    table = content.get("compare", content.get("tool", {}).get("llmload", {}).get("compare"))
    if table is None:
        raise ConfigError(f"{file}: has neither a table [compare] nor [tool.llmload.compare]")
    try:
        return Compare.model_validate(table)
    except ValidationError as error:
        lines = (
            f"{file}: compare.{'.'.join(map(str, fault['loc']))}: "
            f"{fault['msg'].removeprefix('Value error, ')}, got {fault['input']!r}"
            for fault in error.errors(include_url=False)
        )
        raise ConfigError("\n".join(lines)) from None
