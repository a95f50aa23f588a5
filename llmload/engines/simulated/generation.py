"""One request being answered: its next token, written and stamped."""

from enum import Enum
from time import monotonic_ns
from typing import Any

from llmload.engines.simulated.asked import Asked, error_body
from llmload.engines.simulated.connection import Connection, Request
from llmload.engines.simulated.faults import MID_ANSWER
from llmload.engines.simulated.formats import BODY_END, Format, http_chunk
from llmload.engines.simulated.metrics import EngineTotals

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
