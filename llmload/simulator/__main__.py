"""The process that `spawn` starts: it reads its settings from one line of standard input and ends with that input."""

import os
import sys

from llmload.errors import LlmloadError
from llmload.simulator.server import from_line, run_until_signal


def _first_line(descriptor: int) -> str:
    """Read a line byte by byte: a buffered reader would hide the following bytes from the event loop."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line.decode()


def main() -> int:
    """Run the engine; exit status 1 and one line on standard output if it cannot start."""
    descriptor = sys.stdin.fileno()
    try:
        run_until_signal(from_line(_first_line(descriptor)), until_eof_of=descriptor)
    except LlmloadError as error:
        print(error, flush=True)  # noqa: T201 - the parent waits for this line
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
