"""Time limits around a call that waits: what a client needs that does not see its own sockets."""

import time
from typing import Any

import gevent

from llmload.measure.record import ErrorType, RequestError
from llmload.wire.answer import Answer
from llmload.wire.failure import AttemptError, request_error
from llmload.wire.limits import Limits


class Alarm:
    """A request's time limits around whatever it waits for: `with alarm:` raises `AttemptError` when one passes."""

    def __init__(self, limits: Limits, answer: Answer) -> None:
        self._limits = limits
        self._answer = answer
        self._sent_ns = time.monotonic_ns()
        self._timer: Any = None

    def __enter__(self) -> None:
        now_ns = time.monotonic_ns()
        limit_ns, _ = self._passed(now_ns)
        self._timer = gevent.Timeout.start_new((limit_ns - now_ns) / 1e9)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._timer.close()
        if error is not None and error is self._timer:
            _, passed = self._passed(time.monotonic_ns() + 1_000_000_000)
            raise AttemptError(passed or request_error(ErrorType.TOTAL_TIMEOUT, "a time limit passed")) from None

    def _passed(self, now_ns: int) -> tuple[int, RequestError | None]:
        chunk_ns = self._answer.chunk_ns
        last_ns = chunk_ns[-1] if chunk_ns else None
        return self._limits.passed(now_ns, self._sent_ns, last_ns, stream=self._limits.stream)
