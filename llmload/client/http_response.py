"""An HTTP/1.1 response as it arrives: status, the few headers that matter, and pieces of body with their stamps."""

from array import array
from typing import Final

import httptools

_NO_BODY_OF_ITS_OWN: Final = range(100, 200)
MAY_END_BODY: Final = b"\r\n\r\n"
"""How the last read of a chunked body ends: with the empty line behind the last chunk, or it is a part of it alone."""
MIN_FAST_BYTES: Final = len(MAY_END_BODY)


class PendingReads:
    """
    Reads of a chunked body that nobody has understood yet, each with the monotonic ns of its arrival.

    A class of its own, so that what is touched for each read lies together in memory, ahead of everything else.
    """

    __slots__ = ("decode_at_bytes", "fast_path", "pending_bytes", "raw", "raw_stamps")

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.raw_stamps = array("q")
        self.pending_bytes = 0
        self.decode_at_bytes = 0
        """How many of them are enough to be worth understanding; whoever does says."""
        self.fast_path = False
        """Whether a read may be kept in `reads` just so, unless it may be the last; whoever reads says."""


class Response(PendingReads):
    """
    The answer to one request, read by `httptools`; its public methods are that parser's callbacks.

    `pieces` holds pieces of body that nobody has understood yet, and `stamps` the monotonic ns of each piece's arrival:
    whoever does calls `forget`, so a stream costs the memory of its stamps, not of its bytes. Two flat lists, since a
    tuple for every chunk would be one more object for the garbage collector to visit.

    Within a chunked body every read waits in `reads` as it came, with `raw_stamps`: for `parse`, or for `skip` where
    it was understood without. So a read costs little between two reads of other streams.
    """

    __slots__ = (
        "_chunked_header",
        "_in_chunk",
        "_length_known",
        "_parser",
        "arrived_ns",
        "at_chunk_start",
        "body",
        "body_stamps",
        "chunked",
        "complete",
        "content_encoding",
        "content_type",
        "done_ns",
        "headers_complete",
        "keep_alive",
        "on_body",
        "retry_after",
        "status",
    )

    def __init__(self) -> None:
        super().__init__()
        self.body: list[bytes] = []
        self.body_stamps = array("q")
        self.at_chunk_start = False
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
        self._length_known = False
        self._chunked_header = False
        self.chunked = False
        """Whether what is read next belongs to a chunked body."""
        self._in_chunk = False
        self.on_body = self.body.append
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, arrived_ns: int) -> bool:
        """
        Take bytes as they came from the engine; return whether they may be the last ones.

        Raises `httptools.HttpParserError` where they are no HTTP, if not here then in `parse`.
        """
        if not self.chunked:
            self._parse(data, arrived_ns)
            return self.complete
        length = len(data)
        self.raw.append(data)
        self.raw_stamps.append(arrived_ns)
        self.pending_bytes += length
        return length < MIN_FAST_BYTES or data.endswith(MAY_END_BODY)

    def parse(self) -> None:
        """Parse reads, at least one, until the next begins with a chunk; raises `httptools.HttpParserError`."""
        parsed = 0
        try:
            for data, arrived_ns in zip(self.raw, self.raw_stamps, strict=True):
                parsed += 1
                self.pending_bytes -= len(data)
                self._parse(data, arrived_ns)
                if self.at_chunk_start:
                    break
        except httptools.HttpParserError:
            parsed = len(self.raw)  # what follows cannot be parsed either
            raise
        finally:
            del self.raw[:parsed]
            del self.raw_stamps[:parsed]

    def skip(self, count: int) -> None:
        """Let go of the oldest reads, which were understood without being parsed: whole chunks, each of them."""
        if count:
            self.arrived_ns = self.raw_stamps[count - 1]
        if count == len(self.raw) and not self.body:
            self.pending_bytes = 0
        else:
            self.pending_bytes -= sum(map(len, self.raw[:count]))
        del self.raw[:count]
        del self.raw_stamps[:count]

    def _parse(self, data: bytes, arrived_ns: int) -> None:
        pieces, self.arrived_ns = self.body, arrived_ns
        before = len(pieces)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.keep_alive = False
            if not self.complete:
                raise
        finally:
            for piece in pieces[before:]:
                self.body_stamps.append(arrived_ns)
                self.pending_bytes += len(piece)
        self.at_chunk_start = self.chunked and not self._in_chunk and data.endswith(b"\r\n")

    def feed_end(self) -> bool:
        """Take the end of the connection; return whether the answer is complete with it."""
        if self.headers_complete and not self._length_known:
            self.complete = True
            self.done_ns = self.arrived_ns
        self.keep_alive = False
        return self.complete

    def drop_body(self, count: int) -> None:
        """Let go of the oldest pieces, which are understood."""
        self.pending_bytes -= sum(map(len, self.body[:count]))
        del self.body[:count]
        del self.body_stamps[:count]

    def drop(self) -> None:
        """Let go of everything that waits to be understood."""
        self.skip(len(self.raw))
        self.drop_body(len(self.body))

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
                self._length_known = True
            case b"transfer-encoding":
                self._length_known = True
                self._chunked_header = b"chunked" in value.lower()

    def on_headers_complete(self) -> None:
        """Learn the status; that of an interim answer is none."""
        self.status = self._parser.get_status_code()
        self.headers_complete = self.status not in _NO_BODY_OF_ITS_OWN or self.status == 101
        self.chunked = self.headers_complete and self._chunked_header

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
