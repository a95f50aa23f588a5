"""Chat users with the openai SDK's stream, as most Locust tests of LLM engines are written."""

from locust import User, constant, task

import os
import time
from typing import Any

import gevent
import openai

from benchmarks.comparisons.client_cost.locustfiles.stopwatch import Stopwatch

stopwatch = Stopwatch()
client: Any = openai.OpenAI(base_url=f"{os.environ['BENCH_BASE_URL']}/v1", api_key="none", max_retries=0)


class Chat(User):
    """Sends the next prompt when its last answer is complete."""

    wait_time = constant(0)

    @task
    def chat(self) -> None:
        """Stream one answer."""
        messages = stopwatch.next_prompt()
        if messages is None:
            gevent.sleep(1)
            return
        arrivals_s: list[float] = []
        fault: Exception | None = None
        started_s = time.perf_counter()
        try:
            with client.chat.completions.create(
                model=os.environ["BENCH_MODEL"],
                messages=messages,
                max_tokens=int(os.environ["BENCH_TOKENS"]),
                stream=True,
                stream_options={"include_usage": True},
            ) as stream:
                arrivals_s += (
                    time.perf_counter() for chunk in stream if chunk.choices and chunk.choices[0].delta.content
                )
        except openai.OpenAIError as error:
            fault = error
        stopwatch.stop(self.environment, started_s, arrivals_s, fault)
