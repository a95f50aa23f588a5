"""Every expression of the dashboard, queried from a real Prometheus with a recorded run."""

import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.tools.dashboard_picture.page import DASHBOARD, page
from benchmarks.tools.dashboard_picture.picture import browser
from benchmarks.tools.dashboard_picture.prometheus import Prometheus as Recorded
from llmload.prometheus.grafana import RATE, ROWS, RUN_REGIONS
from tests.prometheus.conftest import NO_PROMETHEUS, RULES, Prometheus

FIXTURE = Path(__file__).with_name("data") / "recorded_run.om.gz"


def expressions() -> Iterator[tuple[str, str, str]]:
    for row in ROWS:
        for panel in row:
            for legend, query in panel.queries.items():
                yield panel.title, legend, query
    yield "annotation", "runs", RUN_REGIONS


def spelt_out(query: str, *, escaped: bool = False) -> str:
    """The query with each recorded series as the rule that records it, since a loaded block has raw series only."""
    groups = yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
    for rule in groups[0]["rules"]:
        expression = f"({rule['expr']})"
        query = query.replace(rule["record"], json.dumps(expression)[1:-1] if escaped else expression)
    return query.replace(RATE, "20s")


def test_every_expression_returns_data(prometheus: Callable[..., Prometheus], tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        pytest.skip(NO_PROMETHEUS)
    recorded, storage = tmp_path / "recorded.om", tmp_path / "loaded"
    text = gzip.decompress(FIXTURE.read_bytes()).decode()
    recorded.write_text(text)
    load = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(recorded), str(storage)]
    subprocess.run(load, check=True, capture_output=True)
    end_s = float(re.findall(r" (\d+\.\d+)\n", text)[-1])
    server = prometheus(storage=storage)

    answers = {
        (title, legend): server.query(spelt_out(query), at_s=end_s - 5) for title, legend, query in expressions()
    }

    assert len(answers) > 35
    assert not [name for name, samples in answers.items() if not samples]
    values = [float(s["value"][1]) for of, samples in answers.items() if of[0] != "annotation" for s in samples]
    assert not [value for value in values if value != value], "NaN is drawn as nothing"
    drawn = drawn_in_a_browser(server.url, end_s, tmp_path)
    dashboard = json.loads(DASHBOARD.read_text())
    assert drawn.count("<canvas") == sum(panel["type"] != "stat" for panel in dashboard["panels"])
    assert all(f'<h2 class="">{panel["title"]}</h2>' in drawn for panel in dashboard["panels"])
    assert ">No data" not in drawn
    assert ">Preview rendered from the dashboard's JSON, not Grafana<" in drawn


def drawn_in_a_browser(url: str, end_s: float, folder: Path) -> str:
    """The preview page of the recorded run, as a browser leaves it when its script has run."""
    server = Recorded(url)
    dashboard = json.loads(spelt_out(DASHBOARD.read_text(), escaped=True))
    html = page(dashboard, lambda expression: server.over_time(expression, end_s - 35, end_s, 5), 20, "a test")
    file = folder / "preview.html"
    file.write_text(html)
    ended = subprocess.run([*browser(folder / "profile"), "--dump-dom", file.as_uri()], capture_output=True, timeout=90)
    return ended.stdout.decode().partition("<header>")[2]
