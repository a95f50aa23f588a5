"""Chat users in a closed loop; `locust --config scenarios/demo.toml` starts them."""

from locust import events

from llmload.loadgen.users import ChatUser, install

install(events)


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""
