"""An open loop: a timer of some microseconds, the rate of this moment, and the schedule that sends at due times."""

from locust.env import Environment

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.hub import get_hub
from gevent.pool import Group

from llmload.loadgen.session import Session, WorkerShard, fire_request_event, run_conversation
from llmload.prompts.conversation import Conversation
from llmload.timerfd import TimerFd
from llmload.units import NS_PER_S

_READABLE: Final = 1
_FIRST: Final = 2
"""The event loop's highest priority: what else has happened by then comes afterwards."""


class GreenletTimer:
    """
    Wakes the one greenlet that sleeps by it, at readings of the monotonic clock in ns.

    By a timerfd; on a system without one, by the event loop's own timers, which wait in whole milliseconds.
    """

    def __init__(self) -> None:
        self._timer: TimerFd | None = None
        with contextlib.suppress(OSError):  # not on this system
            self._timer = TimerFd()
            self._watcher: Any = get_hub().loop.io(self._timer.fd, _READABLE, priority=_FIRST)

    def sleep_until(self, due_ns: int) -> None:
        """Let others run until the moment has come; return at once if it has passed."""
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            if self._timer is not None:
                self._timer.set(due_ns)
                get_hub().wait(self._watcher)
            else:
                gevent.sleep(left_ns / NS_PER_S)

    def close(self) -> None:
        """Close what the system holds for it."""
        if self._timer is not None:
            self._watcher.close()
            self._timer.close()
            self._timer = None


Pace = Callable[[int], tuple[float, int]]
"""From a moment in ns to the rate then, in gaps a second, and until when it stays the same."""


LOOK_NS: Final = NS_PER_S // 50
"""How often a long wait looks whether the rate has changed, or the load has ended: so long the old one still counts."""


class Schedule:
    """
    Sends conversations at due times until there are no more, or the session starts none.

    `gaps` are in units of the mean gap at rate 1/s. A request is due when the integral of the rate over time has grown
    by its gap, so a rate that changes while it waits counts from that moment on. The schedule is absolute: a request
    sent late does not move the next one.
    """

    def __init__(
        self,
        session: Session,
        gaps: Iterator[float],
        pace: Pace,
        run_conversation: Callable[[Conversation, int], None],
        max_in_flight: int,
    ) -> None:
        self._session, self._gaps, self._pace = session, gaps, pace
        self._run_conversation, self._max_in_flight = run_conversation, max_in_flight
        self._conversations = Group()
        self._timer = GreenletTimer()

    def run(self) -> None:
        """Send until the schedule is over."""
        try:
            self._run()
        finally:
            self._timer.close()

    def _run(self) -> None:
        due_ns = time.monotonic_ns()
        for gap in self._gaps:
            due_ns = self._wait(due_ns, gap)
            if not self._session.starting:
                return
            self._send(due_ns)
        self._conversations.join()
        self._session.end_of_schedule()

    def _wait(self, since_ns: int, gap: float) -> int:
        """Wait until the next request is due and return that moment."""
        while True:
            rate_per_s, until_ns = self._pace(since_ns)
            wait_ns = gap / rate_per_s * NS_PER_S if rate_per_s > 0 else math.inf
            if wait_ns <= LOOK_NS and since_ns + wait_ns <= until_ns:
                due_ns = since_ns + round(wait_ns)
                self._timer.sleep_until(due_ns)
                return due_ns
            look_ns = min(until_ns, since_ns + LOOK_NS)
            gap -= rate_per_s * (look_ns - since_ns) / NS_PER_S
            since_ns = look_ns
            self._timer.sleep_until(since_ns)
            if not self._session.starting:
                return since_ns

    def _send(self, due_ns: int) -> None:
        session = self._session
        if len(self._conversations) >= self._max_in_flight:
            session.drop()
            return
        conversation = session.next_conversation()
        if conversation is not None:
            started = self._conversations.spawn(self._run_conversation, conversation, due_ns)
            get_hub().loop.run_callback(gevent.getcurrent().switch)
            started.switch()  # it is due now: by itself it would start only after all that waits for the loop


def open_schedule(
    session: Session, shard: WorkerShard, environment: Environment, request_name: str, base_dir: Path
) -> Schedule | None:
    """Return the schedule of an open loop; None in a closed one. DataError for a trace that cannot be read."""
    load = session.scenario.load
    if not load.is_open_loop:
        return None
    gaps = load.arrival_gaps(
        seed=session.scenario.scenario.seed, worker_index=shard.index, worker_count=shard.count, base_dir=base_dir
    )
    count = partial(fire_request_event, environment, request_name)
    return Schedule(
        session,
        gaps,
        session.rate_at,
        lambda conversation, due_ns: run_conversation(conversation, session, count, due_ns),
        max_in_flight=max(1, shard.of(load.in_flight_limit) or 1),
    )
