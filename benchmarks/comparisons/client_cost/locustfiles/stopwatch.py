"""What a plain Locust test measures with its process's clock, written when the last answer is complete."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gevent
import numpy as np

RESULT: Final = "result.json"


class Stopwatch:
    """Hands out prompts, collects times of arrival, and ends the run."""

    def __init__(self) -> None:
        with Path(os.environ["BENCH_PROMPTS"]).open(encoding="utf-8") as lines:
            self._prompts: Iterator[list[dict[str, Any]]] = iter([json.loads(line)["messages"] for line in lines])
        self._open = int(os.environ["BENCH_REQUESTS"])
        self._ttft_s: list[float] = []
        self._gaps_s: list[float] = []
        self._failed = 0

    def next_prompt(self) -> list[dict[str, Any]] | None:
        """Return the messages of the next prompt; None when all are used."""
        return next(self._prompts, None)

    def stop(self, environment: Any, started_s: float, arrivals_s: list[float], fault: Exception | None) -> None:
        """Record an answer, fire Locust's request event, and end the run with the last answer."""
        if fault is None:
            self._ttft_s.append(arrivals_s[0] - started_s)
            self._gaps_s += np.diff(arrivals_s).tolist()
        else:
            self._failed += 1
        environment.events.request.fire(
            request_type="LLM",
            name="chat",
            response_time=(time.perf_counter() - started_s) * 1000,
            response_length=len(arrivals_s),
            exception=fault,
            context={},
            response=None,
        )
        self._open -= 1
        if self._open == 0:
            self._write()
            gevent.spawn_later(0.1, environment.runner.quit)  # it kills every user, this one too

    def _write(self) -> None:
        gaps_s = self._gaps_s
        p50_s, p99_s, max_s = np.quantile(gaps_s, (0.5, 0.99, 1.0)).tolist() if gaps_s else (None, None, None)
        result = {
            "completed": len(self._ttft_s),
            "failed": self._failed,
            "ttft_mean_s": float(np.mean(self._ttft_s)),
            "ttft_p99_s": float(np.quantile(self._ttft_s, 0.99)),
            "itl_p50_s": p50_s,
            "itl_p99_s": p99_s,
            "itl_max_s": max_s,
        }
        Path(RESULT).write_text(json.dumps(result), encoding="utf-8")
