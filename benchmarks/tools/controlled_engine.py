"""An engine that does what a trial tells it during a run, and notes every request as it arrives."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.tools.loopback_engine import STREAM_HEAD, LoopbackEngine, chat_delta, chat_end, header, plain

PROMPT_TOKENS: Final = 7
REFUSAL: Final = json.dumps({"error": {"message": "out of memory", "type": "InternalServerError"}}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the engine answers; `fault` strikes every `fault_every`-th request."""

    tokens: int = 4
    ttft_s: float = 0.03
    gap_s: float = 0.01
    fault: str | None = None
    """`http_500`; `stall`: nothing comes after the first token; `close`: the connection ends after the first token."""
    fault_every: int = 1
    holds: bool = False
    """Answers stop after their first token until `release` is called."""
    answers_first: int = 0
    """How many requests are answered before that."""
    models: bytes | None = None
    """The answer to `/v1/models`, if not a list of the engine's own model."""
    asked_in_vain: bool = False
    """`/v1/models` is never answered."""


class ControlledEngine(LoopbackEngine):
    """A running engine on loopback, in a thread; its methods may be called from other threads."""

    model = "controlled"

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__()
        self._behaviour = behaviour
        self._changed = threading.Condition()
        self._arrived: list[str] = []
        self._asked = 0
        self._connections: set[asyncio.StreamWriter] = set()
        self._free = asyncio.Event()

    @property
    def arrived(self) -> list[str]:
        """The id of every request that has arrived, in their order."""
        with self._changed:
            return list(self._arrived)

    def wait_for_requests(self, count: int, timeout_s: float) -> bool:
        """Wait until this many requests have arrived; False if the time was not enough."""
        return self._wait(lambda: len(self._arrived) >= count, timeout_s)

    def wait_until_asked(self, timeout_s: float) -> bool:
        """Wait until somebody has requested the list of models; False if the time was not enough."""
        return self._wait(lambda: self._asked > 0, timeout_s)

    def release(self) -> None:
        """Continue answers that were held, and hold no later one."""
        self._loop.call_soon_threadsafe(self._free.set)

    def vanish(self) -> None:
        """Do what the end of the engine's process does: close its port and break its connections."""
        gone = threading.Event()
        self._loop.call_soon_threadsafe(self._vanish, gone)
        gone.wait()

    def settle(self) -> None:
        """Read what clients that have gone had sent; to be called before `arrived` is the whole account."""

        async def turns() -> None:
            for _ in range(10):
                await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(turns(), self._loop).result()

    def _wait(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(reached, timeout_s)

    def _vanish(self, gone: threading.Event) -> None:
        self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()
        gone.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            await super()._converse(reader, writer)
        finally:
            self._connections.discard(writer)

    async def _list_models(self, writer: asyncio.StreamWriter) -> None:
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
        if self._behaviour.asked_in_vain:
            await self._free.wait()
        if self._behaviour.models is None:
            await super()._list_models(writer)
        else:
            writer.write(plain(self._behaviour.models))

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        with self._changed:
            self._arrived.append(header(head, "x-request-id") or "")
            number = len(self._arrived)
            self._changed.notify_all()
        own = self._behaviour
        fault = own.fault if number % own.fault_every == 0 else None
        if fault == "http_500":
            writer.write(plain(REFUSAL, "500 Internal Server Error"))
            return
        await _write(writer, STREAM_HEAD + chat_delta(self.model, {"role": "assistant", "content": ""}))
        await asyncio.sleep(own.ttft_s)
        await _write(writer, chat_delta(self.model, {"content": " word"}))
        if own.holds and number > own.answers_first:
            await self._free.wait()
        if fault == "stall":
            await asyncio.Event().wait()
        if fault == "close":
            raise ConnectionError("controlled to close")
        for _ in range(own.tokens - 1):
            await asyncio.sleep(own.gap_s)
            await _write(writer, chat_delta(self.model, {"content": " word"}))
        await _write(writer, chat_delta(self.model, {}, "stop") + chat_end(self.model, PROMPT_TOKENS, own.tokens))


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write; ConnectionError where the client, or this engine, has gone."""
    writer.write(data)
    await writer.drain()
