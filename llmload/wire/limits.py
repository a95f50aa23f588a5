"""When an answer has taken too long."""

from dataclasses import dataclass
from typing import Final

from llmload.measure.record import NS_PER_S, ErrorType, RequestError
from llmload.wire.client import Timeouts
from llmload.wire.failure import request_error

FOREVER_NS: Final = 1 << 62


def ns(seconds: float | None) -> int:
    """Return a limit in nanoseconds; no limit is longer than any run."""
    return FOREVER_NS if seconds is None else int(seconds * NS_PER_S)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request; readings of the monotonic clock in ns."""

    timeouts: Timeouts
    started_ns: int
    stream: bool

    def next_check_ns(self, sent_ns: int) -> int:
        """Return the earliest moment at which any limit can pass, whatever arrives meanwhile."""
        total_ns = self.started_ns + ns(self.timeouts.total_s)
        if not self.stream:
            return total_ns
        token_ns = sent_ns + min(ns(self.timeouts.first_token_s), ns(self.timeouts.between_tokens_s))
        return min(total_ns, token_ns)

    def passed(
        self, now_ns: int, sent_ns: int, last_chunk_ns: int | None, *, stream: bool
    ) -> tuple[int, RequestError | None]:
        """
        Return when to look again, and the error of a limit that has passed by now.

        `stream` says whether the answer comes in chunks: one in a single piece has no first token to wait for.
        """
        timeouts = self.timeouts
        limits_ns = {ErrorType.TOTAL_TIMEOUT: (self.started_ns + ns(timeouts.total_s), timeouts.total_s)}
        if stream and last_chunk_ns is None:
            limits_ns[ErrorType.FIRST_TOKEN_TIMEOUT] = (sent_ns + ns(timeouts.first_token_s), timeouts.first_token_s)
        elif stream and last_chunk_ns is not None:
            quiet_ns = last_chunk_ns + ns(timeouts.between_tokens_s)
            limits_ns[ErrorType.BETWEEN_TOKENS_TIMEOUT] = (quiet_ns, timeouts.between_tokens_s)
        kind, (limit_ns, limit_s) = min(limits_ns.items(), key=lambda item: item[1][0])
        if now_ns < limit_ns:
            return limit_ns, None
        return limit_ns, request_error(kind, f"{kind.value}: nothing within {limit_s} s")
