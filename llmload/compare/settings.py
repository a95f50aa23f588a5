"""How much worse a candidate may be, from `[compare]` of a scenario or a pyproject and from the command line."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llmload.errors import ConfigError
from llmload.metrics.compared import METRICS, Metric, metrics_named, share
from llmload.scenario.sections import Compare


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRequest:
    """The metrics to judge, thresholds by metric, metrics that must be judged, and what may differ."""

    metrics: tuple[Metric, ...]
    thresholds: Mapping[str, float]
    required: frozenset[str]
    allow: tuple[str, ...]


def read_comparison_request(
    config: Path | None,
    recorded: Compare,
    options: Sequence[str],
    only: Sequence[str],
    allow: Sequence[str],
) -> ComparisonRequest:
    """
    Merge the candidate's own scenario, the file and the command line; the later ones win.

    ConfigError names the key or option that is wrong.
    """
    tables = [recorded] + ([] if config is None else [_table_of(config)])
    limits: dict[str, float] = {}
    required: set[str] = set()
    for key, value in (*(pair for table in tables for pair in _general_first(table.thresholds)), *_parsed(options)):
        names = metrics_named(key)
        limits |= dict.fromkeys(names, value)
        required |= set(names) if len(names) == 1 else set()
    for key in only:
        _known("--only", key)
    alone = list(only) or next((table.only for table in reversed(tables) if table.only), [])
    named = {name for key in alone for name in metrics_named(key)}
    required |= {name for key in alone for name in metrics_named(key) if len(metrics_named(key)) == 1}
    return ComparisonRequest(
        metrics=tuple(metric for metric in METRICS if not named or metric.name in named),
        thresholds=limits,
        required=frozenset(required),
        allow=tuple(dict.fromkeys([*(key for table in tables for key in table.allow), *allow])),
    )


def _known(option: str, key: str) -> None:
    try:
        metrics_named(key)
    except ValueError as error:
        raise ConfigError(f"{option} {key}: {error}") from None


def _general_first(thresholds: Mapping[str, float]) -> list[tuple[str, float]]:
    """A table has no order: keys that name more metrics come first, so that those that name one win."""
    return sorted(thresholds.items(), key=lambda pair: -len(metrics_named(pair[0])))


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
