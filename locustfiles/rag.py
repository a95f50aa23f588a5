"""
Retrieval beside generation, and plain HTTP users beside both: `locust -f locustfiles/rag.py --host URL`.

`SEARCH_URL` names the search service; without it, the engine's own `/health` is called in its place.
"""

from locust import HttpUser

import os

from llmload import LlmUser, between, task

SEARCH_URL = os.environ.get("SEARCH_URL", "/health")
QUESTION = "What does the warranty cover?"


class Reader(LlmUser, HttpUser):
    """Searches by HTTP (`self.client`, Locust's), then asks the model about what was found (`self.llm`)."""

    wait_time = between(1, 3)

    @task
    def answer(self) -> None:
        """Find passages, and have them read."""
        found = self.client.get(SEARCH_URL, params={"q": QUESTION}, name="search").text[:4000]
        self.llm.chat(
            [
                {"role": "system", "content": f"Answer from these passages alone:\n{found}"},
                {"role": "user", "content": QUESTION},
            ],
            max_tokens=128,
            name="answer from passages",
        )


class Visitor(HttpUser):
    """A user of the rest of the site: its rows are Locust's, beside llmload's."""

    wait_time = between(1, 3)

    @task
    def look(self) -> None:
        """Look a page up."""
        self.client.get(SEARCH_URL, name="a page")
