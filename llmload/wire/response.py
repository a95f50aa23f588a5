"""An HTTP/1.1 response as it arrives: status, the few headers that matter, and pieces of body with their stamps."""

from array import array
from typing import Final

import httptools

_NO_BODY_OF_ITS_OWN: Final = range(100, 200)
_MAY_BE_LAST: Final = b"\r\n\r\n"
"""How the last read of a chunked body ends: with the empty line behind the last chunk, or a part of it alone."""


class Response:
    """
    The answer to one request, read by `httptools`; its public methods are that parser's callbacks.

    `pieces` holds what nobody has understood yet, and `stamps` the monotonic ns of each piece's arrival: whoever does
    calls `forget`, so a stream costs the memory of its stamps, not of its bytes. Two flat lists, since a tuple for
    every chunk would be one more object for the garbage collector to visit.

    Within a chunked body, a read that cannot be the last waits unparsed until `parse`: many in a row are parsed at a
    fraction of what each costs between two reads of other streams.
    """

    __slots__ = (
        "_chunked",
        "_framed",
        "_parser",
        "_says_chunked",
        "_unparsed",
        "_unparsed_stamps",
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
        "together",
        "waiting_bytes",
    )

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.stamps = array("q")
        self.waiting_bytes = 0
        self.together = False
        """Whether a read brought more than one chunk."""
        self.arrived_ns = 0
        self.status = 0
        self.content_type = ""
        self.content_encoding = ""
        self.retry_after: str | None = None
        self.headers_complete = False
        self.complete = False
        self.keep_alive = False
        self._framed = False
        self._says_chunked = False
        self._chunked = False
        self._unparsed: list[bytes] = []
        self._unparsed_stamps = array("q")
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, arrived_ns: int) -> None:
        """Take bytes as they came from the engine; raises `httptools.HttpParserError` where they are no HTTP."""
        self.arrived_ns = arrived_ns
        if self._chunked and len(data) >= len(_MAY_BE_LAST) and not data.endswith(_MAY_BE_LAST):
            self._unparsed.append(data)
            self._unparsed_stamps.append(arrived_ns)
            self.waiting_bytes += len(data)
            return
        self.parse()
        self._parse(data)

    def parse(self) -> None:
        """Parse what waits for it; raises `httptools.HttpParserError` where it is no HTTP."""
        if not self._unparsed:
            return
        unparsed, stamps, last_ns = self._unparsed, self._unparsed_stamps, self.arrived_ns
        pieces_before = len(self.pieces)
        self._unparsed, self._unparsed_stamps = [], array("q")
        self.waiting_bytes -= sum(map(len, unparsed))
        for data, self.arrived_ns in zip(unparsed, stamps, strict=True):
            self._parse(data)
        self.arrived_ns = last_ns
        self.together = self.together or len(self.pieces) - pieces_before > len(unparsed)

    def _parse(self, data: bytes) -> None:
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
            case b"content-length":
                self._framed = True
            case b"transfer-encoding":
                self._framed = True
                self._says_chunked = b"chunked" in value.lower()

    def on_headers_complete(self) -> None:
        """Learn the status; that of an interim answer is none."""
        self.status = self._parser.get_status_code()
        self.headers_complete = self.status not in _NO_BODY_OF_ITS_OWN or self.status == 101
        self._chunked = self.headers_complete and self._says_chunked

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
