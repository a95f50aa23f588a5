"""Chat users in a sweep over loads; `locust --config scenarios/sweep.toml` starts them."""

from llmload import ChatUser, SweepShape


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""


class Sweep(SweepShape):
    """As many users as the point of the sweep asks for."""

    abstract = False
