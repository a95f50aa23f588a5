"""Locust users that chat."""

from locust import User, task

from functools import partial
from typing import ClassVar, Final

import gevent

from llmload.swarm.run import Run
from llmload.swarm.talk import hold, tell_locust

REST_S: Final = 3600.0


class ChatUser(User):
    """
    One request in flight at a time: the next prompt is sent when the last answer is complete.

    In an open loop users rest: each process sends by its schedule, whatever their number.
    """

    abstract = True
    run_of_llmload: ClassVar[Run]

    def wait_time(self) -> float:
        """Return how long to think before the next conversation, in seconds."""
        session = self.run_of_llmload.session
        return 0.0 if session is None else session.think_time_s

    @task
    def chat(self) -> None:
        """Hold one conversation: its requests one after the other."""
        session = self.run_of_llmload.session
        if session is not None and session.in_closed_loop:
            with session.seat():
                conversation = session.next_conversation()
                if conversation is not None:
                    count = partial(tell_locust, self.environment, self.run_of_llmload.request_name)
                    hold(conversation, session, count)
                    return
        gevent.sleep(REST_S)  # nothing to send: rest until the run ends
