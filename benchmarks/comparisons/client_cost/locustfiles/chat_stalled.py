"""Chat users in a process that stalls on purpose for 200 ms of every second, as a busy load generator does."""

from locust import events

from typing import Final

import gevent
from gevent.monkey import get_original

from llmload.loadgen.users import ChatUser, install

PERIOD_S: Final = 1.0
STALL_S: Final = 0.2
stand_still = get_original("time", "sleep")

install(events)


class Chat(ChatUser):
    """Replays the scenario's prompts, one request in flight per user."""


def stall(**_: object) -> None:
    """Start stalling the process periodically."""
    gevent.spawn(_stall)


def _stall() -> None:
    while True:
        gevent.sleep(PERIOD_S - STALL_S)
        stand_still(STALL_S)


events.test_start.add_listener(stall)
