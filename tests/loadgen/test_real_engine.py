"""A real engine on this machine's CPU: Transformers, installed by `python -m benchmarks.tools.cpu_engines install`."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmload.scenario.reading import free_port
from tests.best_stamps import BEST_STAMPS
from tests.loadgen.conftest import Locust

ROOT = Path(__file__).parents[2]
ENGINES = [sys.executable, "-m", "benchmarks.tools.cpu_engines"]
pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = str(free_port())
    with (tmp_path_factory.mktemp("engine") / "log").open("w") as log:
        serve = [*ENGINES, "serve", "transformers", "--model", "tiny", "--port", port]
        process = subprocess.Popen(serve, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            subprocess.run([*ENGINES, "wait", "--port", port, "--timeout", "120"], cwd=ROOT, check=True)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.mark.parametrize("client", ["wire", "openai"])
def test_the_speed_protocol_on_a_real_engine(transformers: str, locust: Locust, client: str) -> None:
    ended = locust.run(
        *("--config", "scenarios/lima-speed.toml", "--host", transformers, "--engine", "transformers"),
        *("--model", ".engines/models/tiny", "--prompts", "builtin", "--requests", "12"),
        *("--set", "request.max_tokens=16", "--set", f"client.kind={client}"),
        timeout_s=180,
    )

    summary = ended.summary
    assert ended.code == 0, ended.err
    assert summary["requests"]["completed"] == 12
    assert summary["token_source"] == "usage"
    assert summary["stamp_source"] == (BEST_STAMPS if client == "wire" else "user")
    assert summary["simulated"] is False
    assert summary["output_tokens"] == sum(line["output_tokens"] for line in ended.lines)
    assert all(0 < line["ttft_s"] < line["e2e_s"] for line in ended.lines)
    assert set(summary["finish_reasons"]) <= {"length", "stop"}


def test_the_throughput_protocol_on_a_real_engine(transformers: str, locust: Locust) -> None:
    ended = locust.run(
        *("--config", "scenarios/lima-throughput.toml", "--host", transformers, "--engine", "transformers"),
        *("--model", ".engines/models/tiny", "--prompts", "builtin", "-u", "4", "-t", "12s"),
        *("--set", "request.max_tokens=8", "--set", "load.warmup_s=2"),
        timeout_s=180,
    )

    requests = ended.summary["requests"]
    assert ended.code == 0, ended.err
    assert requests["started"] == requests["completed"] == len(ended.lines)
    assert ended.summary["requests_per_min"] == pytest.approx(
        requests["completed_in_window"] / ended.summary["window_s"] * 60
    )


def test_a_field_that_the_engine_refuses_is_a_failure_with_its_words(transformers: str, locust: Locust) -> None:
    ended = locust.run(
        *("--config", "scenarios/lima-speed.toml", "--host", transformers, "--engine", "transformers"),
        *("--model", ".engines/models/tiny", "--prompts", "builtin", "--requests", "2", "--set", "request.top_k=5"),
    )

    assert ended.code == 3, ended.err
    assert ended.summary["requests"]["errors"] == {"http_4xx": 2}
    assert all(line["error"]["http_status"] == 422 for line in ended.lines)
