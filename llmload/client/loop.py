"""
What reading needs of an event loop: timers, a wait for a descriptor, and a way to wake who waits. Here: gevent's.

Readers and decoders know no other loop than this protocol, and take plain sockets, which gevent has patched, from here.
tests/client/test_other_loop.py reads an answer on asyncio.
"""

import select
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from gevent import monkey
from gevent.hub import Waiter, get_hub

plain_socket: Final[type[socket.socket]] = monkey.get_original("socket", "socket")
plain_epoll: "Final[type[select.epoll]]" = monkey.get_original("select", "epoll")


class Watch(Protocol):
    """A timer, or a descriptor that is watched; it calls back while it is started."""

    def start(self) -> None:
        """Call back from now on."""

    def stop(self) -> None:
        """Do not call back until the next start."""

    def close(self) -> None:
        """Stop for good."""


class Waiting(Protocol):
    """One wait, of one caller."""

    def wait(self) -> None:
        """Return once woken; raises what ends the caller instead."""

    def wake(self) -> None:
        """Let the wait end, after the loop's present round."""


class Loop(Protocol):
    """An event loop, in the thread that runs it."""

    def timer(self, every_s: float, callback: Callable[[], None]) -> Watch:
        """Return a timer that calls back at this interval."""

    def readable(self, fd: int, callback: Callable[[], None]) -> Watch:
        """Return a watch that calls back while the descriptor can be read."""

    def waiting(self) -> Waiting:
        """Return a wait for the calling greenlet or task."""

    @property
    def foreign(self) -> bool:
        """Whether another loop runs in this thread by now, such as after a fork."""


class GeventLoop:
    """The hub of the calling thread."""

    def __init__(self) -> None:
        self._hub = get_hub()

    def timer(self, every_s: float, callback: Callable[[], None]) -> Watch:
        """Return a timer that calls back in the hub at this interval."""
        return _GeventWatch(self._hub.loop.timer(every_s, every_s), callback, update=True)

    def readable(self, fd: int, callback: Callable[[], None]) -> Watch:
        """Return a watch that calls back in the hub while the descriptor can be read."""
        return _GeventWatch(self._hub.loop.io(fd, 1), callback)

    def waiting(self) -> Waiting:
        """Return a wait for the calling greenlet."""
        return _GeventWaiting(self._hub)

    @property
    def foreign(self) -> bool:
        """Whether another hub runs in this thread by now, such as after a fork."""
        return self._hub is not get_hub()


class _GeventWatch:
    def __init__(self, watcher: Any, callback: Callable[[], None], **start: Any) -> None:
        self._watcher = watcher
        self._callback = callback
        self._start = start
        self.stop = watcher.stop
        self.close = watcher.close

    def start(self) -> None:
        self._watcher.start(self._callback, **self._start)


class _GeventWaiting:
    __slots__ = ("_hub", "_waiter", "wait")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._waiter: Waiter[None] = Waiter(hub)
        self.wait = self._waiter.get

    def wake(self) -> None:
        self._hub.loop.run_callback(self._waiter.switch, None)
