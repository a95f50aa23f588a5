"""What pages say to type."""

import re
from collections.abc import Iterator
from pathlib import Path


def commands_of(page: Path) -> Iterator[str]:
    """Yield the commands of a page: the lines of its `sh` blocks, and what its text says of `python -m benchmarks`."""
    text = page.read_text(encoding="utf-8")
    yield from (" ".join(command.split()) for command in re.findall(r"`(python -m benchmarks[^`]+)`", text))
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        command = ""
        for line in block.replace("\\\n", " ").splitlines():
            command += f"\n{line}" if command else line.partition(" #")[0].strip()
            if command.count("'") % 2 == 0:  # a quoted body may go over several lines
                yield from [command] if command else []
                command = ""
