"""An HTTP/1.1 response while it arrives: status, the few headers that matter, pieces of the body with their stamps."""

from array import array
from typing import Final, Literal

import httptools

from llmload.client.errors import from_status, wrong_content_type
from llmload.record import RequestError

_INTERIM: Final = range(100, 200)
MAY_END_BODY: Final = b"\r\n\r\n"
"""The last read of a chunked body ends like this, unless the read has only a part of these bytes."""
MIN_FAST_BYTES: Final = len(MAY_END_BODY)


MAX_ERROR_BYTES: Final = 65_536
"""As much of the body of an error is read."""
MAX_HEAD_BYTES: Final = 65_536
"""The most bytes of a response that bring nothing of its body: headers, trailers, extensions of chunks."""
_BOM: Final = b"\xef\xbb\xbf"
_COMPRESSIONS: Final = frozenset(
    (
        *("gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd", "dcb", "dcz", "exi", "bzip2"),
        *("x-bzip2", "xz", "lzma", "aes128gcm", "pack200-gzip"),
    )
)

Form = Literal["events", "object", "error"]
"""What a body is: server-sent events, one JSON object, or the text of an error."""


def compression(content_encoding: str) -> str:
    """
    Return the part of a Content-Encoding that compresses, "" if none does.

    `none`, `utf-8` and other unknown words mean plain bytes to HTTP libraries, and here.
    """
    if not content_encoding:
        return ""
    parts = (part.strip().lower() for part in content_encoding.split(","))
    return ", ".join(part for part in parts if part in _COMPRESSIONS)


def form_of(status: int, content_type: str, content_encoding: str, start: bytes) -> Form:
    """Return what a body is; without a content type, by its first bytes. Bytes that are compressed are not read."""
    if status != 200 or compression(content_encoding):
        return "error"
    if not content_type:
        start = start.removeprefix(_BOM).lstrip()[:64]
        if start.startswith((b"{", b"[")):
            return "object"
        return "events" if start.startswith((b"data:", b"event:", b"id:", b"retry:", b":")) else "error"
    if content_type == "text/event-stream":
        return "events"
    return "object" if content_type == "application/json" or content_type.endswith("+json") else "error"


def error_of_body(
    status: int, content_type: str, content_encoding: str, body: bytes, retry_after: str | None
) -> RequestError:
    """Return the error of an answer that is neither events nor an object; `body` is its beginning."""
    compressed = compression(content_encoding)
    if status != 200:
        return from_status(status, f"a body in {compressed}".encode() if compressed else body, retry_after)
    if compressed:
        return wrong_content_type(f"Content-Encoding {compressed}, which was not requested", b"")
    return wrong_content_type(content_type or "no content type", body)


class PendingReads:
    """
    Reads of a chunked body that are not decoded yet, each with the monotonic ns of its arrival.

    A separate class, so that the attributes touched for each read lie together in memory, ahead of all others.
    """

    __slots__ = ("decode_at_bytes", "fast_path", "pending_bytes", "raw", "raw_stamps")

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.raw_stamps = array("q")
        self.pending_bytes = 0
        self.decode_at_bytes = 0
        """Decode once more than this many bytes are pending; set by `HttpRequest`."""
        self.fast_path = False
        """Whether the reactor may append a read to `raw` without calling `feed`, unless it may be the last."""


class Response(PendingReads):
    """
    The response to one request, parsed by `httptools`, whose callbacks are the `on_...` methods.

    `body` has the parsed pieces of the body that are not decoded yet, `body_stamps` the monotonic ns of each one's
    arrival; the decoder calls `drop_body`, so a stream costs the memory of its stamps, not of its bytes. Two flat
    lists, since a tuple for every chunk would be one more object for the garbage collector to visit.

    Within a chunked body every read waits in `raw`, with `raw_stamps`, until `parse` parses it, or `skip` drops it
    after the fast path decoded it. So a read costs little between two reads of other streams.
    """

    __slots__ = (
        "_bodiless_bytes",
        "_chunked_header",
        "_dropped_bytes",
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
        """Whether `raw` begins at the start of a chunk, because only whole chunks came before it."""
        self.arrived_ns = 0
        """When the last read arrived that was parsed or skipped; monotonic ns, 0 before the first."""
        self.done_ns = 0
        """When the read arrived that completed the response; monotonic ns."""
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
        """Whether the next read belongs to a chunked body."""
        self._in_chunk = False
        self._bodiless_bytes = 0
        self._dropped_bytes = 0
        self.on_body = self.body.append
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, arrived_ns: int) -> bool:
        """
        Take bytes from the engine; return whether they may be the last ones.

        Raises `httptools.HttpParserError` if they are not HTTP, here or later in `parse`.
        """
        if not self.chunked:
            self._parse(data, arrived_ns)
            return self.complete
        length = len(data)
        self.raw.append(data)
        self.raw_stamps.append(arrived_ns)
        self.pending_bytes += length
        return length < MIN_FAST_BYTES or data.endswith(MAY_END_BODY)

    def feed_many(self, pieces: list[bytes], stamps: list[int]) -> None:
        """Take several pieces at once, each with its monotonic ns; raises `httptools.HttpParserError`."""
        first = 0
        while not self.chunked and first < len(pieces):
            self._parse(pieces[first], stamps[first])
            first += 1
        if first < len(pieces):
            waiting = pieces[first:] if first else pieces
            self.raw += waiting
            self.raw_stamps.extend(stamps[first:] if first else stamps)
            self.pending_bytes += sum(map(len, waiting))

    def parse(self) -> None:
        """Parse reads, at least one, until the next starts a chunk; raises `httptools.HttpParserError`."""
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
        """Drop the oldest reads, each a whole chunk, which the fast path decoded without parsing them."""
        if count:
            self.arrived_ns = self.raw_stamps[count - 1]
        whole = count == len(self.raw) and not self.body
        self._forget(self.pending_bytes if whole else sum(map(len, self.raw[:count])))
        del self.raw[:count]
        del self.raw_stamps[:count]

    @property
    def body_bytes(self) -> int:
        """How many bytes of the body have come; those that the fast path decoded with HTTP's frame of each chunk."""
        return self._dropped_bytes + self.pending_bytes

    def _forget(self, length: int) -> None:
        self.pending_bytes -= length
        self._dropped_bytes += length

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
                self._bodiless_bytes = 0
        if len(pieces) == before:
            self._count_bodiless(len(data))
        self.at_chunk_start = self.chunked and not self._in_chunk and data.endswith(b"\r\n")

    def _count_bodiless(self, length: int) -> None:
        self._bodiless_bytes += length
        if self._bodiless_bytes > MAX_HEAD_BYTES:
            self.keep_alive = False
            raise httptools.HttpParserError(f"more than {MAX_HEAD_BYTES} bytes without any of a body")

    def feed_end(self) -> bool:
        """Take the end of the connection; return whether that completes the response."""
        if self.headers_complete and not self._length_known:
            self.complete = True
            self.done_ns = self.arrived_ns
        self.keep_alive = False
        return self.complete

    def drop_body(self, count: int) -> None:
        """Drop the oldest pieces of the body, which are decoded."""
        self._forget(sum(map(len, self.body[:count])))
        del self.body[:count]
        del self.body_stamps[:count]

    def drop(self) -> None:
        """Drop everything that waits to be decoded."""
        self.skip(len(self.raw))
        self.drop_body(len(self.body))

    def close(self) -> None:
        """Drop the parser, which refers back to this object."""
        del self._parser

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the few headers that the client uses."""
        match name.lower():
            case b"content-type":
                self.content_type = value.decode("latin-1").partition(";")[0].strip().lower()
            case b"content-encoding":
                encoding = value.decode("latin-1").strip().lower()
                self.content_encoding = f"{self.content_encoding}, {encoding}" if self.content_encoding else encoding
            case b"retry-after":
                self.retry_after = value.decode("latin-1").strip()
            case b"content-length":
                self._length_known = True
            case b"transfer-encoding":
                self._length_known = True
                self._chunked_header = b"chunked" in value.lower()

    def on_headers_complete(self) -> None:
        """Keep the status; an interim response (1xx) does not count, except 101."""
        self.status = self._parser.get_status_code()
        self.headers_complete = self.status not in _INTERIM or self.status == 101
        self.chunked = self.headers_complete and self._chunked_header

    def on_chunk_header(self) -> None:
        """Note the beginning of a chunk."""
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        """Note the end of a chunk."""
        self._in_chunk = False

    def on_message_begin(self) -> None:
        """Refuse a second response to one request."""
        if self.complete:
            raise ValueError("a second response to one request")

    def on_message_complete(self) -> None:
        """Note the end of the response, as HTTP frames it."""
        if self.headers_complete:
            self.complete = True
            self.done_ns = self.arrived_ns
            self.keep_alive = self._parser.should_keep_alive()
