"""Locust's side of a load: the users that chat, and the shapes that say how many of them run."""

from locust import LoadTestShape, User, task
from locust.env import Environment

from functools import partial
from typing import Final

import gevent

from llmload.loadgen.coordinating import coordinating_node
from llmload.loadgen.locust_compat import environment_of
from llmload.loadgen.node import REQUEST_NAME, sending_node
from llmload.loadgen.session import fire_request_event, run_conversation

REST_S: Final = 3600.0


class ChatUser(User):
    """
    One request in flight at a time: the next prompt is sent when the last answer is complete.

    In an open loop users rest: each process sends by its schedule, however many there are.
    """

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._node = sending_node(environment)

    def wait_time(self) -> float:
        """Return how long to think before the next conversation, in seconds."""
        session = self._node.session
        return 0.0 if session is None else session.think_time_s

    @task
    def chat(self) -> None:
        """Run one conversation: its requests one after the other."""
        session = self._node.session
        if session is not None and session.in_closed_loop:
            with session.acquire():
                conversation = session.next_conversation()
                if conversation is not None:
                    count = partial(fire_request_event, self.environment, REQUEST_NAME)
                    run_conversation(conversation, session, count)
                    return
        gevent.sleep(REST_S)  # nothing to send: rest until the run ends


class StagedShape(LoadTestShape):
    """
    The stages of a staged scenario, one after the other, then the end.

    In open-loop stages one user rests while each process sends by its schedule.
    """

    abstract = True
    load_kind = "staged"

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when all stages are over."""
        node = coordinating_node(environment_of(self))
        coordinator = node.coordinator
        load = node.scenario.load if coordinator is None else coordinator.scenario.load
        now = load.users_at(self.get_run_time())  # type: ignore[no-untyped-call]  # Locust has it untyped
        if now is None:
            return None
        index, users, spawn_rate_per_s = now
        node.begin_stage(index)
        return users, spawn_rate_per_s


class CapacityShape(LoadTestShape):
    """
    The steps of a search, one after the other, until the highest load that passes is found.

    The number of users never falls: those beyond the step's number rest, since Locust would cut their requests.
    """

    abstract = True
    load_kind = "capacity"

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when the search is over."""
        node = coordinating_node(environment_of(self))
        coordinator = node.coordinator
        search = None if coordinator is None or coordinator.summary is not None else coordinator.search
        if search is None:  # the run is about to start
            users = node.scenario.load.locust_users
        elif search.finished:
            return None
        else:
            users = search.most_users
        users = _for_each_sender(users, node.sender_count)
        return users, float(min(users, 100))  # Locust warns of more


def _for_each_sender(users: int, senders: int) -> int:
    """Round up to a multiple of the processes that send, so that each has enough users for its shard of any step."""
    return -(-users // max(1, senders)) * max(1, senders)
