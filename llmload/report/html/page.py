"""The report as one HTML file that needs no network and no server."""

import base64
import hashlib
import shlex
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmload.capacity.result import capacity_notes, capacity_text
from llmload.errors import RunFolderError
from llmload.metrics.doubts import marks
from llmload.metrics.validity import Level
from llmload.report.conclusion import conclusion
from llmload.report.figures import COLUMNS, LATENCIES, doubt_lines, figure_text, latencies_of
from llmload.report.html.assets import PAGE
from llmload.report.html.chart import (
    Section,
    ShownRun,
    run_colour,
    sample_sections,
    time_charts,
    why_not_drawn,
)
from llmload.report.html.front_charts import front_sections
from llmload.report.html.load_charts import cdf_chart, latency_over_time, load_sections, token_chart
from llmload.report.html.overview import name_table, point_table, stage_table, tiles, what_was_run
from llmload.report.markdown import DEFINITIONS, DEFINITIONS_OF_REASONING, groups
from llmload.report.terminal import FAILURE_COLUMNS
from llmload.runs.folder import PromptFacts, RunFolder
from llmload.runs.loaded_run import LoadedRun, load_run
from llmload.runs.summary import Summary
from llmload.runs.summary_parts import CapacityResult
from llmload.runs.writing import NOT_IN_THE_FOLDER
from llmload.units import UNKNOWN, milliseconds, number

ADVICE: Final = {
    "VALID": "Every check passed.",
    "DEGRADED": "Read the reasons before using the figures.",
    "INVALID": "Do not use these figures: they do not measure what they seem to measure.",
}
VALID_BUT: Final = "The figures that this run is for can be relied on; those with a ~ may be off:"
_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def write_html(file: Path, folders: Sequence[RunFolder], progress: Callable[[int], None] = lambda _: None) -> None:
    """Write the page of one run or several, whole or not at all; RunFolderError if it cannot be written."""
    text = render([load_run(folder, progress) for folder in folders])
    draft = file.with_name(f".{file.name}.part")
    try:
        draft.unlink(missing_ok=True)  # which may be a link, to another's file
        with draft.open("x", encoding="utf-8") as page:
            page.write(text)
        draft.replace(file)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None


def render(loaded: Sequence[LoadedRun]) -> str:
    """Return the page of one run, or of several side by side."""
    names = _names(loaded)
    runs = [ShownRun(name, run_colour(index), run) for index, (name, run) in enumerate(zip(names, loaded, strict=True))]
    shown = _sections(runs)
    charts = [chart for section in shown for chart in section.charts]
    alone = loaded[0].summary if len(loaded) == 1 else None
    reasons = any(run.summary.reasoning is not None for run in loaded)
    return _ENVIRONMENT.get_template("report.html.j2").render(
        **_assets(),
        title=_title(loaded),
        data=_embedded([chart.to_dict() if chart.drawn else None for chart in charts]),
        runs=[_run(run, several=alone is None) for run in runs],
        about=[] if alone is None else what_was_run(loaded[0]),
        command=None if alone is None else " ".join(map(shlex.quote, loaded[0].manifest.command)),
        tiles=[] if alone is None else tiles(loaded[0]),
        stages=None if alone is None or alone.sweep is not None else stage_table(alone),
        points=[point_table(run) for run in runs if run.run.summary.sweep is not None],
        by_name=None if alone is None else name_table(alone),
        latencies=None if alone is None else _latencies(alone),
        groups=_groups(loaded),
        failure_columns=FAILURE_COLUMNS,
        sections=_numbered(shown),
        definitions=[each for each in DEFINITIONS if reasons or each not in DEFINITIONS_OF_REASONING],
        marks=marks,
        version=version("llmload"),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _sections(runs: Sequence[ShownRun]) -> list[Section]:
    """All sections of charts, in the order of the page."""
    how = (
        "p50 solid, p95 dashed, by the start of each request (ITL: by its arrival)."
        if len(runs) > 1
        else "By the start of each request (ITL: by its arrival). Dots are single requests, "
        "drawn at random where there are many."
    )
    found = [
        *front_sections(runs),
        Section("Throughput and load over time", time_charts(runs)),
        Section(
            "Latency distributions",
            [cdf_chart(runs, *each) for each in latencies_of(*(each.run.summary for each in runs)).items()],
            "Share of values at or below each latency, over the measurement window; a curve further left is faster."
            " Dotted lines: the limits of [slo].",
        ),
        Section(
            "Latency over time",
            [latency_over_time(runs, *each) for each in LATENCIES.items()],
            f"{how} A percentile is drawn where enough values back it: 20 for p95, 100 for p99.",
        ),
        *load_sections(runs),
        Section(
            "Tokens a request",
            [
                token_chart(runs, "Prompt tokens", "request_prompt_tokens"),
                token_chart(runs, "Output tokens", "request_output_tokens"),
            ],
        ),
    ]
    for shown in runs:
        for section in sample_sections(shown.run):
            section.title += f": {shown.name}" if len(runs) > 1 else ""
            found.append(section)
    return found


def _assets() -> dict[str, str]:
    """The page's scripts and styles, and the policy that lets nothing else run."""
    library, script = _text("uplot/uPlot.iife.min.js"), "\n".join(map(_text, ("figures.js", "report.js")))
    styles = {"library_style": _text("uplot/uPlot.min.css"), "theme": _text("theme.css"), "style": _text("report.css")}
    texts = {"library": library, "script": script, **styles}
    return {
        "policy": _policy([library, script], list(styles.values())),
        **{name: Markup(text) for name, text in texts.items()},  # noqa: S704 - our own files, not what a run brought
    }


def _text(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Return the Content-Security-Policy that loads nothing and runs only these texts."""
    script_src, style_src = (" ".join(map(_hashed, texts)) for texts in (scripts, styles))
    return (
        f"default-src 'none'; script-src {script_src}; style-src {style_src}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(content: object) -> Markup:
    """Return JSON whose texts cannot end the script element: special characters of HTML are escaped."""
    text = orjson.dumps(content).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped just above


def _names(loaded: Sequence[LoadedRun]) -> list[str]:
    """Return each run's name in legends: the parts that differ between the runs."""
    all_parts = [_parts(run.summary) for run in loaded]
    differing = [index for index, of in enumerate(zip(*all_parts, strict=True)) if len(set(of)) > 1]
    without_scenario = [index for index in differing if index != _SCENARIO]
    if len({tuple(parts[index] for index in without_scenario) for parts in all_parts}) == len(all_parts):
        differing = without_scenario
    short = [", ".join(parts[index] for index in differing or (0, 1)) for parts in all_parts]
    if len(set(short)) == len(short):
        return short
    return [f"{name} #{index}" for index, name in enumerate(short, start=1)]


_SCENARIO: Final = 2
"""Of the parts: a file's name, which says nothing new where the others differ."""


def _parts(summary: Summary) -> list[str]:
    return [summary.model, summary.engine, summary.scenario, summary.load.brief]


def _title(loaded: Sequence[LoadedRun]) -> str:
    first = loaded[0].summary
    if len(loaded) == 1:
        return f"{first.scenario}: {first.model} on {first.engine}"
    return f"{len(loaded)} runs compared"


def _run(shown: ShownRun, *, several: bool) -> dict[str, Any]:
    summary, manifest = shown.run.summary, shown.run.manifest
    started = time.gmtime(manifest.started_unix_s)
    return {
        "name": shown.name,
        "run_id": summary.run_id,
        "conclusion": conclusion(summary),
        "simulated": summary.simulated,
        "verdict": summary.verdict,
        "capacity": _capacity(summary.capacity),
        "gates": summary.gates,
        "failures": [each.cells for each in summary.requests.failures],
        "advice": _advice(summary),
        "doubts": doubt_lines(summary),
        "facts": [
            *([f"{summary.scenario}: {summary.model} on {summary.engine}"] if several else []),
            *([summary.load.text] if several else []),
            *([summary.edited.text] if several and summary.edited else []),
            *([time.strftime("started %Y-%m-%d %H:%M:%S UTC", started), f"run {summary.run_id}"] if several else []),
            *_left_out(manifest.prompts),
        ],
        "sources": _sources(shown.run),
        "manifest": orjson.dumps(manifest.model_dump(mode="json"), option=orjson.OPT_INDENT_2).decode(),
    }


def _advice(summary: Summary) -> str:
    level, doubtful = summary.verdict.level, bool(doubt_lines(summary))
    return VALID_BUT if level is Level.VALID and doubtful else ADVICE[level]


def _left_out(prompts: PromptFacts) -> list[str]:
    """Return how many rows of the data set were left out or changed, and why; nothing where none were."""
    changes = {reason: rows for reasons in (prompts.skipped, prompts.changed) for reason, rows in reasons.items()}
    return [f"{rows:,} of {prompts.rows:,} rows of prompts: {reason}" for reason, rows in sorted(changes.items())]


def _capacity(capacity: CapacityResult | None) -> list[str]:
    """Return what a search for a capacity found, in lines; none of another run."""
    if capacity is None:
        return []
    objectives = f"objectives: {', '.join(capacity.objectives)}"
    return [line for line in (f"capacity: {capacity_text(capacity)}", objectives, capacity_notes(capacity)) if line]


def _sources(run: LoadedRun) -> list[str]:
    """Return which files the page was built from, and what is missing in them."""
    held = sum(run.files.values())
    files = ", ".join(f"{name} ({number(count, 0)})" for name, count in run.files.items()) or "no file"
    found = [f"Built from {number(held, 0)} requests in {files}."]
    if run.summary.recomputed:
        found.append(f"Recomputed: {run.summary.recomputed}.")
    found += [f"{each.text}." for each in run.summary.verdict.reasons if each.check in NOT_IN_THE_FOLDER]
    if run.requests_elsewhere:
        found.append(
            f"{number(run.requests_elsewhere, 0)} requests that the summary counts are in no file of this folder: "
            "workers on other machines wrote them. The figures include them, the charts do not."
        )
    if run.periods.estimated:
        found.append("Where the judged window lay was not written down: it is estimated from the load.")
    sampled, ended = len(run.timeline.sample.keys), run.totals.ended
    if ended > sampled:
        found.append(f"Dots: {number(sampled, 0)} of {number(ended, 0)} requests, drawn at random.")
    return found


def _latencies(summary: Summary) -> dict[str, Any] | None:
    """Return a row for each latency that was measured; None without any."""
    rows = []
    for name, key in latencies_of(summary).items():
        if summary.distribution(key) is not None:
            cells = [figure_text(summary, key, column, milliseconds) for column in COLUMNS]
            rows.append((name, [*cells, number(summary.value(key, "count"), 0)]))
    return {"columns": (*COLUMNS, "count"), "rows": rows} if rows else None


def _groups(loaded: Sequence[LoadedRun]) -> list[dict[str, Any]]:
    """Return the tables, without rows of what no run has measured; of a single run without those shown above them."""
    single = len(loaded) == 1
    shown = [
        {"title": group.title, "rows": [row for row in group.rows if any(cell != UNKNOWN for cell in row.cells)]}
        for group in groups([run.summary for run in loaded])
        if not (single and (group.title == "Run" or group.title.endswith(", ms")))
    ]
    return [group for group in shown if group["rows"]]


def _numbered(shown: Sequence[Section]) -> list[dict[str, Any]]:
    """Return the sections with each chart's index in the embedded data; the last says which have no chart, and why."""
    index, found, missing = count(), [], []
    for section in shown:
        charts = [(next(index), chart) for chart in section.charts]
        drawn = [(at, chart) for at, chart in charts if chart.drawn]
        not_drawn = why_not_drawn(chart for _, chart in charts if not chart.drawn)
        if drawn:
            found.append({"title": section.title, "note": section.note, "charts": drawn, "missing": not_drawn})
        else:
            missing += not_drawn
    return [*found, *([{"title": "Not drawn", "note": "", "charts": [], "missing": missing}] if missing else [])]
