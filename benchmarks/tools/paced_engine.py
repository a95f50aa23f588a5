"""An engine that sends role, texts, finish and end at separate times, to show at which of them a clock stops."""

import asyncio
import json
import threading
import time
from types import TracebackType
from typing import Any, Final, Self

ROLE_S: Final = 0.3
TEXTS_S: Final = (0.9, 1.4, 1.9, 2.4)
FINISH_S: Final = 2.8
END_S: Final = 3.2
"""Usage, [DONE] and the end of the body leave together: a record has one moment for them."""
PROMPT_TOKENS: Final = 7
HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n\r\n"


class PacedEngine:
    """A running engine on loopback, in a thread: `with PacedEngine() as engine: ...`."""

    model = "paced"

    def __init__(self) -> None:
        self.port = 0
        self.worst_late_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="paced-engine", daemon=True)

    @property
    def base_url(self) -> str:
        """Where it listens, without the API's prefix."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_content_length(head))
                if head.startswith(b"POST"):
                    await self._answer(writer)
                else:
                    listed = json.dumps({"object": "list", "data": [{"id": self.model, "object": "model"}]}).encode()
                    writer.write(HEAD % (b"application/json", b"Content-Length: %d" % len(listed)) + listed)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter) -> None:
        started_s = time.monotonic()
        writer.write(HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked"))
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": len(TEXTS_S)}
        usage["total_tokens"] = sum(usage.values())
        end = [{"choices": [], "usage": usage}]
        moments = [
            (ROLE_S, _delta({"role": "assistant", "content": ""})),
            *((moment_s, _delta({"content": " word"})) for moment_s in TEXTS_S),
            (FINISH_S, _delta({}, "stop")),
            (END_S, _events(end) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"),
        ]
        for due_s, data in moments:
            await asyncio.sleep(max(0.0, started_s + due_s - time.monotonic()))
            self.worst_late_s = max(self.worst_late_s, time.monotonic() - started_s - due_s)
            writer.write(data)


def _content_length(head: bytes) -> int:
    named = b"content-length:"
    return next((int(line[len(named) :]) for line in head.lower().split(b"\r\n") if line.startswith(named)), 0)


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _events([{"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}])


def _events(chunks: list[dict[str, Any]]) -> bytes:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": PacedEngine.model}
    return b"".join(_chunk(b"data: " + json.dumps({**frame, **chunk}).encode() + b"\n\n") for chunk in chunks)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
