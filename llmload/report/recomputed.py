"""The summary of a run that left none: it crashed, or goes on."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from llmload.measure.health import health
from llmload.measure.totals import RunTotals
from llmload.measure.verdict import Level, Reason, judge
from llmload.report.periods import Periods
from llmload.report.summary import figures, summarise
from llmload.scenario.tables import ENGINE_LABELS

SILENT_S: Final = 60.0
"""A run that goes on writes more often than this, mostly."""
_ONLY_THE_RUN_KNEW: Final = ("dropped_share", "reused_prompt_share", "event_loop_lag_p99_s")


def why_recomputed(started_unix_s: float, files: Sequence[Path]) -> str:
    """Return in words why there is no summary, and where the figures come from instead."""
    silent_s = time.time() - max((file.stat().st_mtime for file in files), default=started_unix_s)
    state = "the run goes on, or ended without a word" if silent_s < SILENT_S else "the run ended without a word"
    return f"{state}: it left no summary.json, so these figures are counted from the requests that it wrote down"


def recomputed_summary(
    manifest: Mapping[str, Any], totals: RunTotals, periods: Periods, of_stages: Sequence[RunTotals], why: str
) -> dict[str, Any]:
    """Return what `summary.json` would say, `recomputed` besides; what only the run itself knew is None."""
    scenario = manifest["scenario"]
    figures_of_health = {name: value for name, value in health(totals).items() if name not in _ONLY_THE_RUN_KNEW}
    verdict = judge(figures_of_health, [Reason(check="unfinished", level=Level.INVALID, text=why)])
    summary = {
        "run_id": manifest["run_id"],
        "scenario": scenario["scenario"]["name"],
        "protocol": scenario["scenario"]["protocol"],
        "engine": scenario["engine"]["label"] or ENGINE_LABELS[scenario["engine"]["name"]],
        "model": scenario["model"]["name"],
        "simulated": manifest["simulated"],
        "load": {key: value for key, value in scenario["load"].items() if value is not None},
        "recomputed": why,
        **summarise(totals, window_s=periods.drawn(totals).length_s, verdict=verdict),
        "stages": _stages(periods, of_stages),
    }
    summary["requests"]["dropped"] = None
    return summary


def _stages(periods: Periods, totals: Sequence[RunTotals]) -> list[dict[str, Any]]:
    return [
        {
            "name": stage.name,
            "users": stage.users,
            "rate_per_s": stage.rate_per_s,
            **figures(of, stage.window.length_s),
        }
        for stage, of in zip(periods.stages, totals, strict=True)
    ]
