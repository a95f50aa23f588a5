"""One try at a request, and how tries become a record."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import gevent
from gevent import GreenletExit

from llmload.client.answer import StreamState
from llmload.client.errors import AttemptError, request_error, without_secrets
from llmload.record import ErrorType, Outcome, RequestError, RequestRecord, StampSource

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 8.0
_AGAIN: Final = frozenset(
    {
        ErrorType.DNS,
        ErrorType.CONNECT_REFUSED,
        ErrorType.CONNECT_TIMEOUT,
        ErrorType.CONNECT_FAILED,
        ErrorType.FIRST_TOKEN_TIMEOUT,
        ErrorType.BETWEEN_TOKENS_TIMEOUT,
        ErrorType.RESET,
        ErrorType.INCOMPLETE,
        ErrorType.ENGINE_ERROR,
        ErrorType.RATE_LIMITED,
        ErrorType.HTTP_SERVER_ERROR,
        ErrorType.PROTOCOL,
    }
)
"""Failures that another try may mend."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the caller says of a request, and when it was due."""

    request_id: str
    prompt_id: str
    stage: str | None
    scheduled_ns: int | None
    started_ns: int


@dataclass(slots=True, kw_only=True)
class Attempt:
    """What one try came to, filled in as it goes; readings of the monotonic clock in ns."""

    answer: StreamState
    connected_ns: int | None = None
    sent_ns: int | None = None
    done_ns: int | None = None
    reconnects: int = 0
    stamp_source: StampSource = StampSource.NONE
    error: RequestError | None = None
    censored: bool = False


def send_with_retries(
    request: Request,
    new_answer: Callable[[], StreamState],
    send: Callable[[Attempt], None],
    *,
    retries: int,
    secrets: Iterable[str],
) -> RequestRecord:
    """
    Send the request until it succeeds, at most `retries` times again, and return its record.

    `send` fills in the attempt, and raises `AttemptError` or whatever killed its wait. A retry waits as long as
    the engine asked for, or else half a second and twice as long each time; at most 8 s.
    """
    retried = reconnects = 0
    while True:
        attempt = Attempt(answer=new_answer())
        _try(attempt, send)
        reconnects += attempt.reconnects
        again = attempt.error is not None and attempt.error.type in _AGAIN and retried < retries
        if attempt.censored or not again or not _pause(attempt, retried):
            break
        retried += 1
    attempt.reconnects = reconnects
    if attempt.error is not None:
        attempt.error = without_secrets(attempt.error, secrets)
    return _record(request, attempt, retried)


def _try(attempt: Attempt, send: Callable[[Attempt], None]) -> None:
    try:
        send(attempt)
    except AttemptError as failure:
        attempt.error = failure.error
    except (GreenletExit, gevent.Timeout):
        attempt.censored = True
    except Exception as bug:
        _logger.exception("a request failed in the client itself")
        attempt.error = request_error(ErrorType.CLIENT, repr(bug))


def _pause(attempt: Attempt, retried: int) -> bool:
    """Wait before the next try; return whether there is to be one."""
    asked_s = attempt.error.retry_after_s if attempt.error is not None else None
    pause_s = _FIRST_PAUSE_S * 2**retried if asked_s is None else asked_s
    try:
        gevent.sleep(min(pause_s, _LONGEST_PAUSE_S))
    except (GreenletExit, gevent.Timeout):
        attempt.censored = True
        attempt.done_ns = time.monotonic_ns()
    return not attempt.censored


def _record(request: Request, attempt: Attempt, retried: int) -> RequestRecord:
    answer = attempt.answer
    counts = answer.counts()
    outcome = Outcome.COMPLETED if attempt.error is None else Outcome.FAILED
    if attempt.censored:
        outcome = Outcome.CENSORED
    return RequestRecord(
        request_id=request.request_id,
        prompt_id=request.prompt_id,
        stage=request.stage,
        scheduled_ns=request.scheduled_ns,
        started_ns=request.started_ns,
        connected_ns=attempt.connected_ns,
        sent_ns=attempt.sent_ns,
        done_ns=time.monotonic_ns() if attempt.done_ns is None else attempt.done_ns,
        outcome=outcome,
        chunk_ns=answer.stamps(),
        chunk_tokens=answer.chunk_tokens(),
        textless_ns=answer.textless_stamps(),
        prompt_tokens=counts.prompt,
        output_tokens=counts.output,
        cached_tokens=counts.cached,
        reasoning_tokens=counts.reasoning,
        token_source=counts.source,
        finish_reason=answer.finish_reason,
        error=None if attempt.censored else attempt.error,
        stamp_source=attempt.stamp_source,
        reconnects=attempt.reconnects,
        retries=retried,
    )
