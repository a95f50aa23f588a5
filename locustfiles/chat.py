"""Chat users in a closed loop: `locust -f locustfiles/chat.py --host URL`, or with a scenario, `--config FILE`."""

from llmload import ChatUser


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""
