"""Locust shapes: how many users at which time."""

from locust import LoadTestShape

from typing import ClassVar

from llmload.scenario.loads import Staged
from llmload.swarm.run import Run


class StagedShape(LoadTestShape):
    """
    The stages of a staged scenario, one after the other, then the end.

    In open-loop stages one user rests while each process sends by its schedule.
    """

    abstract = True
    run_of_llmload: ClassVar[Run]

    def tick(self) -> tuple[int, float] | None:
        """Return users and spawn rate of this moment; None when all stages are over."""
        steering = self.run_of_llmload.steering
        load = self.run_of_llmload.scenario.load if steering is None else steering.scenario.load
        if not isinstance(load, Staged):
            raise TypeError("locustfiles/chat_staged.py is for load.kind = 'staged'; use locustfiles/chat.py")
        elapsed_s: float = self.get_run_time()  # type: ignore[no-untyped-call]  # Locust has it untyped
        end_s = 0.0
        for place, stage in enumerate(load.stages):
            end_s += stage.duration_s
            if elapsed_s < end_s:
                self.run_of_llmload.begin_stage(place)
                users = stage.users or 1
                return users, load.spawn_rate_per_s or float(users)
        return None
