"""Waking at a moment, to some microseconds."""

import contextlib
import ctypes
import os
import time
from typing import Any, Final

import gevent
from gevent.hub import get_hub

from llmload.measure.record import NS_PER_S

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_READABLE: Final = 1


class _Setting(ctypes.Structure):
    """Linux' `struct itimerspec`: the interval (none here) and the moment, each in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("moment_s", ctypes.c_long),
        ("moment_ns", ctypes.c_long),
    )


class AlarmClock:
    """
    Wakes the one greenlet that sleeps by it, at readings of the monotonic clock in ns.

    By Linux' timerfd_create(2): an event loop waits in whole milliseconds, so what is due at different moments within
    one would leave together. Where the system has none, by the event loop's own timers.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        with contextlib.suppress(AttributeError):  # not on this system
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        self._watcher: Any = get_hub().loop.io(self._fd, _READABLE) if self._fd >= 0 else None

    def sleep_until(self, due_ns: int) -> None:
        """Let others run until the moment has come; return at once if it has passed."""
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            if self._watcher is not None and self._set(due_ns):
                get_hub().wait(self._watcher)
            else:
                gevent.sleep(left_ns / NS_PER_S)

    def close(self) -> None:
        """Give back what the system holds for it."""
        if self._watcher is not None:
            self._watcher.close()
            os.close(self._fd)
            self._watcher = None

    def _set(self, due_ns: int) -> bool:
        moment_s, moment_ns = divmod(due_ns, NS_PER_S)
        setting = _Setting(moment_s=moment_s, moment_ns=moment_ns)
        return bool(self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(setting), None) == 0)
