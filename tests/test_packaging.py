"""What is installed is whole: data, scenarios and locustfiles travel with the package, and it works from any folder."""

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from llmload.simulator import SimulationSettings, spawn
from tests.installed import build_wheel, install_core


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_core(wheel, tmp_path_factory.mktemp("installed") / "env")


@pytest.mark.parametrize(
    "name",
    [
        "llmload/py.typed",
        "llmload/prompts/data/builtin.jsonl",
        "llmload/sizing/data/models.json",
        "llmload/scenarios/demo.toml",
        "llmload/scenarios/scenario.schema.json",
        "llmload/scenarios/suite.schema.json",
        "llmload/scenarios/reference-suite.toml",
        "llmload/locustfiles/chat.py",
        "llmload/locustfiles/chat_staged.py",
        "llmload/loadgen/web/assets/llm.html",
        "llmload/loadgen/schemas/live.schema.json",
        "llmload/grafana/compose.yaml",
        "llmload/grafana/dashboards/llmload.json",
        "llmload/grafana/prometheus/prometheus.yml",
        "llmload/grafana/prometheus/rules/alerts.yml",
        "llmload/grafana/provisioning/dashboards/llmload.yml",
        "llmload/report/html/assets/report.html.j2",
        "llmload/report/html/assets/uplot/uPlot.iife.min.js",
    ],
)
def test_the_wheel_contains(wheel: Path, name: str) -> None:
    assert name in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("name", ["lima-speed", "reference/vllm-vicuna-7b-v1.3-speed"])
def test_the_core_runs_shipped_scenarios_from_any_folder(programs: Path, tmp_path: Path, name: str) -> None:
    settings = SimulationSettings(model="m", ttft_s=0.001, itl_s=0.001, output_tokens=2)
    with spawn(settings) as engine:
        ended = subprocess.run(
            [
                *(programs / "llmload", "run", name, "--base-url", engine.url),
                *("--model", "m", "--prompts", "builtin", "--requests", "2", "--out", "runs"),
            ],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert ended.returncode == 0, ended.stderr
    if name == "lima-speed":
        assert re.search(rf"--config {programs.parent}/lib/\S+/llmload/scenarios/lima-speed\.toml", ended.stderr)
    else:
        assert re.search(r"--config \S+/vllm-vicuna-7b-v1\.3-speed\.toml", ended.stderr)
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 1
