"""The Grafana dashboard as code: built from `panels`, committed, and held against what would be built now."""

import json
import string
import warnings
from pathlib import Path
from typing import Any, Final

from llmload.monitor.panels import ROWS, RUN_REGIONS, Panel

with warnings.catch_warnings():
    # Importing it warns that a newer model exists; the older one is what older Grafanas read too.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import common as common_builders
    from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common as common_models
    from grafana_foundation_sdk.models import dashboard as models
    from grafana_foundation_sdk.models import heatmap as heatmap_models
    from grafana_foundation_sdk.models import prometheus as prometheus_models

DATASOURCE: Final = common_models.DataSourceRef(type_val="prometheus", uid="llmload-prometheus")
FILES: Final = ("llmload.json",)
_WIDTH, _HEIGHT, _STAT_HEIGHT = 24, 7, 4


def build() -> dict[str, str]:
    """Return each file's name and content; the same every time."""
    content = json.loads(JSONEncoder().encode(_dashboard().build()))
    return {FILES[0]: json.dumps(content, indent=2, sort_keys=True) + "\n"}


def write(folder: Path) -> list[Path]:
    """Write every file into the folder, and return which."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in build().items():
        (folder / name).write_text(text, encoding="utf-8")
        files.append(folder / name)
    return files


def drifted(folder: Path) -> list[Path]:
    """Return the files that are missing or differ from what would be built now."""
    files = {folder / name: text for name, text in build().items()}
    return [file for file, text in files.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]


def _dashboard() -> Any:
    built = (
        dashboard.Dashboard("llmload")
        .uid("llmload")
        .tags(["llmload", "llm", "inference"])
        .editable()
        .refresh("5s")
        .time("now-15m", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .annotation(_run_regions())
    )
    number = y = 0
    for row in ROWS:
        height, width = _STAT_HEIGHT if row[0].kind == "stat" else _HEIGHT, _WIDTH // len(row)
        for place, panel in enumerate(row):
            number += 1
            drawn = _panel(panel).id(number).grid_pos(models.GridPos(h=height, w=width, x=place * width, y=y))
            built = built.with_panel(drawn)
        y += height
    return built


def _run_regions() -> Any:
    return (
        dashboard.AnnotationQuery()
        .name("Runs")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("blue")
        .expr(RUN_REGIONS)
        .title_format("{{run_id}}")
        .text_format("{{scenario}}: {{model}} on {{engine}}")
    )


def _panel(panel: Panel) -> Any:
    drawn = _empty(panel)
    drawn = drawn.title(panel.title).description(panel.text).unit(panel.unit).datasource(DATASOURCE)
    if panel.decimals is not None:
        drawn = drawn.decimals(panel.decimals)
    for letter, (legend, expression) in zip(string.ascii_uppercase, panel.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend).range()
        drawn = drawn.with_target(query.format(_format(panel)).exemplar(panel.exemplars))
    return drawn


def _format(panel: Panel) -> Any:
    formats = prometheus_models.PromQueryFormat
    return formats.HEATMAP if panel.kind == "heatmap" else formats.TIME_SERIES


def _empty(panel: Panel) -> Any:
    if panel.kind == "stat":
        reduced = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
        names = (
            common_models.BigValueTextMode.NAME if panel.title == "Verdict" else common_models.BigValueTextMode.VALUE
        )
        return stat.Panel().reduce_options(reduced).text_mode(names).color_mode(common_models.BigValueColorMode.NONE)
    if panel.kind == "heatmap":
        return heatmap.Panel().color(heatmap.HeatmapColorOptions().mode(heatmap_models.HeatmapColorMode.SCHEME))
    return timeseries.Panel().min(0).line_width(1).fill_opacity(5)
