"""Server-sent events out of bytes that arrive in pieces of any size, by the grammar of the HTML standard."""

import re
from typing import Final

Event = tuple[bytes, bytes]
"""An event's type (empty: none was given) and its data."""

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = ord("\r")


class EventDecoder:
    """
    Cuts a stream of bytes into events; each is returned by the `feed` of the piece that completed it.

    Only `\\r\\n`, `\\n` and `\\r` end a line, as the standard says: never `splitlines()`, which would cut JSON at
    U+2028. An event that the end of the stream leaves open is dropped, as the standard says. `id` and `retry` are
    for clients that reconnect, and are skipped.
    """

    __slots__ = ("_after_cr", "_data", "_partial", "_started", "_type", "at_boundary")

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._data: list[bytes] = []
        self._type = b""
        self._after_cr = False
        self._started = False
        self.at_boundary = True
        """Whether a new event starts with the next piece, and everything before it is told."""

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that this piece completes."""
        if self.at_boundary and piece.endswith(b"\n\n") and _CR not in piece:
            if not self._started:
                self._started = True
                piece = piece.removeprefix(_BOM)
            return self._feed_lines(piece[:-1].split(b"\n"))
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return []
        self._after_cr = piece.endswith(b"\r")
        self.at_boundary = False
        lines = _LINE_END.split(piece)
        last = lines.pop()
        if not lines:
            self._partial.append(last)
            return []
        if self._partial:
            lines[0] = b"".join((*self._partial, lines[0]))
        self._partial = [last] if last else []
        if not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        events = self._feed_lines(lines)
        self.at_boundary = not (self._partial or self._data or self._type or self._after_cr)
        return events

    def _feed_lines(self, lines: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for line in lines:
            if line:
                self._feed_line(line)
            else:
                if self._data:
                    events.append((self._type, b"\n".join(self._data)))
                    self._data = []
                self._type = b""
        return events

    def _feed_line(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        elif name == b"event":
            self._type = value.removeprefix(b" ")
