"""Continuous batching: slots, the queue before them, the schedule of due tokens, and the prefix cache."""

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

from llmload.simulator.connection import ReceivedRequest, ServerConnection
from llmload.simulator.metrics import BatchGauges, EngineTotals
from llmload.simulator.protocol import BODY_END, AnswerFormat, ParsedRequest, error_body, http_chunk
from llmload.simulator.settings import MID_ANSWER_FAULTS, SimulationSettings, gap_ns, ttft_ns
from llmload.simulator.tokens import BYTES_PER_TOKEN
from llmload.timerfd import TimerFd
from llmload.units import NS_PER_MS, NS_PER_S


class WakeTimer(Protocol):
    """
    Calls back once, at the time it was last set to.

    asyncio's own timers go through epoll, whose time-out Python rounds up to whole milliseconds: tokens would be
    written up to 1 ms late.
    """

    def set(self, due_ns: int | None) -> None:
        """Call back at this monotonic ns (at once if it has passed) instead of the time set before; None: never."""

    def close(self) -> None:
        """Do not call back any more."""


def wake_timer(loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> WakeTimer:
    """Return the most exact timer of this system."""
    return TimerFdTimer(loop, on_due) if sys.platform == "linux" else LoopTimer(loop, on_due)


class TimerFdTimer:
    """A timer on a Linux timerfd."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._timer = TimerFd()
        self.set = self._timer.set
        loop.add_reader(self._timer.fd, on_due)

    def close(self) -> None:
        """Do not call back any more, and close the descriptor."""
        self._loop.remove_reader(self._timer.fd)
        self._timer.close()


class LoopTimer:
    """A timer on the event loop's own timers, up to 1 ms late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._loop = loop
        self._on_due = on_due
        self._handle: asyncio.TimerHandle | None = None

    def set(self, due_ns: int | None) -> None:
        """Call back at `due_ns`; the loop's clock is the monotonic one."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None if due_ns is None else self._loop.call_at(due_ns / NS_PER_S, self._on_due)

    def close(self) -> None:
        """Do not call back any more."""
        self.set(None)


BLOCK_TOKENS: Final = 16
"""As in vLLM, which shares KV cache between requests in blocks of 16 tokens."""


class PrefixCache:
    """
    Remembers whole blocks of prompt tokens and drops the least recently used first.

    A block is known by all tokens up to its end. `tokens` is the cache's capacity. As in vLLM, a prompt's last token is
    always computed.
    """

    def __init__(self, tokens: int) -> None:
        self._max_blocks = tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def take(self, token_text: bytes) -> int:
        """Return how many of the first tokens are cached, and cache the prompt; `token_text` is 4 bytes a token."""
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
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)
        never_all = (len(token_text) // BYTES_PER_TOKEN - 1) // BLOCK_TOKENS
        return min(cached, never_all) * BLOCK_TOKENS


FAULT_MESSAGE = "The simulated engine broke, as it was asked to."
BAD_CHUNK_SIZE = b"zz\r\n"


class AfterToken(Enum):
    """What follows a written token."""

    MORE = 1
    ENDED = 2
    STALLED = 3


class Generation:
    """A request from its arrival to its last byte; `tokens` are written so far, a fault strikes at `break_after`."""

    __slots__ = (
        *(
            "admitted_ns",
            "arrived_ns",
            "order",
            "parsed",
            "break_after",
            "chunk_ns",
            "connection",
            "fault",
            "finish",
            "first_due_ns",
        ),
        *("first_write_ns", "format", "last_write_ns", "max_late_ns", "output_tokens", "request", "stream"),
        *("metered", "status", "tokens", "totals"),
    )

    def __init__(
        self,
        request: ReceivedRequest,
        connection: ServerConnection,
        parsed: ParsedRequest,
        answer_format: AnswerFormat,
        fault: str | None,
        totals: EngineTotals,
    ) -> None:
        self.request = request
        self.arrived_ns = request.received_ns
        """When it reached the engine: later than it was received, behind a slow proxy."""
        self.order = -1
        """Of its entry in the schedule; an entry of another order is no longer its own."""
        self.connection = connection
        self.parsed = parsed
        self.format = answer_format
        self.fault = fault
        self.totals = totals
        self.stream = parsed.stream and fault != "not_streamed"
        self.output_tokens = parsed.output_tokens
        self.break_after = -(-parsed.output_tokens // 2) if fault in MID_ANSWER_FAULTS else -1
        self.status = None if fault == "stall_first" else 200
        self.tokens = 0
        self.finish: str | None = None
        self.admitted_ns: int | None = None
        self.first_due_ns: int | None = None
        self.first_write_ns: int | None = None
        self.last_write_ns: int | None = None
        self.max_late_ns = 0
        self.chunk_ns: list[int] | None = None
        self.metered = False
        """Whether the answer ends with the request's own times."""

    def open(self) -> None:
        """Write the response head of a stream at once, as vLLM does, unless the fault allows no byte."""
        if self.stream and self.fault != "stall_first":
            self.connection.begin_stream(self.request)

    def emit(self, due_ns: int) -> AfterToken:
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
            self.connection.reply(self.request, 200, self.format.complete())
        if not last:
            return AfterToken.MORE
        self.finish = "length" if self.parsed.truncated else "stop"
        if self.stream:
            self.connection.end_reply(self.request)
        return AfterToken.ENDED

    def _streamed(self, k: int, last: bool) -> bytes:
        data = self.format.token(k)
        if k == 0:
            data = self.format.opening() + data
        return data + self.format.closing(self._metrics()) if last else data

    def _metrics(self) -> dict[str, float] | None:
        """Return the request's own times in vLLM's words; TTFT begins there once it is admitted, as in vLLM 0.32."""
        admitted_ns, first_ns, last_ns = self.admitted_ns, self.first_write_ns, self.last_write_ns
        if not self.metered or admitted_ns is None or first_ns is None or last_ns is None:
            return None
        return {
            "time_to_first_token_ms": (first_ns - admitted_ns) / NS_PER_MS,
            "generation_time_ms": (last_ns - first_ns) / NS_PER_MS,
            "queue_time_ms": (admitted_ns - self.arrived_ns) / NS_PER_MS,
        }

    def _count(self, due_ns: int, written_ns: int) -> None:
        totals = self.totals
        totals.generation_tokens += 1
        if self.last_write_ns is None:
            self.first_due_ns = due_ns
            self.first_write_ns = written_ns
            totals.prompt_tokens += self.parsed.prompt_tokens
            totals.ttft.add(written_ns - self.arrived_ns)
        else:
            totals.itl.add(written_ns - self.last_write_ns)
        self.last_write_ns = written_ns
        if written_ns - due_ns > self.max_late_ns:
            self.max_late_ns = written_ns - due_ns
        if self.chunk_ns is not None:
            self.chunk_ns.append(written_ns)

    def _break(self, k: int) -> AfterToken:
        """Let the fault strike with token k."""
        connection, request, fault = self.connection, self.request, self.fault
        if fault in ("error_event", "no_finish") and not self.stream:
            connection.reply(request, 500, error_body(self.parsed.api, 500, "InternalServerError", FAULT_MESSAGE))
            self.status = 500
        elif self.stream:
            connection.write(self._streamed(k, False) + self._broken_tail())
        else:
            connection.begin_broken(request, self.format.complete(), chunked=fault == "malformed_chunk")
        if fault == "stall":
            return AfterToken.STALLED
        self.finish = "error"
        if fault == "reset":
            connection.reset()
        elif fault in ("early_close", "malformed_chunk"):
            connection.close()
        elif self.stream:
            connection.end_reply(request)
        return AfterToken.ENDED

    def _broken_tail(self) -> bytes:
        if self.fault == "error_event":
            return self.format.error(FAULT_MESSAGE)
        return {"no_finish": BODY_END, "malformed_chunk": BAD_CHUNK_SIZE + http_chunk(b"data: ")}.get(
            str(self.fault), b""
        )

    def truth_line(self) -> dict[str, Any]:
        """Return the request's line of the truth log."""
        line = {
            **self.request.truth_fields(),
            "stream": self.parsed.stream,
            "status": self.status,
            "prompt_tokens": self.parsed.prompt_tokens,
            "cached_tokens": self.parsed.cached_tokens,
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
    Continuous batching: at most `slots` requests run, the others wait first in, first out.

    One heap has the next token of each running request, and one timer is set to the earliest: no task per request. A
    slot is free from when its last token was due, not from when it was written, so lateness never adds up.
    """

    def __init__(
        self, settings: SimulationSettings, loop: asyncio.AbstractEventLoop, on_ended: Callable[[Generation], None]
    ) -> None:
        self._settings = settings
        self._on_ended = on_ended
        self._timer = wake_timer(loop, self._write_due)
        self._due: list[tuple[int, int, Generation]] = []
        self._order = count()
        self._running: set[Generation] = set()
        self._waiting: deque[Generation] = deque()
        self._gap_ns = 0

    def submit(self, generation: Generation) -> None:
        """Run the request if a slot is free, else queue it."""
        if len(self._running) < self._settings.slots and self._has_room_for(generation):
            self._admit(generation, generation.arrived_ns)
            self._set_timer()
        else:
            self._waiting.append(generation)

    def abort(self, generation: Generation) -> None:
        """End the request because its client disconnected; its slot goes to the next."""
        if generation.finish is not None:
            return
        generation.finish = "abort"
        if generation in self._running:
            self._release(generation, monotonic_ns())
            self._set_timer()
        else:
            self._waiting.remove(generation)
            self._on_ended(generation)

    def gauges(self) -> BatchGauges:
        """Return running and waiting requests, and tokens of running requests / kv_cache_tokens."""
        usage = min(1.0, self._held_tokens() / self._settings.kv_cache_tokens)
        return BatchGauges(len(self._running), len(self._waiting), usage)

    def close(self) -> None:
        """End all running and waiting requests."""
        for generation in [*self._waiting, *self._running]:
            self.abort(generation)
        self._timer.close()

    def _held_tokens(self) -> int:
        return sum(generation.parsed.prompt_tokens + generation.tokens for generation in self._running)

    def _has_room_for(self, generation: Generation) -> bool:
        """Return whether the KV cache can take the request's prompt and its next token; it always takes one request."""
        if not self._settings.keeps_kv_cache or not self._running:
            return True
        needed = generation.parsed.prompt_tokens + generation.tokens + 1
        return self._held_tokens() + needed <= self._settings.kv_cache_tokens

    def _preempt(self) -> None:
        """Put back the youngest requests until the KV cache holds the tokens of the others."""
        while len(self._running) > 1 and self._held_tokens() > self._settings.kv_cache_tokens:
            youngest = max(self._running, key=lambda generation: generation.order)
            self._running.discard(youngest)
            youngest.order = -1
            youngest.totals.preemptions += 1
            self._waiting.appendleft(youngest)

    def _admit(self, generation: Generation, free_ns: int) -> None:
        begun_ns = max(free_ns, generation.arrived_ns)
        generation.admitted_ns = generation.admitted_ns or begun_ns
        self._running.add(generation)
        self._gap_ns = gap_ns(self._settings, len(self._running))
        if generation.fault != "stall_first":
            parsed = generation.parsed
            to_compute = parsed.prompt_tokens + generation.tokens - (parsed.cached_tokens or 0)
            generation.order = next(self._order)
            due_ns = begun_ns + ttft_ns(self._settings, to_compute)
            heappush(self._due, (due_ns, generation.order, generation))

    def _release(self, generation: Generation, free_ns: int) -> None:
        self._running.discard(generation)
        self._gap_ns = gap_ns(self._settings, len(self._running))
        while self._waiting and len(self._running) < self._settings.slots and self._has_room_for(self._waiting[0]):
            self._admit(self._waiting.popleft(), free_ns)
        self._on_ended(generation)

    def _write_due(self) -> None:
        """Write every token that is due now; sockets are read before those that become due meanwhile."""
        due = self._due
        now_ns = monotonic_ns()
        while due and due[0][0] <= now_ns:
            due_ns, order, generation = due[0]
            if generation.finish is not None or generation.order != order:
                heappop(due)
                continue
            step = generation.emit(due_ns)
            if step is AfterToken.MORE:
                heapreplace(due, (due_ns + self._gap_ns, order, generation))
                if self._settings.keeps_kv_cache:
                    self._preempt()
                continue
            heappop(due)
            if step is AfterToken.ENDED:
                self._release(generation, due_ns)
        self._set_timer()

    def _set_timer(self) -> None:
        self._timer.set(self._due[0][0] if self._due else None)
