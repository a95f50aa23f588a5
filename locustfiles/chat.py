"""Chat users in a closed loop; `locust --config scenarios/demo.toml` starts them."""

from locust import events

from llmload.loadgen.run import Run
from llmload.loadgen.users import ChatUser


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""

    run_of_llmload = Run(events)
