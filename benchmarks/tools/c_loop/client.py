"""The C loop as a client that the benchmark can drive."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from click import ClickException

from benchmarks.tools.compiled import compiled
from benchmarks.tools.load_client import Command, Reported, Task
from benchmarks.tools.pinned import OUTPUT

SOURCE: Final = Path(__file__).with_name("src")


@dataclass(frozen=True, slots=True)
class CLoop:
    """epoll, and a stamped read of each socket that has bytes, at each arrival or at most every `look_ms`."""

    name: str
    look_ms: int = 0

    def missing(self) -> str | None:
        """Return what has to be done before it can run; None if nothing."""
        return None if shutil.which("gcc") else "is compiled with gcc: apt-get install gcc libc6-dev"

    def command(self, task: Task) -> Command:
        """Return how to run the task; ClickException for one over TLS."""
        if task.ca_file:
            raise ClickException(f"{self.name} speaks no TLS")
        engine, work = urlsplit(task.base_url), task.work
        options = (engine.hostname, engine.port, task.model, work.tokens, work.prompt_words)
        numbers = (work.streams, task.requests, self.look_ms)
        return Command(arguments=(str(compiled("c-loop", SOURCE)), *map(str, (*options, *numbers))))

    def reported(self, task: Task) -> Reported:
        """Return what it counted: it takes stamps as other clients do, and makes no figures of them."""
        return Reported(completed=json.loads((task.folder / OUTPUT).read_text(encoding="utf-8"))["completed"])
