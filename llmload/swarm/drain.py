"""
The end of a run: nothing new is sent, what is in flight may finish, what is cut says so.

Locust ends a headless distributed run by dropping every request in flight, which drops the slow ones. Here the node
that steers the run blocks in `test_stopping` until its requests, or those of every worker, have come to an end:

    master --DRAIN(timeout)--> worker   stops starting, waits until idle, cuts the rest
    master --ABORT--> worker            does not wait any longer: a second Ctrl-C
    worker --DRAINED(totals)--> master  all that the worker has counted
"""

from gevent.event import Event

from llmload.swarm.session import Session

DRAIN, DRAINED, EXHAUSTED = "llmload_drain", "llmload_drained", "llmload_exhausted"
ABORT = "llmload_abort"
STAGE = "llmload_stage"
STEP, TOTALS = "llmload_step", "llmload_totals"
ANSWER_GRACE_S = 10.0
"""How long past the drain's time-out a worker may take to answer."""


def drain(session: Session, timeout_s: float) -> None:
    """Let what is in flight finish for up to `timeout_s` seconds, then cut the rest."""
    session.stop_starting()
    if not session.wait_until_idle(timeout_s):
        session.abort()


class Roll:
    """Which workers of a run have answered."""

    def __init__(self, workers: set[str]) -> None:
        self.expected = set(workers)
        self.answered: set[str] = set()
        self._complete = Event()
        self._check()

    @property
    def missing(self) -> set[str]:
        """Workers that have not answered."""
        return self.expected - self.answered

    def answer(self, worker: str) -> None:
        """Note a worker's answer."""
        self.answered.add(worker)
        self._check()

    def excuse(self, worker: str) -> None:
        """Wait for this worker no longer: it is gone."""
        self.expected.discard(worker)
        self._check()

    def wait(self, timeout_s: float) -> bool:
        """Wait until every worker has answered; False if the time was not enough."""
        return bool(self._complete.wait(timeout_s))

    def _check(self) -> None:
        if not self.missing:
            self._complete.set()
