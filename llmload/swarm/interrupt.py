"""Ctrl-C where it belongs: Python raises it in whichever greenlet happens to run, and its request would be lost."""

import signal
from collections.abc import Callable

import gevent
from gevent import getcurrent


class Interrupts:
    """
    Takes this process's SIGINTs; made in the main greenlet.

    Each one calls `answer` in a greenlet of its own, with 1 for the first, 2 for the second and so on.
    """

    def __init__(self, answer: Callable[[int], None]) -> None:
        self._main, self._loop = getcurrent(), gevent.get_hub().loop
        self._answer, self._count = answer, 0
        gevent.signal_handler(signal.SIGINT, self._take)

    def raise_in_main(self) -> None:
        """Raise KeyboardInterrupt in the main greenlet, which is what Locust waits for."""
        self._loop.run_callback(self._main.throw, KeyboardInterrupt)

    def _take(self) -> None:
        self._count += 1
        self._answer(self._count)
