"""A suite with a real engine, started from llmload's template: Transformers, from `benchmarks.tools.cpu_engines`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.engine


def test_a_suite_starts_measures_and_stops_transformers(tmp_path: Path) -> None:
    suite = tmp_path / "real-suite.toml"
    suite.write_text(
        """
[suite]
name = "real"
warmup_requests = 0
[engines.transformers]
program = [".engines/transformers/bin/transformers", "serve"]
options = ["--device", "cpu"]
env = { HF_HUB_OFFLINE = "1" }
[models.tiny]
id = ".engines/models/tiny"
catalogue = ".engines/models/tiny"
precision = "bf16"
[protocols.speed]
scenario = "lima-speed"
set = ["prompts.source=builtin", "prompts.count=4", "load.requests=4", "request.max_tokens=8"]
"""
    )
    command = [sys.executable, "-m", "llmload.cli.main", "suite", str(suite), "--out", str(tmp_path / "out"), "--json"]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)

    assert ended.returncode in {0, 3}, ended.stderr  # a busy machine's figures may be INVALID
    (cell,) = json.loads(ended.stdout)["cells"]
    assert (cell["engine"], cell["model"], cell["requests"]) == ("Transformers", "tiny", 4)
    assert cell["value"] > 0
    (row,) = json.loads(ended.stdout)["memory"]["rows"]
    assert row["model"] == "tiny"
    log = (tmp_path / "out" / "logs" / "transformers" / "tiny" / "engine.log").read_text()
    assert "POST /v1/chat/completions" in log
    assert "Finished server process" in log, "asked to stop, and not killed"
