"""The dashboard's JSON, filled with what a Prometheus answers, as a page of its own."""

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

Ask = Callable[[str], list[dict[str, Any]]]
"""From an expression to its series, as Prometheus' query_range has them."""


def filled(dashboard: dict[str, Any], ask: Ask, rate_s: float) -> dict[str, Any]:
    """Return panels and run regions with their data; `$__rate_interval` is what Grafana makes it, in seconds."""

    def asked(expression: str) -> list[dict[str, Any]]:
        return ask(expression.replace("$__rate_interval", f"{rate_s:g}s"))

    return {
        "panels": [_panel(panel, asked) for panel in dashboard["panels"]],
        "runs": [
            [float(moment) for moment, _ in series["values"]]
            for annotation in dashboard["annotations"]["list"]
            for series in asked(annotation["expr"])
        ],
    }


def page(dashboard: dict[str, Any], ask: Ask, rate_s: float, about: str) -> str:
    """Return the page, which needs nothing beside itself; `about` says where the data is from."""
    content = {"note": NOTE, "about": about, **filled(dashboard, ask, rate_s)}
    parts = {
        "UPLOT_CSS": _asset("uPlot.min.css"),
        "UPLOT_JS": _asset("uPlot.iife.min.js"),
        "PREVIEW_JS": (HERE / "preview.js").read_text(encoding="utf-8"),
        "CONTENT": json.dumps(content).replace("</", "<\\/"),
    }
    return re.sub(
        r"@(\w+)@", lambda found: parts.get(found[1], found[0]), (HERE / "preview.html").read_text(encoding="utf-8")
    )


def _panel(panel: dict[str, Any], ask: Ask) -> dict[str, Any]:
    return {
        "title": panel["title"],
        "text": panel["description"],
        "type": panel["type"],
        "unit": panel["fieldConfig"]["defaults"]["unit"],
        "decimals": panel["fieldConfig"]["defaults"].get("decimals"),
        "names": panel.get("options", {}).get("textMode") == "name",
        "place": panel["gridPos"],
        "series": [
            {"name": _legend(target["legendFormat"], series["metric"]), "values": _numbers(series["values"])}
            for target in panel["targets"]
            for series in ask(target["expr"])
        ],
    }


def _legend(form: str, labels: dict[str, str]) -> str:
    return LEGEND.sub(lambda found: labels.get(found[1], ""), form)


def _numbers(values: list[tuple[float, str]]) -> list[tuple[float, float | None]]:
    """The values as JSON can have them: what is no number is nothing."""
    read = ((moment, float(text)) for moment, text in values)
    return [(moment, value if abs(value) < float("inf") else None) for moment, value in read]


def _asset(name: str) -> str:
    """A file of uPlot, which comes with llmload's own pages."""
    return next((ROOT / "llmload").rglob(name)).read_text(encoding="utf-8")
