"""Requests sent when they are due, whatever is in flight."""

import time
from collections.abc import Callable, Iterator
from typing import Final

from gevent.pool import Group

from llmload.measure.record import NS_PER_S
from llmload.swarm.alarm_clock import AlarmClock
from llmload.swarm.session import Session
from llmload.workload.conversation import Conversation

LOOK_S: Final = 0.1
"""How often a long wait looks whether the rate has changed."""


class Schedule:
    """
    Sends conversations at due times until there are no more or the session starts none.

    `gaps` are in units of the mean gap at rate 1/s; `rate_per_s` is asked again and again, so it may change. The
    schedule is absolute: a request sent late does not move the next one.
    """

    def __init__(
        self,
        session: Session,
        gaps: Iterator[float],
        rate_per_s: Callable[[], float],
        hold: Callable[[Conversation, int], None],
        max_in_flight: int,
    ) -> None:
        self._session, self._gaps, self._rate_per_s = session, gaps, rate_per_s
        self._hold, self._max_in_flight = hold, max_in_flight
        self._talks = Group()
        self._alarm_clock = AlarmClock()

    def run(self) -> None:
        """Send until the schedule is over."""
        try:
            self._run()
        finally:
            self._alarm_clock.close()

    def _run(self) -> None:
        due_ns = time.monotonic_ns()
        for gap in self._gaps:
            due_ns = self._wait(due_ns, gap)
            if not self._session.starting:
                return
            self._send(due_ns)
        self._talks.join()
        self._session.no_more()

    def _wait(self, since_ns: int, gap: float) -> int:
        """Wait until the next request is due and return that moment."""
        while True:
            rate_per_s = self._rate_per_s()
            wait_s = gap / rate_per_s if rate_per_s > 0 else float("inf")
            if wait_s <= LOOK_S:
                due_ns = since_ns + round(wait_s * NS_PER_S)
                self._alarm_clock.sleep_until(due_ns)
                return due_ns
            since_ns += round(LOOK_S * NS_PER_S)
            gap -= LOOK_S * rate_per_s
            self._alarm_clock.sleep_until(since_ns)
            if not self._session.starting:
                return since_ns

    def _send(self, due_ns: int) -> None:
        session = self._session
        if len(self._talks) >= self._max_in_flight:
            session.drop()
            return
        conversation = session.next_conversation()
        if conversation is not None:
            self._talks.spawn(self._hold, conversation, due_ns)
