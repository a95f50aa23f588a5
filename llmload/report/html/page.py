"""The report as one HTML file: no network, no server, whatever it is opened with."""

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llmload.capacity.result import capacity_notes, capacity_text
from llmload.errors import RunFolderError
from llmload.formatting import UNKNOWN, milliseconds, number
from llmload.report.definitions import DEFINITIONS
from llmload.report.html.assets import PAGE
from llmload.report.html.chart import Section
from llmload.report.html.load_charts import monitored_sections, sections
from llmload.report.markdown import groups
from llmload.report.terminal import COLUMNS, LATENCIES, load_text
from llmload.runs.folder import RunFolder
from llmload.runs.loaded_run import LoadedRun, load_run

ADVICE: Final = {
    "VALID": "Every check passed.",
    "DEGRADED": "Read the reasons before using the figures.",
    "INVALID": "Do not use these figures: they do not say what they seem to say.",
}
_ENVIRONMENT: Final = Environment(
    loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def write_html(file: Path, folders: Sequence[RunFolder], progress: Callable[[int], None] = lambda _: None) -> None:
    """Write the page of one run or several, whole or not at all; RunFolderError where it cannot be."""
    text = render([load_run(folder, progress) for folder in folders])
    draft = file.with_name(f".{file.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise RunFolderError(f"{file}: cannot be written: {error.strerror}") from None


def render(digests: Sequence[LoadedRun]) -> str:
    """Return the page of one run, or of several side by side."""
    names = _names(digests)
    shown = sections(digests, names)
    for digest, name in zip(digests, names, strict=True):
        for section in monitored_sections(digest):
            section.title += f": {name}" if len(digests) > 1 else ""
            shown.append(section)
    charts = [chart for section in shown for chart in section.charts]
    script, theme, style = "\n".join(map(_text, ("figures.js", "report.js"))), _text("theme.css"), _text("report.css")
    library, library_style = _text("uplot/uPlot.iife.min.js"), _text("uplot/uPlot.min.css")
    return _ENVIRONMENT.get_template("report.html.j2").render(
        title=_title(digests),
        policy=_policy([library, script], [library_style, theme, style]),
        library=Markup(library),  # noqa: S704 - our own files, not what a run brought
        library_style=Markup(library_style),  # noqa: S704 - the same
        script=Markup(script),  # noqa: S704 - the same
        theme=Markup(theme),  # noqa: S704 - the same
        style=Markup(style),  # noqa: S704 - the same
        data=_embedded([chart.to_dict() if chart.drawn else None for chart in charts]),
        runs=[_run(digest, name, several=len(digests) > 1) for digest, name in zip(digests, names, strict=True)],
        tiles=_tiles(digests[0].summary) if len(digests) == 1 else [],
        latencies=_latencies(digests[0].summary) if len(digests) == 1 else None,
        groups=_groups(digests),
        sections=_numbered(shown),
        definitions=DEFINITIONS,
        version=version("llmload"),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


def _text(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Return the Content-Security-Policy under which nothing is loaded, and nothing runs but these very texts."""
    script_src, style_src = (" ".join(map(_hashed, texts)) for texts in (scripts, styles))
    return (
        f"default-src 'none'; script-src {script_src}; style-src {style_src}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _embedded(content: object) -> Markup:
    """Return JSON that no text in it can end: every character that HTML knows is escaped."""
    text = orjson.dumps(content).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped just above


def _names(digests: Sequence[LoadedRun]) -> list[str]:
    """Return what each run is called in legends: what tells them apart, in few words."""
    all_parts = [_parts(digest.summary) for digest in digests]
    differing = [index for index, of in enumerate(zip(*all_parts, strict=True)) if len(set(of)) > 1]
    short = [", ".join(parts[index] for index in differing or (0, 1)) for parts in all_parts]
    if len(set(short)) == len(short):
        return short
    return [f"{name} #{index}" for index, name in enumerate(short, start=1)]


def _parts(summary: dict[str, Any]) -> list[str]:
    load = summary["load"]
    asked = f"{load['users']} users" if load.get("users") else load_text(load).partition(" in ")[0]
    return [summary["model"], summary["engine"], summary["scenario"], asked]


def _title(digests: Sequence[LoadedRun]) -> str:
    first = digests[0].summary
    if len(digests) == 1:
        return f"{first['scenario']}: {first['model']} on {first['engine']}"
    return f"{len(digests)} runs compared"


def _run(digest: LoadedRun, name: str, *, several: bool) -> dict[str, Any]:
    summary = digest.summary
    started_s = time.gmtime(digest.manifest["started_unix_s"])
    return {
        "name": name,
        "run_id": summary["run_id"],
        "scenario": summary["scenario"],
        "simulated": summary["simulated"],
        "verdict": summary["verdict"],
        "capacity": _capacity(summary.get("capacity")),
        "gates": summary.get("gates") or (),
        "advice": ADVICE[summary["verdict"]["level"]],
        "facts": [
            *([f"{summary['scenario']}: {summary['model']} on {summary['engine']}"] if several else []),
            load_text(summary["load"]),
            "nothing judged" if summary["window_s"] is None else f"{number(summary['window_s'], 1)} s judged",
            time.strftime("started %Y-%m-%d %H:%M:%S UTC", started_s),
            f"run {summary['run_id']}",
        ],
        "sources": _sources(digest),
        "manifest": orjson.dumps(digest.manifest, option=orjson.OPT_INDENT_2).decode(),
    }


def _capacity(capacity: dict[str, Any] | None) -> list[str]:
    """Return what a search for a capacity found, in lines; none of another run."""
    if capacity is None:
        return []
    promised = f"promised: {', '.join(capacity['objectives'])}"
    return [line for line in (f"capacity: {capacity_text(capacity)}", promised, capacity_notes(capacity)) if line]


def _sources(digest: LoadedRun) -> list[str]:
    """Return which records the page was built from, and what it lacks."""
    held = sum(digest.files.values())
    files = ", ".join(f"{name} ({number(count, 0)})" for name, count in digest.files.items()) or "no file"
    found = [f"Built from {number(held, 0)} requests in {files}."]
    if digest.summary.get("recomputed"):
        found.append(f"Counted anew: {digest.summary['recomputed']}.")
    if digest.missing_requests:
        found.append(
            f"{number(digest.missing_requests, 0)} requests that the summary counts are in no file of this folder: "
            "their workers wrote them elsewhere. The figures include them, the charts do not."
        )
    if digest.periods.estimated:
        found.append("Where the judged window lay was not written down: it is estimated from the load.")
    sampled, ended = len(digest.timeline.sample.keys), digest.totals.ended
    if ended > sampled:
        found.append(f"Dots: {number(sampled, 0)} of {number(ended, 0)} requests, drawn at random.")
    return found


def _tiles(summary: dict[str, Any]) -> list[dict[str, str]]:
    def latency(name: str, key: str) -> dict[str, str]:
        found = summary[key] or {}
        return {
            "name": f"{name} p50",
            "value": milliseconds(found.get("p50")),
            "unit": "ms" if found else "",
            "beside": f"p95 {milliseconds(found.get('p95'))} ms" if found else "",
        }

    def rate(name: str, value: float | None, unit: str, digits: int, beside: str = "") -> dict[str, str]:
        return {
            "name": name,
            "value": number(value, digits),
            "unit": "" if value is None else unit,
            "beside": beside,
        }

    speed, goodput = summary["request_output_tokens_per_s"] or {}, summary.get("goodput_per_min")
    has_slo = goodput is not None and goodput != summary["requests_per_min"]
    good = f"goodput {number(goodput, 1)}" if has_slo else ""
    return [
        rate("request speed", speed.get("mean"), "tok/s", 1, "mean" if speed else ""),
        rate("requests/min", summary["requests_per_min"], "", 1, good),
        rate("system output", summary["output_tokens_per_s"], "tok/s", 1),
        *(latency(name, key) for name, key in LATENCIES.items()),
    ]


def _latencies(summary: dict[str, Any]) -> dict[str, Any]:
    columns = (*COLUMNS, "count")
    return {
        "columns": columns,
        "rows": [
            (
                name,
                [
                    number((summary[key] or {}).get(column), 0)
                    if column == "count"
                    else milliseconds((summary[key] or {}).get(column))
                    for column in columns
                ],
            )
            for name, key in LATENCIES.items()
        ],
    }


def _groups(digests: Sequence[LoadedRun]) -> list[dict[str, Any]]:
    """Return the tables; one run's latencies have a table of their own, with a column a percentile."""
    single = len(digests) == 1
    return [
        {
            "title": group.title,
            "rows": [row for row in group.rows if any(cell != UNKNOWN for cell in row.cells) or len(row.cells) == 1],
        }
        for group in groups([digest.summary for digest in digests])
        if not (single and group.title.endswith(", ms"))
    ]


def _numbered(shown: Sequence[Section]) -> list[dict[str, Any]]:
    """Return the sections with each chart's place in the embedded data."""
    found, index = [], 0
    for section in shown:
        charts = []
        for chart in section.charts:
            charts.append({"place": index, "chart": chart})
            index += 1
        found.append({"title": section.title, "note": section.note, "charts": charts})
    return found
