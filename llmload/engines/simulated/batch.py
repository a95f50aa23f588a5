"""Slots, the queue before them, and the schedule of due tokens."""

import asyncio
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush, heapreplace
from itertools import count
from time import monotonic_ns

from llmload.engines.simulated.alarm import alarm_for
from llmload.engines.simulated.formulas import gap_ns, ttft_ns
from llmload.engines.simulated.generation import Generation, Step
from llmload.engines.simulated.metrics import BatchGauges
from llmload.engines.simulated.settings import SimulationSettings


class Batch:
    """
    Continuous batching: at most `slots` requests run, the rest wait first in first out.

    One heap holds the next token of each running request, one alarm rings for the earliest: no task a request. A slot
    is free from the moment its last token was due, not from when it was written, so lateness never adds up.
    """

    def __init__(
        self, settings: SimulationSettings, loop: asyncio.AbstractEventLoop, ended: Callable[[Generation], None]
    ) -> None:
        self._settings = settings
        self._ended = ended
        self._alarm = alarm_for(loop, self._ring)
        self._due: list[tuple[int, int, Generation]] = []
        self._order = count()
        self._running: set[Generation] = set()
        self._waiting: deque[Generation] = deque()
        self._gap_ns = 0

    def submit(self, generation: Generation) -> None:
        """Run the request if a slot is free, else let it wait."""
        if len(self._running) < self._settings.slots:
            self._admit(generation, generation.request.received_ns)
            self._set_alarm()
        else:
            self._waiting.append(generation)

    def abort(self, generation: Generation) -> None:
        """The client left: the request ends, its slot goes to the next."""
        if generation.finish is not None:
            return
        generation.finish = "abort"
        if generation in self._running:
            self._release(generation, monotonic_ns())
            self._set_alarm()
        else:
            self._waiting.remove(generation)
            self._ended(generation)

    def gauges(self) -> BatchGauges:
        """Running, waiting, and tokens held by running requests / kv_cache_tokens."""
        held_tokens = sum(generation.asked.prompt_tokens + generation.tokens for generation in self._running)
        usage = min(1.0, held_tokens / self._settings.kv_cache_tokens)
        return BatchGauges(len(self._running), len(self._waiting), usage)

    def close(self) -> None:
        """End what runs and what waits."""
        for generation in [*self._waiting, *self._running]:
            self.abort(generation)
        self._alarm.close()

    def _admit(self, generation: Generation, free_ns: int) -> None:
        generation.admitted_ns = max(free_ns, generation.request.received_ns)
        self._running.add(generation)
        self._gap_ns = gap_ns(self._settings, len(self._running))
        if generation.fault != "stall_first":
            asked = generation.asked
            to_compute = asked.prompt_tokens - (asked.cached_tokens or 0)
            due_ns = generation.admitted_ns + ttft_ns(self._settings, to_compute)
            heappush(self._due, (due_ns, next(self._order), generation))

    def _release(self, generation: Generation, free_ns: int) -> None:
        self._running.discard(generation)
        self._gap_ns = gap_ns(self._settings, len(self._running))
        if self._waiting:
            self._admit(self._waiting.popleft(), free_ns)
        self._ended(generation)

    def _ring(self) -> None:
        """Write every token that is due; what becomes due meanwhile waits for the sockets to be read first."""
        due = self._due
        now_ns = monotonic_ns()
        while due and due[0][0] <= now_ns:
            due_ns, order, generation = due[0]
            if generation.finish is not None:
                heappop(due)
                continue
            step = generation.emit(due_ns)
            if step is Step.MORE:
                heapreplace(due, (due_ns + self._gap_ns, order, generation))
                continue
            heappop(due)
            if step is Step.ENDED:
                self._release(generation, due_ns)
        self._set_alarm()

    def _set_alarm(self) -> None:
        self._alarm.set(self._due[0][0] if self._due else None)
