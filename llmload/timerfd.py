"""
Linux' timerfd: a descriptor that becomes readable at a nanosecond of the monotonic clock.

Event loops wait in whole milliseconds, so that events due within one millisecond would happen together; a timerfd is
on time to some tens of microseconds (timerfd_create(2)).
"""

import ctypes
import os
from typing import Final

from llmload.units import NS_PER_S

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1


class _TimerSpec(ctypes.Structure):
    """Linux' `struct itimerspec`: the interval (none here) and the moment, each in seconds and nanoseconds."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("moment_s", ctypes.c_long),
        ("moment_ns", ctypes.c_long),
    )


class TimerFd:
    """A timerfd on the monotonic clock; raises `OSError` when made on a system without timerfd."""

    __slots__ = ("_pointer", "_settime", "_spec", "fd")

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            create, self._settime = libc.timerfd_create, libc.timerfd_settime
        except AttributeError:
            raise OSError("this system has no timerfd") from None
        self.fd: int = create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = _TimerSpec()
        self._pointer = ctypes.byref(self._spec)

    def set(self, due_ns: int | None) -> None:
        """
        Become readable at `due_ns`, at once if that has passed, or never (None), instead of what was set before.

        Setting also makes the descriptor unreadable until then, so it never has to be read.
        """
        spec = self._spec
        spec.moment_s, spec.moment_ns = (0, 0) if due_ns is None else divmod(due_ns, NS_PER_S)
        self._settime(self.fd, _ABSOLUTE, self._pointer, None)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)
