"""Chat users in stages; `locust --config scenarios/demo-staged.toml` starts them."""

from locust import events

from llmload.loadgen.run import Run
from llmload.loadgen.users import ChatUser, StagedShape

run = Run(events)


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""

    run_of_llmload = run


class Stages(StagedShape):
    """As many users as the scenario's stage asks for."""

    abstract = False
    run_of_llmload = run
