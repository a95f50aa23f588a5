"""One conversation held, and what Locust hears of its requests."""

from locust.env import Environment

from collections.abc import Callable
from typing import Final

import gevent
from gevent import GreenletExit

from llmload.measure.record import ErrorType, Outcome, RequestRecord
from llmload.swarm.session import Session
from llmload.workload.conversation import Conversation

ABSENT: Final = frozenset({ErrorType.DNS, ErrorType.CONNECT_REFUSED, ErrorType.CONNECT_FAILED, ErrorType.TLS})
ABSENT_PAUSE_S: Final = 1.0
"""An engine that is not there is asked once a second by each user: no pause would only fill the disk with failures."""


class RequestFailedError(Exception):
    """How Locust's tables name a failed request: its type, and the status where there is one."""


def hold(
    conversation: Conversation, session: Session, count: Callable[[RequestRecord], None], due_ns: int | None = None
) -> None:
    """
    Send the conversation's requests one after the other, each when the last is answered.

    `due_ns` is when the first was due. GreenletExit when a request was cut, so that its greenlet ends.
    """
    for prompt in conversation.prompts:
        record = session.send(prompt, count, due_ns)
        if record is None:
            return
        if record.outcome is Outcome.CENSORED:
            raise GreenletExit
        if not record.ok:
            if due_ns is None and record.error is not None and record.error.type in ABSENT:
                gevent.sleep(ABSENT_PAUSE_S)
            return  # the turns after a lost answer would not be what a user sends
        due_ns = None


def tell_locust(environment: Environment, name: str, record: RequestRecord) -> None:
    """Fire Locust's `request` event, the hinge between sending and counting; its unit is milliseconds."""
    error: Exception | None = None
    if record.error is not None:
        kind, status = record.error.type.value, record.error.http_status
        error = RequestFailedError(kind if status is None else f"{kind} ({status})")
    environment.events.request.fire(
        request_type="LLM",
        name=name,
        response_time=record.e2e_s * 1000,
        response_length=record.output_tokens or 0,
        exception=error,
        context={"record": record},
        response=None,
    )
