"""An engine on loopback, in a thread of this process: how it lives and reads requests, whatever it answers."""

import asyncio
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n\r\n"
STREAM_HEAD: Final = HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked")
STREAM_END: Final = b"0\r\n\r\n"


class LoopbackEngine(ABC):
    """A running engine: `with Engine() as engine: ...`; it answers one request of a connection after the other."""

    model = "loopback"

    def __init__(self) -> None:
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"{self.model}-engine", daemon=True)

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
        self._server = await asyncio.start_server(self._converse, "127.0.0.1", 0, backlog=512, start_serving=False)
        self.port = self._server.sockets[0].getsockname()[1]
        listening = asyncio.create_task(self._listen())
        await self._stop.wait()
        listening.cancel()
        self._server.close()

    async def _listen(self) -> None:
        """Begin to accept connections, and let `__enter__` return."""
        await self._server.start_serving()
        self._ready.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(header(head, "content-length") or 0))
                await (self._answer(head, writer) if head.startswith(b"POST") else self._list_models(writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return  # cancelled: the engine stops, and asyncio would log that this task was
        finally:
            writer.close()

    async def _list_models(self, writer: asyncio.StreamWriter) -> None:
        """Answer anything that is asked by GET."""
        listed = {"object": "list", "data": [{"id": self.model, "object": "model"}]}
        writer.write(plain(json.dumps(listed).encode()))

    @abstractmethod
    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        """Answer a request for a chat."""


def header(head: bytes, name: str) -> str | None:
    """Return the value of a header; None where it is missing."""
    named = name.encode() + b":"
    values = (line[len(named) :] for line in head.split(b"\r\n") if line.lower().startswith(named))
    return next((value.strip().decode("latin-1") for value in values), None)


def plain(body: bytes, status: str = "200 OK") -> bytes:
    """Return a whole answer in JSON."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def chat_delta(model: str, delta: Mapping[str, str], finish_reason: str | None = None) -> bytes:
    """Return one event of a streamed chat, in HTTP's chunked framing."""
    return chat_events(model, [{"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}])


def chat_events(model: str, events: Iterable[Mapping[str, Any]]) -> bytes:
    """Return events of a streamed chat, each in its own chunk."""
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    return b"".join(http_chunk(b"data: " + json.dumps({**frame, **event}).encode() + b"\n\n") for event in events)


def chat_end(model: str, prompt_tokens: int, output_tokens: int) -> bytes:
    """Return a streamed chat's usage and the end of its body."""
    counted = {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens}
    usage = {**counted, "total_tokens": prompt_tokens + output_tokens}
    return chat_events(model, [{"choices": [], "usage": usage}]) + http_chunk(b"data: [DONE]\n\n") + STREAM_END


def http_chunk(data: bytes) -> bytes:
    """Return bytes in HTTP's chunked framing."""
    return b"%x\r\n%b\r\n" % (len(data), data)
