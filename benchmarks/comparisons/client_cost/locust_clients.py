"""Locust without llmload: the openai SDK's stream, and Locust's own fast HTTP client."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ROOT
from benchmarks.comparisons.client_cost.locustfiles.stopwatch import RESULT
from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.prompts import write_prompts


@dataclass(frozen=True, slots=True)
class PlainLocust:
    """A locustfile of this benchmark, run headless."""

    name: str
    locustfile: str

    def missing(self) -> str | None:
        """Return what has to be done before it can run; None if nothing."""
        return None

    def command(self, task: Task) -> Command:
        """Return how to run the task."""
        file = Path(__file__).with_name("locustfiles") / self.locustfile
        users, rate = str(task.work.streams), f"{task.work.streams / task.work.ramp_s:g}"
        return Command(
            arguments=(
                *(
                    sys.executable,
                    "-m",
                    "locust",
                    "--headless",
                    "--only-summary",
                    "--loglevel=WARNING",
                    "-f",
                    str(file),
                ),
                *("--users", users, "--spawn-rate", rate),
            ),
            environment={
                "PYTHONPATH": str(ROOT),
                "BENCH_PROMPTS": str(write_prompts(task)),
                "BENCH_REQUESTS": str(task.requests),
                "BENCH_BASE_URL": task.base_url,
                "BENCH_MODEL": task.model,
                "BENCH_TOKENS": str(task.work.tokens),
            },
        )

    def reported(self, task: Task) -> Reported:
        """Return what the locustfile measured."""
        return Reported(**json.loads((task.folder / RESULT).read_text(encoding="utf-8")))
