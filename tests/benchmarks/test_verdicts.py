"""The count of ordinary runs' verdicts: what is counted, what is said, and one run of it."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.trials.verdicts import MEASUREMENTS, Judged, Measurement, run, verdicts_table
from llmload.scenario.reading import shipped_scenarios
from llmload.simulator import SimulationSettings

QUICK = SimulationSettings(ttft_s=0.02, prefill_s_per_token=0.0, itl_s=0.005, output_tokens=4)
ONE = Measurement(name="one", scenario="lima-speed", settings=("load.requests=3",), engine=QUICK)


def judged(level: str, *reasons: str, requests_per_min: float | None = 60.0, code: int = 0) -> Judged:
    summary: dict[str, Any] = {
        "verdict": {"level": level, "reasons": [{"check": check, "text": f"{check} is high"} for check in reasons]},
        "requests_per_min": requests_per_min,
        "ttft_s": {"p50": 0.05},
        "output_tokens_per_s": None,
    }
    return Judged(measurement=ONE, code=code, summary=summary)


def test_levels_and_first_reasons_are_counted_and_figures_have_their_median() -> None:
    runs = [
        judged("VALID", requests_per_min=50.0),
        judged("DEGRADED", "lag", "other", requests_per_min=70.0),
        judged("DEGRADED", "lag", requests_per_min=None),
        judged("INVALID", "ended_early", code=3),
        Judged(measurement=ONE, code=2, summary=None, error="no engine"),
    ]
    screen = Console(width=200, record=True, file=io.StringIO())
    screen.print(verdicts_table(runs))
    row = next(line for line in screen.export_text().splitlines() if " one " in line)

    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[:8] == ["one", "5", "1", "2", "1", "3", "60.0", "50.00"]
    assert cells[-1] == "lag 2, ended_early 1, no engine 1"


def test_a_shipped_scenario_is_run_and_judged(tmp_path: Path) -> None:
    came = run(ONE, tmp_path)

    assert came.code == 0, came.error
    assert came.summary is not None
    assert came.summary["requests"]["completed"] == 3
    assert came.level == came.summary["verdict"]["level"]
    assert run(Measurement(name="none", scenario="nowhere"), tmp_path).reason is not None


def test_every_shipped_scenario_is_measured() -> None:
    assert {each.scenario for each in MEASUREMENTS} == set(shipped_scenarios())
