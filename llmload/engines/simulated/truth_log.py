"""
One JSON line a request: what the engine did, by its own clock.

Times are nanoseconds of CLOCK_MONOTONIC, which every process of a machine shares. Fields:

    request_id path stream status prompt_tokens cached_tokens output_tokens (written) finish fault
    received_ns      the request's last byte was read
    admitted_ns      it got its slot (null: it never did)
    first_due_ns     when the first token was due
    first_write_ns   when it was written (an error: when the error was)
    last_write_ns    the last write
    max_late_ns      the latest that any of its tokens was written after it was due
    chunk_ns         every token's write, with log_chunks

`finish` is stop, length, abort (the client left), error (a fault struck, or an error was answered). A line is written
just after the last byte of its answer: a reader that has the answer may have to wait a moment for the line.
"""

from pathlib import Path
from typing import Any

import orjson


class TruthLog:
    """Appends lines to a file, or nowhere without one."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("ab", buffering=0)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, at once visible to readers."""
        if self._file is not None:
            self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
