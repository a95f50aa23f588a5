"""The demonstration does what the README says, in the time it says."""

import json
import subprocess
import sys
import time
from pathlib import Path


def test_the_demo_answers_the_three_questions_in_under_90_seconds(tmp_path: Path) -> None:
    start = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "llmload.cli.main", "demo", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert time.monotonic() - start < 90
    for line in ("[1/4]", "[4/4]", "|LLaMA-2  |7b<br/>13b<br/>70b", "## Generative Inference Speed", "Run folders:"):
        assert line in ended.stdout
    assert "Simulated engine: figures of llmload's own simulation, not of any real engine." in ended.stdout
    summaries = {s["scenario"]: s for s in (json.loads(f.read_text()) for f in tmp_path.glob("*/summary.json"))}
    assert summaries["lima-speed"]["requests"]["completed"] == 100
    assert summaries["demo"]["requests"]["failed"] == 0
    assert all(summary["simulated"] for summary in summaries.values())
