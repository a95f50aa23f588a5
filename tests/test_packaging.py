"""What is installed is whole: data, scenarios and locustfiles travel with the package, and it works from any folder."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llmload.simulator import SimulationSettings, spawn

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*build, "--disable-pip-version-check"], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize(
    "name",
    [
        "llmload/py.typed",
        "llmload/prompts/data/builtin.jsonl",
        "llmload/sizing/data/models.json",
        "llmload/scenarios/demo.toml",
        "llmload/scenarios/reference-suite.toml",
        "llmload/locustfiles/chat.py",
        "llmload/locustfiles/chat_staged.py",
        "llmload/loadgen/web/assets/llm.html",
        "llmload/report/html/assets/report.html.j2",
        "llmload/report/html/assets/uplot/uPlot.iife.min.js",
    ],
)
def test_the_wheel_contains(wheel: Path, name: str) -> None:
    assert name in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("name", ["lima-speed", "reference/vllm-vicuna-7b-v1.3-speed"])
def test_an_installed_llmload_runs_shipped_scenarios_from_any_folder(wheel: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    settings = SimulationSettings(model="m", ttft_s=0.001, itl_s=0.001, output_tokens=2)
    with spawn(settings) as engine:
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "llmload.cli.main", "run", name, "--base-url", engine.url),
                *("--model", "m", "--prompts", "builtin", "--requests", "2", "--out", "runs"),
            ],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert ended.returncode == 0, ended.stderr
    if name == "lima-speed":
        assert f"--config {tmp_path / 'site' / 'llmload' / 'scenarios' / 'lima-speed.toml'}" in ended.stderr
    else:
        assert re.search(r"--config \S+/vllm-vicuna-7b-v1\.3-speed\.toml", ended.stderr)
    assert len(list((tmp_path / "runs").glob("*/summary.json"))) == 1
