"""What a comparison is of: finished runs, what must be the same in them, and how much worse a candidate may be."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from llmload.compare.comparison import RunSample
from llmload.errors import ConfigError, NotComparableError, RunFolderError
from llmload.metrics.doubts import FEW_VALUES, lines_of
from llmload.metrics.objective import FIGURES, METRICS, Metric, metrics_named, share
from llmload.metrics.validity import Level, Verdict
from llmload.runs.folder import SUMMARY, Manifest, RunFolder
from llmload.runs.requests import read_tables
from llmload.runs.summary import Summary
from llmload.scenario.reading import explain, read_toml
from llmload.scenario.sections import Compare
from llmload.units import UNKNOWN

# How much worse a candidate may be, from `[compare]` of a scenario or a pyproject and from the command line.


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
    content = read_toml(file, "configuration")
    tool = _inside(_inside(content, "tool"), "llmload")
    table = content.get("compare", tool.get("compare"))
    if table is None:
        raise ConfigError(f"{file}: has neither a table [compare] nor [tool.llmload.compare]")
    try:
        return _Configuration.model_validate({"compare": table}).compare
    except ValidationError as error:
        raise ConfigError(explain(file, error, {}, _Configuration)) from None


class _Configuration(BaseModel):
    """What of a file is read here."""

    compare: Compare


def _inside(tables: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a table in a table, empty if there is none of that name."""
    table = tables.get(key)
    return table if isinstance(table, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run folder's content."""

    folder: RunFolder
    summary: Summary
    manifest: Manifest

    @property
    def name(self) -> str:
        """The run's id."""
        return self.summary.run_id

    @property
    def engine(self) -> str:
        """The engine, with its version if known."""
        own, deployment = self.manifest.engine, self.manifest.scenario.deployment
        version = (own.version if own else None) or deployment.engine_version
        return f"{self.summary.engine} {version}" if version else self.summary.engine

    def sample(self) -> RunSample:
        """Return the requests of the run."""
        tables = read_tables(self.folder.request_files(), 0.0)
        return RunSample.of(tables, opened_s=self._opened_s(), window_s=self.summary.window_s)

    def _opened_s(self) -> float | None:
        opened_s = self.summary.window_started_unix_s
        if opened_s is None and self.manifest.scenario.load.window_warmup_s:
            raise RunFolderError(
                f"{self.folder.path / SUMMARY}: window_started_unix_s is null, so the run has no window to compare: it "
                "ended during its warm-up"
            )
        return opened_s


def read_run(path: Path) -> FinishedRun:
    """Return the run of a folder; RunFolderError if it has no finished run."""
    folder = RunFolder(path)
    return FinishedRun(folder=folder, summary=folder.summary(), manifest=folder.manifest())


def _prompts(run: FinishedRun) -> dict[str, Any]:
    prompts = run.manifest.prompts
    return {
        **prompts.model_dump(include={"drawn", "turns", "repeat", "seed", "techniques"}),
        "salt": None if prompts.salt is None else prompts.salt.mode,
    }


EXACT_STAMPS: Final = ("packet", "kernel")
"""Stamps that are those of the arrival; what shared a read is in the verdict."""
_PROCESS_STAMPS: Final = ("user_stamp_share", "missed_segments")


def _stamps(summary: Summary) -> str | None:
    """Return whose stamps a run has: the kernel's where those of the process move no figure by much."""
    few = summary.stamp_source == "mixed" and not any(each.check in _PROCESS_STAMPS for each in summary.verdict.doubts)
    return "kernel" if few or summary.stamp_source in EXACT_STAMPS else summary.stamp_source


def _deployment(*names: str) -> Callable[[FinishedRun], dict[str, Any]]:
    return lambda run: run.manifest.scenario.deployment.model_dump(include=set(names))


SAME: Final[Mapping[str, Callable[[FinishedRun], dict[str, Any]]]] = {
    "model": lambda run: {"name": run.summary.model},
    "data": lambda run: {"sha256": run.manifest.prompts.sha256},
    "prompts": _prompts,
    "lengths": lambda run: run.manifest.scenario.prompts.model_dump(
        include={"input_tokens", "output_tokens", "shapes", "template", "exact_output"}
    ),
    "mix": lambda run: {entry.name: entry.model_dump(exclude={"name"}) for entry in run.manifest.scenario.mix},
    "sampling": lambda run: run.manifest.scenario.request.model_dump(exclude={"max_tokens"}),
    "max_tokens": lambda run: {"max_tokens": run.manifest.scenario.request.max_tokens},
    "load": lambda run: run.summary.load.model_dump(),
    "gpu": _deployment("gpu", "gpus"),
    "tensor_parallel": _deployment("tensor_parallel"),
    "precision": _deployment("precision"),
    "replicas": lambda run: {"base_url": len(run.manifest.scenario.engine.base_url)},
    "api": lambda run: {"api": run.manifest.scenario.engine.api},
    "client": lambda run: {"kind": run.manifest.scenario.client.kind},
    "stamps": lambda run: {"stamp_source": _stamps(run.summary)},
    "tokens": lambda run: {"token_source": run.summary.token_source},
    "metrics": lambda run: {"metrics_version": run.manifest.metrics_version},
    "simulated": lambda run: {"simulated": run.manifest.simulated},
}
"""What two runs must have in common, each under the name that `--allow` takes."""
INVALID_RUN: Final = "invalid"
ENGINE: Final = "engine"
ALLOWABLE: Final = (*SAME, ENGINE, INVALID_RUN)
SAME_PROMPTS: Final = ("data", "prompts")


def check_comparable(
    base: Sequence[FinishedRun], candidate: Sequence[FinishedRun], allowed: Iterable[str]
) -> list[str]:
    """
    Return notes for the reader, one line each: allowed differences, engines, and the reasons of DEGRADED runs.

    NotComparableError names everything that differs and is not in `allowed`. Engine and version may always differ
    between the sides, but not within one.
    """
    accepted: list[str] = []
    refused: list[str] = []
    permitted = set(allowed)
    if unknown := sorted(permitted - set(ALLOWABLE)):
        raise ConfigError(f"--allow {unknown[0]}: no such key; known: {', '.join(ALLOWABLE)}")
    for key, text in _differences(base, candidate):
        (accepted if key in permitted else refused).append(text + ("" if key in permitted else f" (--allow {key})"))
    if refused:
        raise NotComparableError("\n".join(["these runs are not comparable:", *(f"  {text}" for text in refused)]))
    return [*accepted, *_notes(base, candidate)]


def same_prompts(base: Sequence[FinishedRun], candidate: Sequence[FinishedRun]) -> bool:
    """Return whether all runs drew the same prompts in the same order."""
    runs = [*base, *candidate]
    return all(SAME[key](run) == SAME[key](runs[0]) for key in SAME_PROMPTS for run in runs)


def _differences(base: Sequence[FinishedRun], candidate: Sequence[FinishedRun]) -> Iterator[tuple[str, str]]:
    first = base[0]
    for run in [*base[1:], *candidate]:
        for key, facts in SAME.items():
            for text in _changes(facts(first), facts(run)):
                yield key, f"{key}: {text} ({first.name}, {run.name})"
    for side in (base, candidate):
        for run in side[1:]:
            if run.engine != side[0].engine:
                yield ENGINE, f"{ENGINE}: {side[0].engine} and {run.engine} on one side ({side[0].name}, {run.name})"
    for run in [*base, *candidate]:
        yield from (("load", f"load: {text}") for text in _mixtures(run))
        if run.summary.verdict.level is Level.INVALID:
            reasons = "; ".join(r.text for r in run.summary.verdict.reasons if r.level is Level.INVALID)
            yield INVALID_RUN, f"{run.name} is INVALID: {reasons}"


def _mixtures(run: FinishedRun) -> Iterator[str]:
    """Yield why a run has more than one load."""
    if run.summary.load.measures_steps:
        yield f"{run.name} is a {run.summary.load.text}, so its figures are of one of many loads"
    if edited := run.summary.edited:
        yield f"{run.name} is a mixture: {edited.text}"


def _changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        a, b = one.get(name), other.get(name)
        if a != b:
            yield f"{name} {_short(a)} against {_short(b)}"


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{len(value)} items, first {', '.join(map(str, value[:3]))}]"
    return "unknown" if value is None else str(value)[:60]


def doubtful(verdict: Verdict) -> list[str]:
    """Return a line for each check that doubts a figure; not of few values, since these are not compared at all."""
    doubts = tuple(doubt for doubt in verdict.doubts if doubt.check != FEW_VALUES)
    return lines_of(verdict.model_copy(update={"doubts": doubts}), FIGURES)


def _notes(base: Sequence[FinishedRun], candidate: Sequence[FinishedRun]) -> Iterator[str]:
    if base[0].engine != candidate[0].engine:
        yield f"engine: {base[0].engine} against {candidate[0].engine}"
    sources = sorted({run.summary.stamp_source or UNKNOWN for run in [*base, *candidate]})
    if len(sources) > 1:
        yield f"time stamps by {' and '.join(sources)}: docs/stamps.md"
    for run in [*base, *candidate]:
        for reason in run.summary.verdict.reasons:
            if reason.level is Level.DEGRADED:
                yield f"{run.name} is DEGRADED: {reason.text}"
        for line in doubtful(run.summary.verdict):
            yield f"{run.name}: {line}"
    if base[0].manifest.simulated or candidate[0].manifest.simulated:
        yield "simulated engine: figures of llmload's own simulation, not of any real engine"
