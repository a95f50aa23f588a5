"""
Wakes the event loop at a nanosecond of the monotonic clock.

asyncio's own timers go through epoll, whose time-out Python rounds up to whole milliseconds: tokens would be written
up to 1 ms late. A Linux timerfd is a file descriptor that becomes readable on time (tens of microseconds).
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Protocol

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1


class Alarm(Protocol):
    """Calls back once at the time it was last set to."""

    def set(self, due_ns: int | None) -> None:
        """Ring at `due_ns` of CLOCK_MONOTONIC (at once if that is past) instead of what was set; None: never."""

    def close(self) -> None:
        """Ring no more and give back what the alarm holds."""


def alarm_for(loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> Alarm:
    """The most exact alarm that this system has."""
    return TimerfdAlarm(loop, ring) if sys.platform == "linux" else LoopAlarm(loop, ring)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class TimerfdAlarm:
    """An alarm on a Linux timerfd (timerfd_create(2))."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = _Itimerspec()
        self._value = self._spec.value
        self._pointer = ctypes.byref(self._spec)
        loop.add_reader(self._fd, ring)

    def set(self, due_ns: int | None) -> None:
        """Ring at `due_ns`; setting also clears what rang, so nothing has to be read from the descriptor."""
        self._value.seconds, self._value.nanoseconds = (0, 0) if due_ns is None else divmod(due_ns, 1_000_000_000)
        self._settime(self._fd, _TFD_TIMER_ABSTIME, self._pointer, None)

    def close(self) -> None:
        """Ring no more and close the descriptor."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class LoopAlarm:
    """An alarm on the event loop's own timers, up to 1 ms late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due_ns: int | None) -> None:
        """Ring at `due_ns`; the loop's clock is the monotonic one."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if due_ns is None else self._loop.call_at(due_ns / 1e9, self._ring)

    def close(self) -> None:
        """Ring no more."""
        self.set(None)
