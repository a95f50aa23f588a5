"""
What reading is: these bytes of this connection had arrived by then.

Three sources know the "then": the kernel's packet ring (`packet_reads`), the stamp on each read of a socket, and the
process's own clock (`stamped_reads`, both). They differ in when they read and where a stamp comes from; a stream gets
pieces of its connection's bytes, each with the moment at which its last byte could be read.
"""

import select
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from llmload.client.connection import Connection, Received
from llmload.client.http_response import PendingReads

HUNG_UP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
"""The other side writes no more: read to the end now, since there will be no further event."""

TICK_S: Final = 0.001
"""How long a collection may wait while there are few streams."""
MANY_STREAMS: Final = 100
"""From here on, the cost of a tick matters more than the few milliseconds by which it may delay an answer's end."""
NOTICED: Final = 0
"""Bytes that are read because the ring shows that they may be an answer's last."""


class Stream(Protocol):
    """A request in flight, as those who read see it."""

    @property
    def connection(self) -> Connection:
        """The connection to read."""

    @property
    def response(self) -> PendingReads:
        """The reads that are not decoded yet."""

    @property
    def patient(self) -> bool:
        """Whether nobody waits for the answer's end: the next request is sent when it is due."""

    def on_backlog(self) -> None:
        """Queue for decoding: more than `decode_at_bytes` are pending."""

    def on_ready(self, mask: int, received: Received) -> None:
        """Take what was read, then read (and write) as much as the socket allows, or ask the reactor to `pause`."""

    def on_bulk(self, data: bytes, unnoticed_ns: int) -> None:
        """
        Take bytes whose stamps are in the packet ring.

        `unnoticed_ns` is the monotonic ns at which the ring had shown nothing yet that may end an answer, or `NOTICED`.
        """

    def on_notice(self) -> None:
        """Decode what came in bulk: the ring shows that its last bytes may be the answer's."""

    def on_problem(self, mask: int, problem: Exception) -> None:
        """Handle a failed read or the end of the connection, and write as much as the socket allows."""

    def on_writable(self) -> None:
        """Write as much as the socket allows."""

    def decode(self, until_ns: int) -> bool:
        """Decode what was read until this monotonic ns; return whether nothing is left."""

    def check_time(self, now_ns: int) -> None:
        """End the stream if one of its time limits has passed."""


class Reads(Protocol):
    """Reads the sockets of open streams, now and then, and hands each stream what came."""

    def period_s(self) -> float:
        """Return how long the next collection may wait."""

    @property
    def patient(self) -> bool:
        """Whether nothing depends on when answers are decoded: work is split, so that it delays no request."""

    def watch(self, stream: Stream) -> None:
        """Read the stream from now on, and let it write while its connection has something unsent."""

    def pause(self, stream: Stream) -> None:
        """Leave what arrives for the stream in the kernel."""

    def resume(self, stream: Stream) -> None:
        """Read the stream again, beginning with what it left; it writes while its connection has something unsent."""

    def unwatch(self, stream: Stream) -> None:
        """Stop reading the stream, whose socket must still be open."""

    @property
    def streams(self) -> Mapping[int, Stream]:
        """The streams that are read, by descriptor."""

    def on_coalesced(self, stamps_ns: Sequence[int]) -> None:
        """Note chunks with text that share a stamp; monotonic ns."""

    def read(self, stream: Stream) -> None:
        """Read what waits for the stream now, since it is to be judged by what has come."""

    def collect(self) -> None:
        """Read what has arrived and is due to be read."""

    def close(self) -> None:
        """Close its own descriptors."""


def writing(stream: Stream) -> int:
    """Return the event mask that waits until the stream can write, 0 if it has nothing unsent."""
    return select.EPOLLOUT if stream.connection.writing else 0
