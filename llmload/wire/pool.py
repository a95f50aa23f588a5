"""Connections kept alive between requests."""

from collections import defaultdict

from llmload.wire.clock import ArrivalClock
from llmload.wire.connection import Connection
from llmload.wire.dial import Route, dial


class Pool:
    """The idle connections of one process, by route; the one used last is taken first."""

    def __init__(self, clock: ArrivalClock, connect_s: float | None) -> None:
        self._clock = clock
        self._connect_s = connect_s
        self._closed = False
        self._idle: defaultdict[Route, list[Connection]] = defaultdict(list)

    def take(self, route: Route) -> tuple[Connection | None, bool]:
        """Return an idle connection that is still open, and whether a closed one was found on the way to it."""
        idle = self._idle[route]
        stale = False
        while idle:
            connection = idle.pop()
            if connection.is_alive():
                return connection, stale
            connection.close()
            stale = True
        return None, stale

    def open(self, route: Route) -> Connection:
        """Return a new connection; raises `AttemptError`."""
        return dial(route, self._clock, self._connect_s)

    def give_back(self, route: Route, connection: Connection) -> None:
        """Keep a connection for the next request, if there is to be one."""
        if self._closed:
            connection.close()
            return
        connection.used = True
        self._idle[route].append(connection)

    def close(self) -> None:
        """Close every idle connection, and each one that comes back."""
        self._closed = True
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
