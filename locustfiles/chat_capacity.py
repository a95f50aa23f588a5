"""Chat users in a search for a capacity; `locust --config scenarios/capacity.toml` starts them."""

from llmload import CapacityShape, ChatUser


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""


class Capacity(CapacityShape):
    """As many users as the step of the search asks for."""

    abstract = False
