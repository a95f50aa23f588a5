"""Slots, the queue before them, and the schedule of due tokens."""

import asyncio
import hashlib
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from enum import Enum
from heapq import heappop, heappush, heapreplace
from itertools import count
from time import monotonic_ns
from typing import Any, Final, Protocol

from llmload.simulator.connection import Connection, Request
from llmload.simulator.metrics import BatchGauges, EngineTotals
from llmload.simulator.protocol import BODY_END, Asked, Format, error_body, http_chunk
from llmload.simulator.settings import BYTES_PER_TOKEN, MID_ANSWER, SimulationSettings, gap_ns, ttft_ns
from llmload.timerfd import TimerFd
from llmload.units import NS_PER_S

# Wakes the event loop on time: asyncio's own timers go through epoll, whose time-out Python rounds up to whole
# milliseconds, so tokens would be written up to 1 ms late.


class Alarm(Protocol):
    """Calls back once at the time it was last set to."""

    def set(self, due_ns: int | None) -> None:
        """Ring at `due_ns` of CLOCK_MONOTONIC (at once if that is past) instead of what was set; None: never."""

    def close(self) -> None:
        """Ring no more and give back what the alarm holds."""


def alarm_for(loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> Alarm:
    """The most exact alarm that this system has."""
    return TimerFdAlarm(loop, ring) if sys.platform == "linux" else LoopAlarm(loop, ring)


class TimerFdAlarm:
    """An alarm on a Linux timerfd."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._timer = TimerFd()
        self.set = self._timer.set
        loop.add_reader(self._timer.fd, ring)

    def close(self) -> None:
        """Ring no more and close the descriptor."""
        self._loop.remove_reader(self._timer.fd)
        self._timer.close()


class LoopAlarm:
    """An alarm on the event loop's own timers, up to 1 ms late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due_ns: int | None) -> None:
        """Ring at `due_ns`; the loop's clock is the monotonic one."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if due_ns is None else self._loop.call_at(due_ns / NS_PER_S, self._ring)

    def close(self) -> None:
        """Ring no more."""
        self.set(None)


# The simulated engine's prefix cache: whole blocks of prompt tokens, the least recently used dropped first.

BLOCK_TOKENS: Final = 16
"""As in vLLM, which shares KV cache between requests in blocks of so many tokens."""


class PrefixCache:
    """
    Remembers the blocks of prompts; a block is known by its tokens and all before them.

    `tokens` is how many it keeps. As in vLLM, a prompt's last token is always computed.
    """

    def __init__(self, tokens: int) -> None:
        self._most_blocks = tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def take(self, token_text: bytes) -> int:
        """Return how many of the first tokens are cached, and keep the prompt; `token_text` is 4 bytes a token."""
        size = BLOCK_TOKENS * BYTES_PER_TOKEN
        whole_blocks = len(token_text) // size
        cached, known, digest = 0, True, b""
        for block in range(whole_blocks):
            text = token_text[block * size : (block + 1) * size]
            digest = hashlib.blake2b(text, digest_size=16, key=digest).digest()
            known = known and digest in self._blocks
            cached += known
            self._blocks[digest] = None
            self._blocks.move_to_end(digest)
        while len(self._blocks) > self._most_blocks:
            self._blocks.popitem(last=False)
        never_all = (len(token_text) // BYTES_PER_TOKEN - 1) // BLOCK_TOKENS
        return min(cached, never_all) * BLOCK_TOKENS


# One request being answered: its next token, written and stamped.

ENGINE_BROKE = "The simulated engine broke, as it was asked to."
NOT_A_LENGTH = b"zz\r\n"


class Step(Enum):
    """What follows a token."""

    MORE = 1
    ENDED = 2
    HELD = 3


class Generation:
    """A request from its arrival to its last byte; `tokens` are written, a fault strikes after `break_after`."""

    __slots__ = (
        *("admitted_ns", "asked", "break_after", "chunk_ns", "connection", "fault", "finish", "first_due_ns"),
        *("first_write_ns", "format", "last_write_ns", "max_late_ns", "output_tokens", "request", "stream"),
        *("status", "tokens", "totals"),
    )

    def __init__(
        self,
        request: Request,
        connection: Connection,
        asked: Asked,
        form: Format,
        fault: str | None,
        totals: EngineTotals,
    ) -> None:
        self.request = request
        self.connection = connection
        self.asked = asked
        self.format = form
        self.fault = fault
        self.totals = totals
        self.stream = asked.stream and fault != "not_streamed"
        self.output_tokens = asked.output_tokens
        self.break_after = -(-asked.output_tokens // 2) if fault in MID_ANSWER else -1
        self.status = None if fault == "stall_first" else 200
        self.tokens = 0
        self.finish: str | None = None
        self.admitted_ns: int | None = None
        self.first_due_ns: int | None = None
        self.first_write_ns: int | None = None
        self.last_write_ns: int | None = None
        self.max_late_ns = 0
        self.chunk_ns: list[int] | None = None

    def open(self) -> None:
        """Write the response head of a stream at once, as vLLM does, unless not one byte may come."""
        if self.stream and self.fault != "stall_first":
            self.connection.begin_stream(self.request)

    def emit(self, due_ns: int) -> Step:
        """Write the token that was due at `due_ns`."""
        k = self.tokens
        self.tokens = k + 1
        written_ns = monotonic_ns()
        self._count(due_ns, written_ns)
        if self.tokens == self.break_after:
            return self._break(k)
        last = self.tokens == self.output_tokens
        if self.stream:
            self.connection.write(self._streamed(k, last))
        elif last:
            self.connection.reply(self.request, 200, self.format.whole())
        if not last:
            return Step.MORE
        self.finish = "length" if self.asked.cut else "stop"
        if self.stream:
            self.connection.end_reply(self.request)
        return Step.ENDED

    def _streamed(self, k: int, last: bool) -> bytes:
        data = self.format.token(k)
        if k == 0:
            data = self.format.opening() + data
        return data + self.format.closing() if last else data

    def _count(self, due_ns: int, written_ns: int) -> None:
        totals = self.totals
        totals.generation_tokens += 1
        if self.last_write_ns is None:
            self.first_due_ns = due_ns
            self.first_write_ns = written_ns
            totals.prompt_tokens += self.asked.prompt_tokens
            totals.ttft.add(written_ns - self.request.received_ns)
        else:
            totals.itl.add(written_ns - self.last_write_ns)
        self.last_write_ns = written_ns
        if written_ns - due_ns > self.max_late_ns:
            self.max_late_ns = written_ns - due_ns
        if self.chunk_ns is not None:
            self.chunk_ns.append(written_ns)

    def _break(self, k: int) -> Step:
        """The fault strikes with token k."""
        connection, request, fault = self.connection, self.request, self.fault
        if fault in ("error_event", "no_finish") and not self.stream:
            connection.reply(request, 500, error_body(self.asked.api, 500, "InternalServerError", ENGINE_BROKE))
            self.status = 500
        elif self.stream:
            connection.write(self._streamed(k, False) + self._last_words())
        else:
            connection.begin_whole(request, self.format.whole(), chunked=fault == "malformed_chunk")
        if fault == "stall":
            return Step.HELD
        self.finish = "error"
        if fault == "reset":
            connection.reset()
        elif fault in ("early_close", "malformed_chunk"):
            connection.close()
        elif self.stream:
            connection.end_reply(request)
        return Step.ENDED

    def _last_words(self) -> bytes:
        if self.fault == "error_event":
            return self.format.error(ENGINE_BROKE)
        return {"no_finish": BODY_END, "malformed_chunk": NOT_A_LENGTH + http_chunk(b"data: ")}.get(
            str(self.fault), b""
        )

    def truth(self) -> dict[str, Any]:
        """The line of the truth log."""
        line = {
            **self.request.truth(),
            "stream": self.asked.stream,
            "status": self.status,
            "prompt_tokens": self.asked.prompt_tokens,
            "cached_tokens": self.asked.cached_tokens,
            "output_tokens": self.tokens,
            "finish": self.finish,
            "fault": self.fault,
            "admitted_ns": self.admitted_ns,
            "first_due_ns": self.first_due_ns,
            "first_write_ns": self.first_write_ns,
            "last_write_ns": self.last_write_ns,
            "max_late_ns": self.max_late_ns,
        }
        return line if self.chunk_ns is None else {**line, "chunk_ns": self.chunk_ns}


class Batch:
    """
    Continuous batching: at most `slots` requests run, the rest wait first in first out.

    One heap holds the next token of each running request, one alarm rings for the earliest: no task a request. A slot
    is free from the moment its last token was due, not from when it was written, so lateness never adds up.
    """

    def __init__(
        self, settings: SimulationSettings, loop: asyncio.AbstractEventLoop, ended: Callable[[Generation], None]
    ) -> None:
        self._settings = settings
        self._ended = ended
        self._alarm = alarm_for(loop, self._ring)
        self._due: list[tuple[int, int, Generation]] = []
        self._order = count()
        self._running: set[Generation] = set()
        self._waiting: deque[Generation] = deque()
        self._gap_ns = 0

    def submit(self, generation: Generation) -> None:
        """Run the request if a slot is free, else let it wait."""
        if len(self._running) < self._settings.slots:
            self._admit(generation, generation.request.received_ns)
            self._set_alarm()
        else:
            self._waiting.append(generation)

    def abort(self, generation: Generation) -> None:
        """The client left: the request ends, its slot goes to the next."""
        if generation.finish is not None:
            return
        generation.finish = "abort"
        if generation in self._running:
            self._release(generation, monotonic_ns())
            self._set_alarm()
        else:
            self._waiting.remove(generation)
            self._ended(generation)

    def gauges(self) -> BatchGauges:
        """Running, waiting, and tokens held by running requests / kv_cache_tokens."""
        held_tokens = sum(generation.asked.prompt_tokens + generation.tokens for generation in self._running)
        usage = min(1.0, held_tokens / self._settings.kv_cache_tokens)
        return BatchGauges(len(self._running), len(self._waiting), usage)

    def close(self) -> None:
        """End what runs and what waits."""
        for generation in [*self._waiting, *self._running]:
            self.abort(generation)
        self._alarm.close()

    def _admit(self, generation: Generation, free_ns: int) -> None:
        generation.admitted_ns = max(free_ns, generation.request.received_ns)
        self._running.add(generation)
        self._gap_ns = gap_ns(self._settings, len(self._running))
        if generation.fault != "stall_first":
            asked = generation.asked
            to_compute = asked.prompt_tokens - (asked.cached_tokens or 0)
            due_ns = generation.admitted_ns + ttft_ns(self._settings, to_compute)
            heappush(self._due, (due_ns, next(self._order), generation))

    def _release(self, generation: Generation, free_ns: int) -> None:
        self._running.discard(generation)
        self._gap_ns = gap_ns(self._settings, len(self._running))
        if self._waiting:
            self._admit(self._waiting.popleft(), free_ns)
        self._ended(generation)

    def _ring(self) -> None:
        """Write every token that is due; what becomes due meanwhile waits for the sockets to be read first."""
        due = self._due
        now_ns = monotonic_ns()
        while due and due[0][0] <= now_ns:
            due_ns, order, generation = due[0]
            if generation.finish is not None:
                heappop(due)
                continue
            step = generation.emit(due_ns)
            if step is Step.MORE:
                heapreplace(due, (due_ns + self._gap_ns, order, generation))
                continue
            heappop(due)
            if step is Step.ENDED:
                self._release(generation, due_ns)
        self._set_alarm()

    def _set_alarm(self) -> None:
        self._alarm.set(self._due[0][0] if self._due else None)
