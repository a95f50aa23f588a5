"""Users that ask, read and ask again: `locust -f locustfiles/assistant.py --headless -u 20 -t 1m --host URL`."""

from llmload import LlmUser, between, task


class Assistant(LlmUser):
    """Three of four tasks are a conversation of two turns, the fourth is a prompt of the scenario."""

    wait_time = between(1, 5)

    @task(3)
    def ask(self) -> None:
        """Ask, and carry the conversation on with the engine's own words."""
        answer = self.llm.chat("What is a KV cache?", max_tokens=128, name="ask")
        self.llm.chat(answer.then("Shorter, please."), max_tokens=64, name="follow-up")

    @task
    def prompt(self) -> None:
        """Send the next of the scenario's prompts: `--prompts` names others than the built-in ones."""
        self.llm.chat(self.prompts.next(), name="prompt")
