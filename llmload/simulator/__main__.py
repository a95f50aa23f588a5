"""The process that `spawn` starts: settings as one line on standard input, whose end is also its own."""

import os
import sys

from llmload.errors import LlmloadError
from llmload.simulator.server import from_line, run_until_signal


def _first_line(descriptor: int) -> str:
    """Read byte by byte: a buffered reader would hide what follows from the event loop."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line.decode()


def main() -> int:
    """Run the engine; exit status 1 and one line on standard output where it cannot."""
    descriptor = sys.stdin.fileno()
    try:
        run_until_signal(from_line(_first_line(descriptor)), until_eof_of=descriptor)
    except LlmloadError as error:
        print(error, flush=True)  # noqa: T201 - the parent waits for this line
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
