"""Chat users with Locust's FastHttpUser, which reads a stream event by event."""

from locust import FastHttpUser, constant, task

import json
import os
import time
from typing import Any

import gevent

from benchmarks.comparisons.client_cost.locustfiles.stopwatch import Stopwatch

stopwatch = Stopwatch()


class Chat(FastHttpUser):
    """Sends the next prompt when its last answer is complete."""

    host = os.environ["BENCH_BASE_URL"]
    wait_time = constant(0)

    @task
    def chat(self) -> None:
        """Stream one answer."""
        messages = stopwatch.next_prompt()
        if messages is None:
            gevent.sleep(1)
            return
        body = {
            "model": os.environ["BENCH_MODEL"],
            "messages": messages,
            "max_tokens": int(os.environ["BENCH_TOKENS"]),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        arrivals_s: list[float] = []
        fault: Exception | None = None
        started_s = time.perf_counter()
        try:
            # Not Locust's session: it would count the request again, and buffers 1024 bytes of a stream.
            response: Any = self.client.client.urlopen(
                f"{self.host}/v1/chat/completions",
                method="POST",
                payload=json.dumps(body),
                headers={"Content-Type": "application/json"},
            )
            while event := response._response.readline(b"\n\n"):
                if event.startswith(b"data: {"):
                    choices = json.loads(event[6:])["choices"]
                    if choices and choices[0]["delta"].get("content"):
                        arrivals_s.append(time.perf_counter())
            response.release()
        except (OSError, ValueError) as error:
            fault = error
        stopwatch.stop(self.environment, started_s, arrivals_s, fault)
