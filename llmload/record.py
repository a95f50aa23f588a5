"""
One request as facts, the window that a run measures, and the limits of a good request.

A record has clock readings and counts; every metric is derived from them here, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from llmload.units import NS_PER_S

METRICS_VERSION: Final = 1
"""Raised when a metric's formula changes: figures of two versions cannot be compared."""

StampArray = npt.NDArray[np.int64]

NO_CHUNKS: Final[StampArray] = np.empty(0, dtype=np.int64)
NO_CHUNKS.flags.writeable = False


class ErrorType(StrEnum):
    """Why a request failed: a closed set, so it can be a Prometheus label; `RequestError.message` has the details."""

    DNS = "dns"
    CONNECT_REFUSED = "connect_refused"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_FAILED = "connect_failed"
    NO_DESCRIPTOR = "no_descriptor"
    TLS = "tls"
    FIRST_TOKEN_TIMEOUT = "first_token_timeout"  # noqa: S105 - a kind of error, not a password
    BETWEEN_TOKENS_TIMEOUT = "between_tokens_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    RESET = "reset"
    INCOMPLETE = "incomplete_stream"
    ENGINE_ERROR = "engine_error"
    ABORTED = "engine_aborted"
    RATE_LIMITED = "rate_limited"
    HTTP_CLIENT_ERROR = "http_4xx"
    HTTP_SERVER_ERROR = "http_5xx"
    HTTP_UNEXPECTED = "http_unexpected_status"
    PROTOCOL = "malformed_http"
    NOT_JSON = "not_json"
    CONTENT_TYPE = "wrong_content_type"
    UNKNOWN_TEXT = "unknown_text"
    TOO_LARGE = "answer_too_large"
    CLIENT = "client_bug"


class TokenSource(StrEnum):
    """How output tokens were counted."""

    USAGE = "usage"  # the engine's usage object
    DETAILS = "details"  # TGI's `details.generated_tokens`
    CHUNK_USAGE = "chunk_usage"  # usage on every chunk, of an answer that was cut before the last
    USAGE_PLUS_REASONING = "usage_plus_reasoning"  # completion_tokens + reasoning_tokens, which it leaves out
    USAGE_TOTAL = "usage_total"  # total_tokens - prompt_tokens: the chunks disprove completion_tokens
    USAGE_DISPUTED = "usage_disputed"  # completion_tokens, although total_tokens is not the sum of its parts
    CHUNKS = "chunks"  # chunks with text, counted by llmload: an engine may put several tokens in one
    CHUNKS_OVER_USAGE = "chunks_over_usage"  # the same: they disprove the engine's count, which is smaller
    NONE = "none"  # unknown


class ReasoningSource(StrEnum):
    """How reasoning tokens were counted."""

    USAGE = "usage"  # the engine's usage object
    CHUNK_USAGE = "chunk_usage"  # usage on every chunk, summed over chunks of reasoning
    CHUNKS = "chunks"  # estimated: as large a part of the output tokens as of the chunks with text


CONTRADICTED: Final = frozenset({TokenSource.USAGE_TOTAL, TokenSource.USAGE_DISPUTED, TokenSource.CHUNKS_OVER_USAGE})
"""The sources of a count that contradicts another, of the engine or of llmload."""

FINISH_REASONS: Final = frozenset(
    (
        *("stop", "length", "tool_calls", "function_call", "content_filter", "eos_token", "eos"),
        *("stop_sequence", "end_turn", "max_tokens", "tool_use", "abort", "cancelled", "timeout", "error"),
        *("other",),
    )
)
"""How an engine says that an answer ended: OpenAI's words and TGI's, four for failures, and `other` for the rest."""


class StampSource(StrEnum):
    """Which clock reading became a chunk's time stamp."""

    PACKET = "packet"  # the kernel's packet ring: correct however late the process looked and read
    KERNEL = "kernel"  # SO_TIMESTAMPING: correct however late the process read, while segments are read one by one
    USER = "user"  # the process's own, taken after it read: late by its scheduling delay
    NONE = "none"  # nothing arrived


ENGINE: Final = "engine"
CLIENT: Final = "client"
BULK_READS_S: Final = 0.250
"""The longest time between two reads of a socket whose stamps are the packet ring's."""
RESET_BY: Final = frozenset((ENGINE, CLIENT))
"""Who may have reset a connection."""
AT_ONCE: Final = "at_once"
AFTER_ACKNOWLEDGEMENT: Final = "after_acknowledgement"
ENGINE_WRITES: Final = frozenset((AT_ONCE, AFTER_ACKNOWLEDGEMENT))
"""When an engine's TCP sends small writes: the latter is Nagle's algorithm, which delays them."""


class Outcome(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CENSORED = "censored"  # cut by the end of the run or the stop of its user, not by the engine


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestError:
    """Why a request failed; `http_status` and `retry_after_s` are None where the engine gave none."""

    type: ErrorType
    message: str
    http_status: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)  # no slots: cached_property needs __dict__
class RequestRecord:
    """
    What one request did: readings of CLOCK_MONOTONIC in nanoseconds, token counts, and how it ended.

    None is unknown, 0 is zero. `started_ns` is when the request was due to be written, so the time to open a connection
    counts; `done_ns` is the last byte of the answer, or the moment of failure. `chunk_ns` has the arrival of each chunk
    with text (content, reasoning, a refusal, a tool call), `chunk_tokens` its tokens, where the engine counts them.
    `finish_reason` is one of `FINISH_REASONS`.
    `textless_ns` has the arrivals of other chunks with choices (the role, the finish), which some tools count; None
    where they were not recorded.
    """

    request_id: str
    prompt_id: str
    started_ns: int
    done_ns: int
    outcome: Outcome
    name: str | None = None  # what tables by name call it; None where requests have no names
    stage: str | None = None
    scheduled_ns: int | None = None
    connected_ns: int | None = None  # None: a kept-alive connection was reused, or none could be opened
    sent_ns: int | None = None
    chunk_ns: StampArray = field(default_factory=lambda: NO_CHUNKS)
    chunk_tokens: StampArray | None = None
    textless_ns: StampArray | None = None
    asked_prompt_tokens: int | None = None  # that the prompt was to have, by the engine's count; None: not asked
    asked_output_tokens: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None  # a part of the output tokens
    reasoning_source: ReasoningSource | None = None  # None where nothing was thought, or it was not counted
    reasoning_chunks: int = 0
    first_answer_ns: int | None = None  # first chunk with text that is not reasoning; only where some chunk is
    engine_queue_s: float | None = None  # by the engine's own account: it waited, its prompt was computed, then its
    engine_prefill_s: float | None = None  # tokens after the first
    engine_decode_s: float | None = None
    drafts: int | None = None  # steps of speculative decoding
    draft_tokens: int | None = None  # tokens drafted in them
    accepted_tokens: int | None = None  # those of them that the model took
    token_source: TokenSource = TokenSource.NONE
    finish_reason: str | None = None
    error: RequestError | None = None
    stamp_source: StampSource = StampSource.NONE
    wire_sent_ns: int | None = None  # its last segment left, by the packet ring
    rtt_s: float | None = None  # from then until it was acknowledged, or that of the connection's opening if shorter
    retransmissions: int | None = None  # segments that were sent again, of the request and the answer
    late_segments: int | None = None  # of the answer, that came after later ones: lost once, or overtaken
    engine_closed_windows: int | None = None  # times that the engine's host took no more bytes
    client_closed_windows: int | None = None  # the same of this host
    missed_bytes: int | None = None  # of the answer, whose segments the ring missed: stamped after they were read
    reset_by: str | None = None  # `engine` or `client`, where one of them reset the connection
    engine_writes: str | None = None  # one of `ENGINE_WRITES`; None until streams were compared
    body_bytes: int = 0  # of the answer, as they came; for Locust's tables, so not in the request files
    reconnects: int = 0
    retries: int = 0

    @property
    def ok(self) -> bool:
        """Whether a complete answer came."""
        return self.outcome is Outcome.COMPLETED

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: first chunk with text - start."""
        return (int(self.chunk_ns[0]) - self.started_ns) / NS_PER_S if len(self.chunk_ns) else None

    @property
    def ttfa_s(self) -> float | None:
        """Time to first answer: first chunk with text that is not reasoning - start; TTFT if no chunk is reasoning."""
        if not self.reasoning_chunks:
            return self.ttft_s
        return None if self.first_answer_ns is None else (self.first_answer_ns - self.started_ns) / NS_PER_S

    @property
    def ttft_rest_s(self) -> float | None:
        """TTFT - the engine's queue and prefill: network, proxies, tokenising; the queue too where it is not known."""
        if self.engine_prefill_s is None or not len(self.chunk_ns):
            return None
        arrived_s = (int(self.chunk_ns[0]) - self.started_ns) / NS_PER_S
        return arrived_s - self.engine_prefill_s - (self.engine_queue_s or 0.0)

    @property
    def thinking_s(self) -> float | None:
        """First chunk of the answer - first chunk with text; None where no chunk is reasoning, or no answer came."""
        if self.first_answer_ns is None or not len(self.chunk_ns):
            return None
        return (self.first_answer_ns - int(self.chunk_ns[0])) / NS_PER_S

    @property
    def answer_tpot_s(self) -> float | None:
        """
        Time per output token of the answer: (last - first chunk of it) / (its tokens - 1); None below 2 of them.

        Only of answers with reasoning, which must all be before the answer.
        """
        if self.first_answer_ns is None or self.output_tokens is None or self.reasoning_tokens is None:
            return None
        tokens, answer_ns = self.output_tokens - self.reasoning_tokens, self.chunk_ns[self.reasoning_chunks :]
        if tokens < 2 or not len(answer_ns) or answer_ns[0] != self.first_answer_ns:
            return None
        return int(answer_ns[-1] - answer_ns[0]) / NS_PER_S / (tokens - 1)

    @property
    def hides_reasoning(self) -> bool:
        """Whether the engine counted reasoning and sent none of it, so that TTFT contains it."""
        return bool(self.reasoning_tokens) and not self.reasoning_chunks and bool(len(self.chunk_ns))

    @property
    def only_reasoning(self) -> bool:
        """Whether it ended without a chunk of an answer."""
        return bool(self.reasoning_chunks) and self.first_answer_ns is None

    @property
    def ttft_wire_s(self) -> float | None:
        """First chunk with text - departure of the request's last segment: TTFT without the client's own delay."""
        if self.wire_sent_ns is None or not len(self.chunk_ns):
            return None
        return (int(self.chunk_ns[0]) - self.wire_sent_ns) / NS_PER_S

    @property
    def departure_delay_s(self) -> float | None:
        """
        Departure of the request - start, or the opening of its new connection: what the client took.

        A long request counts as departed once it is written: the rest waits for the network. None for one that was sent
        again after a pause.
        """
        if self.wire_sent_ns is None or self.retries:
            return None
        departed_ns = self.wire_sent_ns if self.sent_ns is None else min(self.wire_sent_ns, self.sent_ns)
        return max(0, departed_ns - (self.connected_ns or self.started_ns)) / NS_PER_S

    @property
    def itl_s(self) -> npt.NDArray[np.float64]:
        """Inter-token latencies: every gap between neighbouring chunks with text."""
        return self.chunk_gaps_ns[1:] / NS_PER_S

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: (last - first chunk with text) / (output tokens - 1); None below 2 tokens."""
        if self.output_tokens is None or self.output_tokens < 2 or len(self.chunk_ns) < 2:
            return None
        return int(self.chunk_ns[-1] - self.chunk_ns[0]) / NS_PER_S / (self.output_tokens - 1)

    @property
    def e2e_s(self) -> float:
        """End-to-end latency: last byte of the answer (or failure) - start."""
        return (self.done_ns - self.started_ns) / NS_PER_S

    @property
    def output_tokens_per_s(self) -> float | None:
        """Speed of one request: output tokens / full round trip; None unless a complete answer with a count came."""
        if not self.ok or self.output_tokens is None or self.done_ns <= self.started_ns:
            return None
        return self.output_tokens / self.e2e_s

    @property
    def schedule_lag_s(self) -> float | None:
        """How late the request was sent: start - scheduled; None in a closed loop."""
        return None if self.scheduled_ns is None else (self.started_ns - self.scheduled_ns) / NS_PER_S

    @property
    def ttft_from_schedule_s(self) -> float | None:
        """First chunk with text - scheduled: TTFT without coordinated omission; None in a closed loop."""
        return None if self.schedule_lag_s is None or self.ttft_s is None else self.ttft_s + self.schedule_lag_s

    @property
    def e2e_from_schedule_s(self) -> float | None:
        """Last byte - scheduled: e2e latency without coordinated omission; None in a closed loop."""
        return None if self.schedule_lag_s is None else self.e2e_s + self.schedule_lag_s

    @property
    def chunks(self) -> int:
        """Chunks with text."""
        return len(self.chunk_ns)

    @cached_property
    def coalesced_chunks(self) -> int:
        """Chunks with text that share a read, and so its stamp, with the chunk before them."""
        return 0 if self.stamp_source is StampSource.PACKET else self._chunks_without_gap

    @property
    def same_segment_chunks(self) -> int:
        """Chunks with text that came in one TCP segment with the chunk before them, so truly at the same moment."""
        return self._chunks_without_gap if self.stamp_source is StampSource.PACKET else 0

    @cached_property
    def _chunks_without_gap(self) -> int:
        gaps_ns = self.chunk_gaps_ns[1:]
        return len(gaps_ns) - int(np.count_nonzero(gaps_ns))

    @property
    def shares_first_read(self) -> bool:
        """Whether the first chunk with text was read together with the second, so that TTFT is the second's."""
        return bool(self.coalesced_chunks) and bool(self.chunk_ns[0] == self.chunk_ns[1])

    @cached_property
    def chunk_gaps_ns(self) -> StampArray:
        """Start to first chunk, then chunk to chunk, in nanoseconds: small numbers, so short lines."""
        return _gaps_ns(self.started_ns, self.chunk_ns)

    @property
    def textless_gaps_ns(self) -> StampArray | None:
        """The same of chunks without text; None where they were not recorded."""
        return None if self.textless_ns is None else _gaps_ns(self.started_ns, self.textless_ns)


def _gaps_ns(started_ns: int, stamps_ns: StampArray) -> StampArray:
    gaps_ns = stamps_ns.copy()
    gaps_ns[:1] -= started_ns
    gaps_ns[1:] -= stamps_ns[:-1]
    return gaps_ns


def stamps_of(started_ns: int, chunk_gaps_ns: Sequence[int]) -> StampArray:
    """Return the stamps that `RequestRecord.chunk_gaps_ns` was made of."""
    return started_ns + np.cumsum(np.array(chunk_gaps_ns, dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """
    The part of a run that is measured, ends included; warm-up, ramp and drain are outside.

    Both ends are readings of one clock: CLOCK_MONOTONIC in a running process, time since the run's start in a report.
    `start_ns` is None until the window opens, `end_ns` until it closes.
    """

    start_ns: int | None
    end_ns: int | None = None

    @property
    def length_s(self) -> float | None:
        """How long the window is; None unless it has opened, closed, and is not empty."""
        if self.start_ns is None or self.end_ns is None or self.end_ns <= self.start_ns:
            return None
        return (self.end_ns - self.start_ns) / NS_PER_S

    @property
    def start_s(self) -> float | None:
        """The start, in seconds."""
        return None if self.start_ns is None else self.start_ns / NS_PER_S

    @property
    def end_s(self) -> float | None:
        """The end, in seconds."""
        return None if self.end_ns is None else self.end_ns / NS_PER_S

    def overlap_s(self, from_ns: int, to_ns: int) -> float:
        """Return how much of a span of time is in the window, in seconds."""
        if self.start_ns is None:
            return 0.0
        end_ns = to_ns if self.end_ns is None else min(to_ns, self.end_ns)
        return max(0, end_ns - max(from_ns, self.start_ns)) / NS_PER_S

    def contains(self, moment_ns: int) -> bool:
        """Return whether the moment is in the window."""
        if self.start_ns is None or moment_ns < self.start_ns:
            return False
        return self.end_ns is None or moment_ns <= self.end_ns

    def which(self, moments_ns: StampArray) -> npt.NDArray[np.bool_]:
        """Return which of the moments are in the window."""
        if self.start_ns is None:
            return np.zeros(len(moments_ns), dtype=np.bool_)
        inside = moments_ns >= self.start_ns
        return inside if self.end_ns is None else inside & (moments_ns <= self.end_ns)


@dataclass(frozen=True, kw_only=True)  # no slots: cached_property needs __dict__
class Slo:
    """Limits of a good request, in seconds; None: no limit."""

    ttft_s: float | None = None
    ttfa_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @cached_property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by the record's attribute."""
        return {each.name: limit for each in fields(self) if (limit := getattr(self, each.name)) is not None}

    def met_by(self, record: RequestRecord) -> bool:
        """Return whether a complete answer came and met every limit; an unknown metric does not meet one."""
        if not record.ok:
            return False
        for name, limit in self.limits.items():
            measured: float | None = getattr(record, name)
            if measured is None:
                if name == "tpot_s" and record.output_tokens is not None and record.output_tokens < 2:
                    continue  # an answer of one token has no TPOT to limit
                return False
            if measured > limit:
                return False
        return True
