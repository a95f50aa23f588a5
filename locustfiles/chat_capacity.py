"""Chat users in a search for a capacity; `locust --config scenarios/capacity.toml` starts them."""

from locust import events

from llmload.loadgen.run import Run
from llmload.loadgen.users import CapacityShape, ChatUser

run = Run(events)


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""

    run_of_llmload = run


class Capacity(CapacityShape):
    """As many users as the step of the search asks for."""

    abstract = False
    run_of_llmload = run
