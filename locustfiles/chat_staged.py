"""Chat users in stages; `locust --config scenarios/demo-staged.toml` starts them."""

from llmload import ChatUser, StagedShape


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""


class Stages(StagedShape):
    """As many users as the scenario's stage asks for."""

    abstract = False
