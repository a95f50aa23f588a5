"""An engine that sends role, texts, finish and end at separate times, to show at which of them a clock stops."""

import asyncio
import time
from typing import Final

from benchmarks.tools.loopback_engine import STREAM_HEAD, LoopbackEngine, chat_delta, chat_end

ROLE_S: Final = 0.3
TEXTS_S: Final = (0.9, 1.4, 1.9, 2.4)
FINISH_S: Final = 2.8
END_S: Final = 3.2
"""Usage, [DONE] and the end of the body leave together: a record has one moment for them."""
PROMPT_TOKENS: Final = 7


class PacedEngine(LoopbackEngine):
    """A running engine on loopback, in a thread: `with PacedEngine() as engine: ...`."""

    model = "paced"

    def __init__(self) -> None:
        super().__init__()
        self.worst_late_s = 0.0

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:  # noqa: ARG002 - each gets the same
        started_s = time.monotonic()
        writer.write(STREAM_HEAD)
        moments = [
            (ROLE_S, chat_delta(self.model, {"role": "assistant", "content": ""})),
            *((moment_s, chat_delta(self.model, {"content": " word"})) for moment_s in TEXTS_S),
            (FINISH_S, chat_delta(self.model, {}, "stop")),
            (END_S, chat_end(self.model, PROMPT_TOKENS, len(TEXTS_S))),
        ]
        for due_s, data in moments:
            await asyncio.sleep(max(0.0, started_s + due_s - time.monotonic()))
            self.worst_late_s = max(self.worst_late_s, time.monotonic() - started_s - due_s)
            writer.write(data)
