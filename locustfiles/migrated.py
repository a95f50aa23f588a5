"""
A locustfile that measured TTFT by hand, and what is left of it: `locust -f locustfiles/migrated.py --host URL`.

Before, each task did what llmload does now, with the time stamps of a busy Python process:

    class Chat(HttpUser):
        @task
        def ask(self):
            start, first = time.perf_counter(), None
            with self.client.post("/v1/chat/completions", json={..., "stream": True}, stream=True) as response:
                for line in response.iter_lines():          # buffers, so TTFT comes late
                    if first is None and line.startswith(b"data:"):
                        first = time.perf_counter()         # the role's chunk, which has no text
            events.request.fire(request_type="TTFT", name="ask", response_time=(first - start) * 1000, ...)
"""

from llmload import LlmUser, constant, task


class Asker(LlmUser):
    """The same user: TTFT, ITL, TPOT, tokens/s and failures of "ask" are measured and reported without further code."""

    wait_time = constant(1)

    @task
    def ask(self) -> None:
        """Ask; `answer.record` has the request's times, for those who still want them here."""
        answer = self.llm.chat("Name three uses of a paper clip.", max_tokens=64, temperature=0.7, name="ask")
        if answer.ok and not answer.text:
            raise ValueError("an empty answer")  # as in any locustfile: counted, and the exit code is 1
