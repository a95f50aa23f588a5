"""Bursts at the end of each period are sent at their rate, and measured apart from the base between them."""

import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llmload.cli.main import main
from llmload.loadgen.phases import FOREVER_NS, SpikeTimeline
from llmload.scenario.loads import Spike
from llmload.units import NS_PER_S
from tests.loadgen.conftest import Locust, StartEngine, WriteScenario

QUICK = {"ttft_s": 0.02, "prefill_s_per_token": 0.0, "itl_s": 0.005, "itl_load_factor": 0.0, "output_tokens": 4}
LOAD = """
base_rate_per_s = 20
burst_rate_per_s = 100
burst_s = 1
period_s = 4
arrivals = "constant"
duration_s = 10.5
warmup_s = 1
"""


def spike(**changes: Any) -> Spike:
    keys = {"base_rate_per_s": 2, "burst_rate_per_s": 10, "burst_s": 4, "period_s": 10, "duration_s": 35, "warmup_s": 3}
    return Spike(kind="spike", **keys | changes)


@pytest.fixture
def spiked(write_scenario: WriteScenario) -> Callable[[str], str]:
    def write(url: str) -> str:
        file = write_scenario(url, LOAD, "[prompts]\nrepeat = true")
        file.write_text(file.read_text().replace('kind = "closed_loop"', 'kind = "spike"'))
        return str(file)

    return write


@pytest.mark.timing
def test_base_and_burst_have_their_own_rates_and_figures(
    engine: StartEngine, locust: Locust, spiked: Callable[[str], str]
) -> None:
    """In one process; `test_slow_worker.py` holds the rates of two workers, one of them late."""
    ended = locust.run("--config", spiked(engine(**QUICK, slots=500).url))

    assert ended.code == (3 if ended.summary["verdict"]["level"] == "INVALID" else 0), ended.err  # on a busy machine
    base, burst = ended.summary["stages"]
    assert (base["name"], base["rate_per_s"], burst["name"], burst["rate_per_s"]) == ("base", 20, "burst", 100)
    assert burst["window_s"] == pytest.approx(2, abs=0.001)
    assert base["window_s"] == pytest.approx(7.5, abs=0.1)
    for row, rate in ((base, 20), (burst, 100)):
        assert row["e2e_s"]["count"] / row["window_s"] == pytest.approx(rate, rel=0.04)
        assert row["requests_per_min"] / 60 == pytest.approx(rate, rel=0.2)  # what ends in it: some began before
    sent_between_bursts = sum(between_bursts(log) for log in ended.folder.glob("requests*.jsonl"))
    assert sent_between_bursts == pytest.approx(3 * 20, rel=0.04)
    requests, sent = ended.summary["requests"], Counter(line["stage"] for line in ended.lines)
    assert requests["started"] == requests["completed"] == sent["base"] + sent["burst"]
    assert sent["burst"] == pytest.approx(200, rel=0.04)
    assert base["e2e_s"]["count"] + burst["e2e_s"]["count"] == ended.summary["e2e_s"]["count"]
    assert ended.summary["window_s"] == pytest.approx(base["window_s"] + burst["window_s"], abs=0.5)
    assert [each["name"] for each in ended.manifest["timeline"]["stages"]][:4] == ["base", "burst"] * 2
    assert "20 requests/s with bursts of 100" in ended.out

    assert_read(ended.folder, ended.summary["stages"])


def between_bursts(log: Path) -> int:
    """How many requests a process sent in the base phase between the bursts."""
    lines = sorted(map(json.loads, log.read_text().splitlines()), key=lambda line: line["started_ns"])
    phases = [(name, len(list(of))) for name, of in groupby(line["stage"] for line in lines)]
    assert [name for name, _ in phases][:4] == ["base", "burst"] * 2
    return phases[2][1]


def assert_read(folder: Path, stages: list[dict[str, Any]]) -> None:
    """Report and compare read the run, and a report counts the same where the run left no summary."""
    command = CliRunner()
    compared = command.invoke(main, ["compare", str(folder), str(folder), "--json"])
    assert compared.exit_code in (0, 3), compared.output
    page = folder.parent / "report.html"
    assert command.invoke(main, ["report", str(folder), "--html", str(page)]).exit_code == 0
    assert "bursts of 100" in page.read_text()

    summary = folder / "summary.json"
    written = summary.read_text()
    summary.unlink()
    again = command.invoke(main, ["report", str(folder), "--json"])
    summary.write_text(written)
    recounted = json.loads(again.stdout)[0]["stages"]
    assert [row["name"] for row in recounted] == ["base", "burst"]
    for row, of_run in zip(recounted, stages, strict=True):
        assert row["e2e_s"]["count"] == pytest.approx(of_run["e2e_s"]["count"], abs=5)
        assert row["window_s"] == pytest.approx(of_run["window_s"], abs=0.1)


def test_base_and_burst_recur_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: round(now_s[0] * NS_PER_S))
    timeline = SpikeTimeline(spike(), 0)
    now_s[0] = 100
    assert (timeline.name_of(timeline.index), timeline.rate_at(0), timeline.measured_s("base")) == (
        "base",
        (2, FOREVER_NS),
        None,
    )
    timeline.begin_first()
    seen = []
    for now_s[0] in (100, 105.9, 106, 109.9, 110, 116, 135):
        seen.append((timeline.name_of(timeline.index), timeline.rate_per_s, timeline.measured_s("base")))
    timeline.end()

    assert seen == [
        ("base", 2, None),
        ("base", 2, pytest.approx(2.9)),
        ("burst", 10, 3),
        ("burst", 10, 3),
        ("base", 2, 3),
        ("burst", 10, 9),
        ("base", 2, 20),
    ]
    assert (timeline.window_s("base"), timeline.window_s("burst")) == (20, 12)
    assert [span.phase.name for span in timeline.spans()] == ["base", "burst"] * 3 + ["base"]
    assert timeline.begin_s("burst") == 106
    assert [name for name, _ in timeline.touched(105 * NS_PER_S, 112 * NS_PER_S)] == ["base", "burst", "base"]


def test_the_pace_changes_at_the_moment_that_a_burst_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: 0)
    load = spike()
    timeline = SpikeTimeline(load, 0)
    timeline.begin_first()
    pace = timeline.rate_at

    assert pace(0) == (2, 6 * NS_PER_S)
    assert pace(6 * NS_PER_S) == (10, 10 * NS_PER_S)
    assert pace(27 * NS_PER_S) == (10, 30 * NS_PER_S)


def test_a_spike_says_what_it_sends() -> None:
    assert spike().text == "2 requests/s with bursts of 10 for 4 s every 10 s in an open loop, poisson arrivals"
    assert (spike().ends_after_s, spike().ends_after_requests, spike().is_open_loop) == (35, None, True)
