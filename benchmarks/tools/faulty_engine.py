"""An engine with one fault at a time, and an exact log of what it did with every request."""

import asyncio
import hashlib
import json
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from benchmarks.tools.loopback_engine import (
    STREAM_END,
    STREAM_HEAD,
    LoopbackEngine,
    chat_delta,
    chat_events,
    header,
    http_chunk,
    plain,
)
from llmload.units import NS_PER_S

ERROR: Final = {"error": {"message": "CUDA error: out of memory", "type": "InternalServerError", "code": 500}}
CHAT, COMPLETIONS = b"/v1/chat/completions", b"/v1/completions"
CACHED_TTFT: Final = 0.25
"""A cached prompt's time to first token, relative to that of another."""
_ALL_PROTOCOLS: Final = 0x0003
_TCP: Final = 6
_NICE: Final = -15
_LOOK_S: Final = 0.002
_RESET_FLAG: Final = 0x04


class Answer(Enum):
    """What an answer came to."""

    GOOD = "good"
    HTTP_500 = "HTTP 500"
    ERROR_EVENT = "an error event in the stream"
    CUT = "the connection closed half way"
    ABORT = "finish_reason abort half way"
    EARLY = "finish_reason stop half way"
    GONE = "the client left"


WHOLE: Final = frozenset({Answer.GOOD, Answer.EARLY})
"""Answers that an engine itself would call complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """`strike` ends every `every`-th answer, from the `first`-th on; `caching` answers known prompts sooner."""

    strike: Answer | None = None
    every: int = 1
    first: int = 1
    caching: bool = False
    refuse_first: bool = False
    """The port is closed until one connection was refused; that is seen on the loopback device, which needs root."""

    def of(self, number: int) -> Answer:
        """Return what becomes of the request with this number, from 1."""
        if self.strike is None or number < self.first:
            return Answer.GOOD
        return self.strike if (number - self.first) % self.every == 0 else Answer.GOOD


NO_FAULT: Final = Faults()


@dataclass(slots=True, kw_only=True)
class Served:
    """One request as it was really answered; times are CLOCK_MONOTONIC."""

    answer: Answer
    received_ns: int
    looked_ns: int
    """When the engine had last looked for requests before: this one came between then and `received_ns`."""
    cached: bool
    writes_ns: list[int] = field(default_factory=list)
    """When each content chunk, which is one token, was given to the socket."""
    done_ns: int = 0


class FaultyEngine(LoopbackEngine):
    """
    A running engine on loopback, in a thread: `tokens` chunks, the first after `ttft_s`, the others `gap_s` apart.

    The first chunk's time varies, in a fixed order, by up to a tenth of `ttft_s` to either side.
    """

    model = "faulty"

    def __init__(self, faults: Faults, *, tokens: int, ttft_s: float, gap_s: float) -> None:
        super().__init__()
        self.served: list[Served] = []
        self._looked_ns = 0
        self._tasks = set[asyncio.Task[None]]()
        self._faults = faults
        self._tokens, self._ttft_s, self._gap_s = tokens, ttft_s, gap_s
        self._known: set[bytes] = set()

    def forget(self) -> None:
        """Start the log again; the cache stays."""
        self.served = []

    async def _listen(self) -> None:
        with suppress(PermissionError):  # the engine's thread alone: it has little to do, and its times are the truth
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        self._tasks.add(asyncio.create_task(self._look()))
        if self._faults.refuse_first:
            with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS)) as device:
                device.bind(("lo", _ALL_PROTOCOLS))
                device.setblocking(False)
                self._ready.set()
                while not _resets(await self._loop.sock_recv(device, 128), self.port):
                    pass
        await super()._listen()

    async def _look(self) -> None:
        """Note when the event loop turns, at which it looks at every socket."""
        while True:
            self._looked_ns = time.monotonic_ns()
            await asyncio.sleep(_LOOK_S)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                received_ns, looked_ns = time.monotonic_ns(), self._looked_ns
                body = await _body(head, reader)
                if not head.startswith(b"POST"):
                    await self._list_models(writer)
                elif (path := head.split(b" ", 2)[1]) in (CHAT, COMPLETIONS):
                    await self._serve_one(body, (looked_ns, received_ns), writer, chat=path == CHAT)
                else:
                    writer.write(plain(b'{"error":{"message":"no such path"}}', "404 Not Found"))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            return  # cancelled: the engine stops, and asyncio would log that this task was
        finally:
            writer.close()

    async def _answer(self, *_: object) -> None:
        raise AssertionError("requests are answered with their bodies")

    async def _serve_one(
        self, body: bytes, came_ns: tuple[int, int], writer: asyncio.StreamWriter, *, chat: bool
    ) -> None:
        asked: dict[str, Any] = json.loads(body)
        key = hashlib.blake2b(json.dumps(asked.get("messages" if chat else "prompt")).encode(), digest_size=16).digest()
        cached = self._faults.caching and key in self._known
        self._known.add(key)
        served = Served(
            answer=Answer.GONE,
            looked_ns=came_ns[0],
            received_ns=came_ns[1],
            cached=cached,
        )
        self.served.append(served)
        number = len(self.served)
        planned = self._faults.of(number)
        prompt_tokens = max(1, len(body) // 5)
        if planned is Answer.HTTP_500:
            writer.write(plain(json.dumps(ERROR).encode(), "500 Internal Server Error"))
        elif not asked.get("stream"):
            await self._whole(served, prompt_tokens, writer)
        else:
            await self._stream(served, number, planned, _Form(self.model, prompt_tokens, chat=chat), writer)
        served.answer, served.done_ns = planned, time.monotonic_ns()
        if planned is Answer.CUT:
            raise ConnectionError("as planned")

    def _first_due_ns(self, served: Served, number: int) -> int:
        spread = ((number * 7) % 21 - 10) / 100
        ttft_s = self._ttft_s * (1 + spread) * (CACHED_TTFT if served.cached else 1)
        return served.received_ns + round(ttft_s * NS_PER_S)

    async def _stream(
        self, served: Served, number: int, planned: Answer, form: "_Form", writer: asyncio.StreamWriter
    ) -> None:
        tokens = self._tokens if planned is Answer.GOOD else self._tokens // 2
        first_ns = self._first_due_ns(served, number)
        for k in range(tokens):
            due_ns = first_ns + round(k * self._gap_s * NS_PER_S)
            await asyncio.sleep((due_ns - time.monotonic_ns()) / NS_PER_S)
            chunk = (form.begin() if k == 0 else b"") + form.chunk(f" word{k}")
            served.writes_ns.append(time.monotonic_ns())
            writer.write(chunk)
            await writer.drain()
        writer.write(form.end(planned, tokens, cached=served.cached))
        await writer.drain()

    async def _whole(self, served: Served, prompt_tokens: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self._ttft_s + (self._tokens - 1) * self._gap_s)
        message = {"role": "assistant", "content": " word" * self._tokens}
        usage = _usage(prompt_tokens, self._tokens, cached=served.cached)
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        frame = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": self.model}
        writer.write(plain(json.dumps({**frame, "choices": [choice], "usage": usage}).encode()))


@dataclass(frozen=True, slots=True)
class _Form:
    """A stream's bytes, of a chat or of a plain completion."""

    model: str
    prompt_tokens: int
    chat: bool

    def begin(self) -> bytes:
        return STREAM_HEAD + (chat_delta(self.model, {"role": "assistant", "content": ""}) if self.chat else b"")

    def chunk(self, text: str, finish_reason: str | None = None) -> bytes:
        content: dict[str, Any] = {"delta": {"content": text}} if self.chat else {"text": text}
        return chat_events(self.model, [{"choices": [{"index": 0, **content, "finish_reason": finish_reason}]}])

    def end(self, planned: Answer, tokens: int, *, cached: bool) -> bytes:
        if planned is Answer.CUT:
            return b""
        if planned is Answer.ERROR_EVENT:
            return http_chunk(b"data: " + json.dumps(ERROR).encode() + b"\n\n") + _DONE
        reason = {Answer.ABORT: "abort", Answer.EARLY: "stop"}.get(planned, "length")
        usage = _usage(self.prompt_tokens, tokens, cached=cached)
        return self.chunk("", reason) + chat_events(self.model, [{"choices": [], "usage": usage}]) + _DONE


_DONE: Final = http_chunk(b"data: [DONE]\n\n") + STREAM_END


def _resets(packet: bytes, port: int) -> bool:
    """Return whether an IPv4 packet is a TCP reset from the port: a connection was refused."""
    head = 4 * (packet[0] & 15)
    if packet[0] >> 4 != 4 or packet[9] != _TCP or len(packet) < head + 14:
        return False
    (source,) = struct.unpack_from(">H", packet, head)
    return source == port and bool(packet[head + 13] & _RESET_FLAG)


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """Return a request's body, with its length named or in chunks."""
    if header(head, "transfer-encoding") != "chunked":
        return await reader.readexactly(int(header(head, "content-length") or 0))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return b"".join(parts)


def _usage(prompt_tokens: int, tokens: int, *, cached: bool) -> dict[str, Any]:
    details = {"cached_tokens": prompt_tokens - 1 if cached else 0}
    total = prompt_tokens + tokens
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": total}
    return {**counts, "prompt_tokens_details": details}
