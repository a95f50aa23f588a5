"""Locust shapes: how many users at which time."""

from locust import LoadTestShape, User, task
from locust.runners import MasterRunner

from functools import partial
from typing import Any, ClassVar, Final

import gevent

from llmload.loadgen.run import Run
from llmload.loadgen.session import fire_request_event, run_conversation
from llmload.scenario.loads import Capacity, Staged

# Locust users that chat.

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
                    count = partial(fire_request_event, self.environment, self.run_of_llmload.request_name)
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
    run_of_llmload: ClassVar[Run]

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when all stages are over."""
        coordinator = self.run_of_llmload.coordinator
        load = self.run_of_llmload.scenario.load if coordinator is None else coordinator.scenario.load
        if not isinstance(load, Staged):
            raise TypeError("locustfiles/chat_staged.py is for load.kind = 'staged'; use locustfiles/chat.py")
        elapsed_s: float = self.get_run_time()  # type: ignore[no-untyped-call]  # Locust has it untyped
        end_s = 0.0
        for index, stage in enumerate(load.stages):
            end_s += stage.duration_s
            if elapsed_s < end_s:
                self.run_of_llmload.begin_stage(index)
                users = stage.users or 1
                return users, load.spawn_rate_per_s or float(users)
        return None


class CapacityShape(LoadTestShape):
    """
    The steps of a search, one after the other, until the highest load that holds is found.

    Locust's users only ever grow: those beyond the step's number rest, since Locust would cut what they have in flight.
    """

    abstract = True
    load_kind = "capacity"
    run_of_llmload: ClassVar[Run]

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when the search is over."""
        coordinator = self.run_of_llmload.coordinator
        search = None if coordinator is None or coordinator.summary is not None else coordinator.search
        if search is None:  # the run is about to start
            load = self.run_of_llmload.scenario.load
            if not isinstance(load, Capacity):
                raise TypeError("locustfiles/chat_capacity.py is for load.kind = 'capacity'; use locustfiles/chat.py")
            users = int(load.start) if load.has_users else 1
        elif search.finished:
            return None
        else:
            users = search.most_users
        users = _for_each_worker(users, self.runner)
        return users, float(min(users, 100))  # Locust warns of more


def _for_each_worker(users: int, runner: Any) -> int:
    """Round up to what divides by the number of workers, so that each has as many as its part of any number may be."""
    workers = runner.worker_count if isinstance(runner, MasterRunner) else 1
    return -(-users // max(1, workers)) * max(1, workers)
