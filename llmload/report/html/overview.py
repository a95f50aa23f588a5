"""What comes before the charts of a single run: what was run, its main figures with intervals, a row a stage."""

import time
from typing import Any, Final

import numpy as np

from llmload.metrics.doubts import quantile_interval
from llmload.metrics.requests import QUANTILES
from llmload.prompts.synthetic import SYNTHETIC
from llmload.report.by_name import NAME_COLUMNS, name_rows
from llmload.report.figures import (
    ROW_COLUMNS,
    engine_rows,
    figure_text,
    latencies_of,
    length_rows,
    limits_of,
    reasoning_rows,
    row_cells,
    tenths,
)
from llmload.report.html.chart import ShownRun
from llmload.report.sweep import shown_columns, sweep_notes, sweep_rows
from llmload.report.terminal import STAMPS
from llmload.runs.folder import Manifest
from llmload.runs.loaded_run import LoadedRun
from llmload.runs.summary import Summary
from llmload.scenario import Scenario
from llmload.scenario.prompts import MixedLengths, Prompts
from llmload.scenario.requests import MixEntry
from llmload.stats.intervals import CONFIDENCE, batches_of, ratio_interval
from llmload.units import S_PER_MIN, UNKNOWN, counted, milliseconds, number, percent

# What was run: enough to know what the figures are of, and to run it again.


def what_was_run(run: LoadedRun) -> list[tuple[str, str]]:
    """Return title and text of what was measured with what; nothing of what is not known."""
    summary, manifest = run.summary, run.manifest
    scenario, request = manifest.scenario, manifest.scenario.request
    served = scenario.model.request_name
    rows = [
        ("model", summary.model if served == summary.model else f"{summary.model}, served as {served}"),
        ("engine", _engine(summary, manifest)),
        ("GPUs", _gpus(summary, manifest)),
        ("load", summary.load.text if summary.edited is None else f"{summary.load.text}; {summary.edited.text}"),
        ("measured", _measured(summary)),
        ("prompts", _prompts(manifest)),
        ("max_tokens", _max_tokens(scenario)),
        ("temperature", "" if request.temperature is None else f"{request.temperature:g}"),
        ("seed", str(manifest.seed)),
        *engine_rows(summary),
        *length_rows(summary),
        *reasoning_rows(summary),
        ("time stamps", STAMPS.get(summary.stamp_source or "", "")),
        ("sent by", _client(manifest)),
        ("started", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.started_unix_s))),
        ("run", summary.run_id),
    ]
    return [(title, text) for title, text in rows if text]


def _max_tokens(scenario: Scenario) -> str:
    prompts, limit = scenario.prompts, scenario.request.max_tokens
    if not scenario.mix:
        return _answers(prompts, limit)
    return "; ".join(f"{entry.name}: {_answers_of(entry, prompts, limit)}" for entry in scenario.mix)


def _answers_of(entry: MixEntry, prompts: Prompts, limit: int | None) -> str:
    own = entry.fields.get("max_tokens")
    if entry.prompts.lengths.asks_outputs:
        return _answers(entry.prompts, None)
    return number(own, 0) if own else _answers(prompts, limit)


def _answers(prompts: Prompts | MixedLengths, limit: int | None) -> str:
    """Return how many tokens answers have or may have."""
    if prompts.shapes:
        return ", ".join(f"{shape.output_tokens:,} where input is {shape.input_tokens:,}" for shape in prompts.shapes)
    if prompts.output_tokens is not None:
        return str(prompts.output_tokens)
    return number(limit, 0) if limit else "not set: the engine's own limit"


def _inputs(scenario: Scenario) -> str:
    """Return how many tokens synthetic prompts have, by entry of the mix where some have their own."""
    prompts, own = scenario.prompts, [entry for entry in scenario.mix if entry.prompts.lengths.asks_inputs]
    of: list[tuple[str, Prompts | MixedLengths]] = [("", prompts)] if prompts.lengths.asks_inputs else []
    of += [(f"{entry.name}: ", entry.prompts) for entry in own]
    return "; ".join(
        f"{name}{f'{len(each.shapes)} shapes' if each.shapes else f'input_tokens = {each.input_tokens}'}"
        for name, each in of
    )


def _engine(summary: Summary, manifest: Manifest) -> str:
    said = manifest.engine
    version = (said and said.version) or manifest.scenario.deployment.engine_version
    where = said.base_url if said is not None else ", ".join(manifest.scenario.engine.base_url)
    return f"{summary.engine}{f' {version}' if version else ''} at {where}"


def _gpus(summary: Summary, manifest: Manifest) -> str:
    deployment, seen = manifest.scenario.deployment, summary.gpu_metrics
    if deployment.gpu is None:
        return "" if seen is None or not seen.gpus else f"{seen.gpus}, by DCGM"
    parts = [f"{deployment.gpus or 1} x {deployment.gpu}"]
    parts += [f"tensor parallel {deployment.tensor_parallel}"] if deployment.tensor_parallel else []
    parts += [deployment.precision] if deployment.precision else []
    return ", ".join(parts)


def _measured(summary: Summary) -> str:
    if summary.window_s is None:
        return "nothing"
    warmup_s = summary.load.window_warmup_s
    return f"{number(summary.window_s, 1)} s{f', after {warmup_s:g} s of warm-up' if warmup_s else ''}"


def _prompts(manifest: Manifest) -> str:
    prompts, asked = manifest.prompts, manifest.scenario.prompts
    if asked.source == SYNTHETIC:
        parts = [f"{len(prompts.drawn):,} synthetic", _inputs(manifest.scenario)]
    else:
        parts = [f"{len(prompts.drawn):,} of {counted(prompts.rows, 'row')} of {prompts.dataset}"]
    parts += ["all turns"] if prompts.turns == "all" else []
    parts += [f"{prompts.techniques.n_shot}-shot"] if prompts.techniques.n_shot else []
    parts += [f"repeated ({prompts.repeat})"] if prompts.repeat else []
    return ", ".join(parts)


def _client(manifest: Manifest) -> str:
    processes = "one process" if manifest.workers == 1 else f"{manifest.workers} processes"
    versions = manifest.versions
    packages = ", ".join(f"{name} {versions[name]}" for name in ("llmload", "locust") if name in versions)
    cpus = "" if manifest.host.cpus is None else f", {counted(manifest.host.cpus, 'CPU')}"
    return f"{packages}, {processes}{cpus}"


# The main figures: each with the interval in which chance leaves it, where that is known.

_PER_CENT: Final = percent(CONFIDENCE, 0)


def tiles(run: LoadedRun) -> list[dict[str, Any]]:
    """Return a tile for each main figure that was measured: its text, its unit, and lines below it."""
    summary = run.summary
    goodput = summary.goodput_per_min
    has_slo = goodput is not None and goodput != summary.requests_per_min
    found = [
        _tile("requests/min", figure_text(summary, "requests_per_min", None, tenths), ""),
        _tile("request speed", figure_text(summary, "request_output_tokens_per_s", "mean", tenths), "tok/s"),
        *(_latency_tile(run, name, key) for name, key in latencies_of(summary).items()),
    ]
    found[1]["below"] += ["mean", f"all together {figure_text(summary, 'output_tokens_per_s', None, tenths)}"]
    found[0]["below"] += _between(_rate_interval(run))
    found[0]["below"] += [f"goodput {number(goodput, 1)}"] if has_slo else []
    return [tile for tile in found if tile["value"] != UNKNOWN]


def _tile(name: str, value: str, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "below": []}


def _latency_tile(run: LoadedRun, name: str, key: str) -> dict[str, Any]:
    p50, p95 = (figure_text(run.summary, key, statistic, milliseconds) for statistic in ("p50", "p95"))
    tile = _tile(f"{name} p50", p50, "ms")
    if _is_one_window(run):
        low, high = quantile_interval(run.totals.distributions[key], QUANTILES["p50"])
        tile["below"] += [] if low is None or high is None else _between((milliseconds(low), milliseconds(high)))
    tile["below"].append(f"p95 {p95} ms")
    return tile


def _between(interval: tuple[str, str] | None) -> list[str]:
    return [] if interval is None else [f"{_PER_CENT}: {interval[0]} to {interval[1]}"]


def _is_one_window(run: LoadedRun) -> bool:
    """Whether the figures are of one window of one load: only then they vary by chance alone."""
    return not run.summary.stages and run.totals.distributions["e2e_s"].count > 0


def _rate_interval(run: LoadedRun) -> tuple[str, str] | None:
    """Return the interval of requests/min by the batch means of the window; None where it is not known."""
    window, timeline = run.periods.bounded(run.totals), run.timeline
    if window.start_s is None or window.end_s is None or not _is_one_window(run):
        return None
    ends_s = np.cumsum(timeline.widths_s)
    within = (ends_s - timeline.widths_s >= window.start_s) & (ends_s <= window.end_s)
    answers, minutes = np.cumsum(timeline.completed[within]), np.cumsum(timeline.widths_s[within]) / S_PER_MIN
    running = [(0.0, 0.0), *zip(answers.tolist(), minutes.tolist(), strict=True)]
    found = ratio_interval(batches_of(running), CONFIDENCE)
    return None if found is None else (number(max(0.0, found[0]), 1), number(found[1], 1))


# A row a stage, and a row a name.


def stage_table(summary: Summary) -> dict[str, Any] | None:
    """Return the table with a row for each stage, step or phase; None for a run of one load."""
    if not summary.stages:
        return None
    limits = limits_of(summary.stages)
    columns = [column.header.replace("\n/", "/").replace("\n", " ").strip() for column in ROW_COLUMNS]
    return {
        "columns": [*columns, *(["limited by"] if limits else [])],
        "rows": [
            (stage.name, stage.load_text, [*row_cells(stage, stage.doubts), *limits[index : index + 1]])
            for index, stage in enumerate(summary.stages)
        ],
    }


def point_table(shown: ShownRun) -> dict[str, Any]:
    """Return the points of a run's sweep as a table, with what one has to know of them."""
    summary = shown.run.summary
    if summary.sweep is None:
        raise ValueError(f"{shown.name} is not a sweep")
    columns = shown_columns(summary)
    rows, notes = list(sweep_rows(summary, columns)), sweep_notes(summary.sweep)
    return {"run": shown.name, "columns": [column.name for column in columns], "rows": rows, "notes": notes}


def name_table(summary: Summary) -> dict[str, Any] | None:
    """Return the table with a row for each name of requests; None where they have none."""
    rows = name_rows(summary)
    return {"columns": NAME_COLUMNS[1:], "rows": [(row[0], row[1:]) for row in rows]} if rows else None
