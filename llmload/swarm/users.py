"""Locust users that chat."""

from locust import User, task

from typing import Any, ClassVar, Final

import gevent
from gevent import GreenletExit

from llmload.measure.record import ErrorType, RequestRecord
from llmload.swarm.run import Run
from llmload.swarm.session import censored

REST_S: Final = 3600.0
ABSENT: Final = frozenset({ErrorType.DNS, ErrorType.CONNECT_REFUSED, ErrorType.CONNECT_FAILED, ErrorType.TLS})
ABSENT_PAUSE_S: Final = 1.0
"""An engine that is not there is asked once a second by each user: no pause would only fill the disk with failures."""


class RequestFailedError(Exception):
    """How Locust's tables name a failed request: its type, and the status where there is one."""


class ChatUser(User):
    """One request in flight at a time: the next prompt is sent when the last answer is complete."""

    abstract = True
    run_of_llmload: ClassVar[Run]
    request_name: ClassVar[str] = "chat"

    def wait_time(self) -> float:
        """Return how long to think before the next conversation, in seconds."""
        session = self.run_of_llmload.session
        return 0.0 if session is None else session.scenario.load.think_time_s

    @task
    def chat(self) -> None:
        """Hold one conversation: its requests one after the other."""
        session = self.run_of_llmload.session
        conversation = None if session is None else session.next_conversation()
        if session is None or conversation is None:
            gevent.sleep(REST_S)  # nothing left to send: rest until the run ends
            return
        for prompt in conversation.prompts:
            record = session.send(prompt, self._count)
            if record is None:
                return
            if censored(record):
                raise GreenletExit
            if record.error is not None and record.error.type in ABSENT:
                gevent.sleep(ABSENT_PAUSE_S)
            if not record.ok:
                return  # the turns after a lost answer would not be what a user sends

    def _count(self, record: RequestRecord) -> None:
        error: Exception | None = None
        if record.error is not None:
            kind, status = record.error.type.value, record.error.http_status
            error = RequestFailedError(kind if status is None else f"{kind} ({status})")
        context: dict[str, Any] = {"record": record}
        self.environment.events.request.fire(
            request_type="LLM",
            name=self.request_name,
            response_time=record.e2e_s * 1000,
            response_length=record.output_tokens or 0,
            exception=error,
            context=context,
            response=None,
        )
