"""An HTTP/1.1 response as it arrives: status, the few headers that matter, and pieces of body with their stamps."""

from array import array
from typing import Final

import httptools

_NO_BODY_OF_ITS_OWN: Final = range(100, 200)
MAY_BE_LAST: Final = b"\r\n\r\n"
"""How the last read of a chunked body ends: with the empty line behind the last chunk, or it is a part of it alone."""
LEAST_BYTES: Final = len(MAY_BE_LAST)


class PendingReads:
    """
    Reads of a chunked body that nobody has understood yet, each with the monotonic ns of its arrival.

    A class of its own, so that what is touched for each read lies together in memory, ahead of everything else.
    """

    __slots__ = ("enough_bytes", "read_stamps", "reads", "steady", "waiting_bytes")

    def __init__(self) -> None:
        self.reads: list[bytes] = []
        self.read_stamps = array("q")
        self.waiting_bytes = 0
        self.enough_bytes = 0
        """How many of them are enough to be worth understanding; whoever does says."""
        self.steady = False
        """Whether a read may be kept in `reads` just so, unless it may be the last; whoever reads says."""


class Response(PendingReads):
    """
    The answer to one request, read by `httptools`; its public methods are that parser's callbacks.

    `pieces` holds pieces of body that nobody has understood yet, and `stamps` the monotonic ns of each piece's arrival:
    whoever does calls `forget`, so a stream costs the memory of its stamps, not of its bytes. Two flat lists, since a
    tuple for every chunk would be one more object for the garbage collector to visit.

    Within a chunked body every read waits in `reads` as it came, with `read_stamps`: for `parse`, or for `skip` where
    it was understood without. So a read costs little between two reads of other streams.
    """

    __slots__ = (
        "_framed",
        "_in_chunk",
        "_parser",
        "_says_chunked",
        "arrived_ns",
        "at_chunk",
        "complete",
        "content_encoding",
        "content_type",
        "done_ns",
        "headers_complete",
        "in_chunks",
        "keep_alive",
        "on_body",
        "pieces",
        "retry_after",
        "stamps",
        "status",
    )

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.stamps = array("q")
        self.at_chunk = False
        """Whether the first of `reads` begins with a chunk, as nothing but whole chunks came before it."""
        self.arrived_ns = 0
        """When the last read arrived that was parsed or skipped."""
        self.done_ns = 0
        """When the read arrived that completed the answer."""
        self.status = 0
        self.content_type = ""
        self.content_encoding = ""
        self.retry_after: str | None = None
        self.headers_complete = False
        self.complete = False
        self.keep_alive = False
        self._framed = False
        self._says_chunked = False
        self.in_chunks = False
        """Whether what is read next belongs to a chunked body."""
        self._in_chunk = False
        self.on_body = self.pieces.append
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, arrived_ns: int) -> bool:
        """
        Take bytes as they came from the engine; return whether they may be the last ones.

        Raises `httptools.HttpParserError` where they are no HTTP, if not here then in `parse`.
        """
        if not self.in_chunks:
            self._parse(data, arrived_ns)
            return self.complete
        length = len(data)
        self.reads.append(data)
        self.read_stamps.append(arrived_ns)
        self.waiting_bytes += length
        return length < LEAST_BYTES or data.endswith(MAY_BE_LAST)

    def parse(self) -> None:
        """Parse reads, at least one, until the next begins with a chunk; raises `httptools.HttpParserError`."""
        parsed = 0
        try:
            for data, arrived_ns in zip(self.reads, self.read_stamps, strict=True):
                parsed += 1
                self.waiting_bytes -= len(data)
                self._parse(data, arrived_ns)
                if self.at_chunk:
                    break
        except httptools.HttpParserError:
            parsed = len(self.reads)  # what follows cannot be parsed either
            raise
        finally:
            del self.reads[:parsed]
            del self.read_stamps[:parsed]

    def skip(self, count: int) -> None:
        """Let go of the oldest reads, which were understood without being parsed: whole chunks, each of them."""
        if count:
            self.arrived_ns = self.read_stamps[count - 1]
        if count == len(self.reads) and not self.pieces:
            self.waiting_bytes = 0
        else:
            self.waiting_bytes -= sum(map(len, self.reads[:count]))
        del self.reads[:count]
        del self.read_stamps[:count]

    def _parse(self, data: bytes, arrived_ns: int) -> None:
        pieces, self.arrived_ns = self.pieces, arrived_ns
        before = len(pieces)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.keep_alive = False
            if not self.complete:
                raise
        finally:
            for piece in pieces[before:]:
                self.stamps.append(arrived_ns)
                self.waiting_bytes += len(piece)
        self.at_chunk = self.in_chunks and not self._in_chunk and data.endswith(b"\r\n")

    def feed_end(self) -> bool:
        """Take the end of the connection; return whether the answer is complete with it."""
        if self.headers_complete and not self._framed:
            self.complete = True
            self.done_ns = self.arrived_ns
        self.keep_alive = False
        return self.complete

    def forget(self, count: int) -> None:
        """Let go of the oldest pieces, which are understood."""
        self.waiting_bytes -= sum(map(len, self.pieces[:count]))
        del self.pieces[:count]
        del self.stamps[:count]

    def drop(self) -> None:
        """Let go of everything that waits to be understood."""
        self.skip(len(self.reads))
        self.forget(len(self.pieces))

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
        self.in_chunks = self.headers_complete and self._says_chunked

    def on_chunk_header(self) -> None:
        """Note the beginning of a chunk."""
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        """Note the end of a chunk."""
        self._in_chunk = False

    def on_message_begin(self) -> None:
        """Refuse a second answer, which nobody asked for."""
        if self.complete:
            raise ValueError("an answer nobody asked for")

    def on_message_complete(self) -> None:
        """Note the end of the answer, as HTTP frames it."""
        if self.headers_complete:
            self.complete = True
            self.done_ns = self.arrived_ns
            self.keep_alive = self._parser.should_keep_alive()
