"""The dashboard's JSON, filled with a Prometheus' answers, as one HTML page."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT

HERE: Final = Path(__file__).resolve().parent
DASHBOARD: Final = ROOT / "grafana" / "dashboards" / "llmload.json"
LEGEND: Final = re.compile(r"{{\s*(\w+)\s*}}")
NOTE: Final = "Preview rendered from the dashboard's JSON, not Grafana"

Query = Callable[[str], list[dict[str, Any]]]
"""Takes an expression, returns its series in the format of Prometheus' query_range."""


def filled(dashboard: dict[str, Any], query: Query, rate_s: float) -> dict[str, Any]:
    """Return panels and run regions with their data; `rate_s` is Grafana's `$__rate_interval`, in seconds."""

    def query_with_rate(expression: str) -> list[dict[str, Any]]:
        return query(expression.replace("$__rate_interval", f"{rate_s:g}s"))

    return {
        "panels": [_panel(panel, query_with_rate) for panel in dashboard["panels"]],
        "runs": [
            [float(moment) for moment, _ in series["values"]]
            for annotation in dashboard["annotations"]["list"]
            for series in query_with_rate(annotation["expr"])
        ],
    }


def page(dashboard: dict[str, Any], query: Query, rate_s: float, about: str) -> str:
    """Return the self-contained page; `about` says where the data is from."""
    content = {"note": NOTE, "about": about, **filled(dashboard, query, rate_s)}
    parts = {
        "UPLOT_CSS": _asset("uPlot.min.css"),
        "UPLOT_JS": _asset("uPlot.iife.min.js"),
        "PREVIEW_JS": (HERE / "preview.js").read_text(encoding="utf-8"),
        "CONTENT": json.dumps(content).replace("</", "<\\/"),
    }
    return re.sub(
        r"@(\w+)@", lambda found: parts.get(found[1], found[0]), (HERE / "preview.html").read_text(encoding="utf-8")
    )


def _panel(panel: dict[str, Any], query: Query) -> dict[str, Any]:
    return {
        "title": panel["title"],
        "text": panel["description"],
        "type": panel["type"],
        "unit": panel["fieldConfig"]["defaults"]["unit"],
        "decimals": panel["fieldConfig"]["defaults"].get("decimals"),
        "names": panel.get("options", {}).get("textMode") == "name",
        "grid": panel["gridPos"],
        "series": [
            {"name": _legend(target["legendFormat"], series["metric"]), "values": _numbers(series["values"])}
            for target in panel["targets"]
            for series in query(target["expr"])
        ],
    }


def _legend(form: str, labels: dict[str, str]) -> str:
    return LEGEND.sub(lambda found: labels.get(found[1], ""), form)


def _numbers(values: list[tuple[float, str]]) -> list[tuple[float, float | None]]:
    """The values for JSON: NaN and infinity become None."""
    read = ((moment, float(text)) for moment, text in values)
    return [(moment, value if abs(value) < float("inf") else None) for moment, value in read]


def _asset(name: str) -> str:
    """A file of uPlot, which llmload's own pages ship."""
    return next((ROOT / "llmload").rglob(name)).read_text(encoding="utf-8")
