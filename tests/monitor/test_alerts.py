"""The alert that a measurement depends on fires when the load generator is really starved."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmload.engines.simulated import SimulationSettings, spawn

from .conftest import free_port
from .test_scraped_runs import FIXED, scenario

STARVED_S = 0.15


def test_a_generator_that_is_kept_from_running_is_told(
    prometheus: Callable[..., Any], locust: Callable[..., Any], tmp_path: Path
) -> None:
    port = free_port()
    with spawn(SimulationSettings(model="m", **FIXED)) as engine:
        server = prometheus(("llmload", port))
        path = scenario(tmp_path, engine.url, "users = 2\nduration_s = 120")
        process = locust("--config", path, "--headless", "--metrics-port", str(port))
        firing: list[Any] = []
        end_s = time.monotonic() + 60
        while not firing and time.monotonic() < end_s:
            for _ in range(5):  # as a machine that has other work: stopped for most of each fifth of a second
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(STARVED_S)
                os.kill(process.pid, signal.SIGCONT)
                time.sleep(0.05)
            firing = server.query('ALERTS{alertname="LoadGeneratorSaturated",alertstate="firing"}')

    assert [alert["metric"]["scenario"] for alert in firing] == ["scraped"]
