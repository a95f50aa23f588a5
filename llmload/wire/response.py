"""An HTTP/1.1 response as it arrives: status, the few headers that matter, and pieces of body with their stamps."""

from array import array
from typing import Final

import httptools

_NO_BODY_OF_ITS_OWN: Final = range(100, 200)


class Response:
    """
    The answer to one request, read by `httptools`; its public methods are that parser's callbacks.

    `pieces` holds what nobody has understood yet, and `stamps` the monotonic ns of each piece's arrival: whoever does
    calls `forget`, so a stream costs the memory of its stamps, not of its bytes. Two flat lists, since a tuple for
    every chunk would be one more object for the garbage collector to visit.
    """

    __slots__ = (
        "_framed",
        "_parser",
        "arrived_ns",
        "complete",
        "content_encoding",
        "content_type",
        "headers_complete",
        "keep_alive",
        "pieces",
        "retry_after",
        "stamps",
        "status",
        "waiting_bytes",
    )

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.stamps = array("q")
        self.waiting_bytes = 0
        self.arrived_ns = 0
        self.status = 0
        self.content_type = ""
        self.content_encoding = ""
        self.retry_after: str | None = None
        self.headers_complete = False
        self.complete = False
        self.keep_alive = False
        self._framed = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, arrived_ns: int) -> None:
        """Take bytes as they came from the engine; raises `httptools.HttpParserError` where they are no HTTP."""
        self.arrived_ns = arrived_ns
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.keep_alive = False
            if not self.complete:
                raise

    def feed_end(self) -> bool:
        """Take the end of the connection; return whether the answer is complete with it."""
        if self.headers_complete and not self._framed:
            self.complete = True
        self.keep_alive = False
        return self.complete

    def forget(self, count: int) -> None:
        """Let go of the oldest pieces, which are understood."""
        if count == len(self.pieces):
            self.waiting_bytes = 0
        del self.pieces[:count]
        del self.stamps[:count]

    def close(self) -> None:
        """Let go of the parser, which refers back to this object."""
        del self._parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep what this client acts on."""
        match name.lower():
            case b"content-type":
                self.content_type = value.decode("latin-1").partition(";")[0].strip().lower()
            case b"content-encoding":
                self.content_encoding = value.decode("latin-1").strip().lower()
            case b"retry-after":
                self.retry_after = value.decode("latin-1").strip()
            case b"content-length" | b"transfer-encoding":
                self._framed = True

    def on_headers_complete(self) -> None:
        """Learn the status; that of an interim answer is none."""
        self.status = self._parser.get_status_code()
        self.headers_complete = self.status not in _NO_BODY_OF_ITS_OWN or self.status == 101

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body with the stamp of the read that brought it."""
        if self.complete:
            return
        self.stamps.append(self.arrived_ns)
        self.pieces.append(data)
        self.waiting_bytes += len(data)

    def on_message_begin(self) -> None:
        """Refuse a second answer, which nobody asked for."""
        if self.complete:
            raise ValueError("an answer nobody asked for")

    def on_message_complete(self) -> None:
        """Note the end of the answer, as HTTP frames it."""
        if self.headers_complete:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()
