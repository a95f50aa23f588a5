"""
How a run ends: whatever ends it, and whatever fails in it, passes here.

Locust swallows what a listener, a message handler or a greenlet raises, with a traceback, and continues. So everything
of ours that it calls is wrapped by a `Guard`, and the end of a run is an `Ending`, which happens once however often it
is called.
"""

import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

import gevent
from gevent import Greenlet

from llmload.errors import ExitCode, LlmloadError, plain

P = ParamSpec("P")

logger = logging.getLogger(__name__)


def say(text: str) -> None:
    """Write each line of a text to standard error, as llmload's."""
    for line in plain(text).splitlines():
        sys.stderr.write(f"llmload: {line}\n")
    sys.stderr.flush()


def fault_text(what: str, error: Exception) -> str:
    """Return what went wrong: an error's own words where the user can mend it, else `what` and its type in a line."""
    if isinstance(error, LlmloadError):
        return str(error)
    words = " ".join(str(error).split())
    return f"{what} failed: {type(error).__name__}{words and f': {words}'}"


def say_fault(what: str, error: Exception) -> str:
    """Say in a line what failed, and how to see its traceback; return the line."""
    text = fault_text(what, error)
    user_mends = isinstance(error, LlmloadError)
    say(text if user_mends else f"{text}; run again with --loglevel DEBUG for the traceback")
    return text


class Guard:
    """Wraps what others call, so that an exception is handed to `on_fault` with what failed, and goes no further."""

    def __init__(self, on_fault: Callable[[str, Exception], None]) -> None:
        self._on_fault = on_fault

    def __call__(self, what: str, function: Callable[P, object]) -> Callable[P, None]:
        """Return the function, guarded; `what` is what it does, in words."""

        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except Exception as error:
                logger.debug("%s failed", what, exc_info=error)
                self._on_fault(what, error)

        return guarded


def leave_at_once(text: str) -> NoReturn:
    """End the process with a line and exit code 130, whatever it is doing; workers notice that it has gone."""
    say(text)
    sys.stdout.flush()
    os._exit(ExitCode.INTERRUPTED)


class Ending:
    """
    The end of one run: its drain, then what follows it, each once.

    Several may call for it at a time (Locust's time limit, a signal, a worker's loss), and Locust kills some of those
    who do, so each part runs in its own greenlet, for which all wait. `cut` ends what is in flight.
    """

    def __init__(self, drain: Callable[[], None], finish: Callable[[], None], cut: Callable[[], None]) -> None:
        self._drain, self._finish, self._cut = drain, finish, cut
        self._drainer: Greenlet[[], None] | None = None
        self._finisher: Greenlet[[], None] | None = None
        self._limit: Greenlet[[], None] | None = None
        self.is_cut = False
        """Whether what was in flight has been cut."""

    @property
    def begun(self) -> bool:
        """Whether the load has been ended."""
        return self._drainer is not None

    @property
    def limited(self) -> bool:
        """Whether the drain has a limit beside the scenario's."""
        return self._limit is not None

    def drain(self) -> None:
        """End the load and wait until nothing is in flight."""
        if self._drainer is None:
            self._drainer = gevent.spawn(self._drain)
        self._drainer.join()

    def cut_after(self, limit_s: float) -> None:
        """Cut what is still in flight after this time."""
        if self._limit is None:
            self._limit = gevent.spawn_later(limit_s, self.cut)

    def cut(self) -> None:
        """Cut what is in flight, once: a second Ctrl-C, or the limit of a drain."""
        if not self.is_cut and self._finisher is None:
            self.is_cut = True
            self._cut()

    def finish(self) -> None:
        """Wait for the drain, then do what follows it."""
        self.drain()
        if self._finisher is None:
            self._finisher = gevent.spawn(self._finish)
        self._finisher.join()
        if self._limit is not None:
            self._limit.kill(block=False)
