"""How late this process's event loop runs: the figure that tells a saturated load generator."""

from locust.env import Environment

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final

import gevent
from gevent import GreenletExit
from gevent.event import Event
from greenlet import greenlet

from llmload.client.client import ChatClient
from llmload.loadgen.phases import ConcurrencyLimit, StageTimeline, StepCommand, StepTimeline
from llmload.metrics.totals import RunTotals, Window
from llmload.prompts.conversation import Conversation, Prompt
from llmload.prompts.queue import PromptQueue, Salts
from llmload.record import ErrorType, Outcome, RequestRecord
from llmload.runs.folder import RequestLog
from llmload.scenario import Scenario
from llmload.scenario.loads import AnyLoad, Capacity, ClosedLoop, Staged
from llmload.units import MS_PER_S, NS_PER_S

# One process's part in a run: which prompts it sends, what is in flight, and what came of it.

ABORT_GRACE_S: Final = 5.0
"""How long cut requests may take to close their streams and leave their records."""
COUNTED_EVERY_S: Final = 0.05
_COUNTED_TOGETHER: Final = 16
"""What is at hand for one request is so for the next, and one write takes their lines."""
_COUNTED_IN_TIME: Final = 4
"""The same for an open loop: more would delay its arrivals."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShard:
    """Which part of the run this process takes: worker `index` of `count`."""

    index: int
    count: int

    @property
    def log_name(self) -> str:
        """The name of the file that this process appends its requests to."""
        return "requests.jsonl" if self.count == 1 else f"requests.worker-{self.index}.jsonl"

    def of(self, total: int | None) -> int | None:
        """Return this process's part of a number that all of them share; None stays None."""
        return None if total is None else total // self.count + (self.index < total % self.count)


class Span:
    """
    The judged part of a run, on this process's clock.

    A timed run's span opens when all users run and the warm-up has passed, and closes when the load ends. A counted
    run's span reaches from its first request to its last answer.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.start_ns = time.monotonic_ns()
        self._start_unix_s = time.time()
        searches = isinstance(scenario.load, Capacity)  # whose steps have windows of their own
        self._warmup_s = 0.0 if searches else scenario.load.warmup_s
        self._timed = scenario.load.duration_s is not None and not searches
        self._open_ns = None if self._timed or self._warmup_s else self.start_ns
        self._close_ns: int | None = None

    @property
    def window(self) -> Window:
        """The span, as far as it is known."""
        return Window(start_ns=self._open_ns, end_ns=self._close_ns)

    def open(self) -> None:
        """All users are running; only the first call counts."""
        if self._open_ns is None:
            self._open_ns = time.monotonic_ns() + round(self._warmup_s * NS_PER_S)

    def close(self) -> None:
        """The load has ended; only the first call counts."""
        if self._timed and self._close_ns is None:
            self._close_ns = time.monotonic_ns()

    def opened_unix_s(self, totals: RunTotals) -> float | None:
        """Return when the span began, as the wall clock has it; None where it has no length."""
        if self.length_s(totals) is None or self._open_ns is None:
            return None
        opened_s = (self._open_ns - self.start_ns) / NS_PER_S
        if not self._timed and totals.first_started_s is not None:
            opened_s = max(opened_s, totals.first_started_s)
        return self._start_unix_s + opened_s

    def length_s(self, totals: RunTotals) -> float | None:
        """Return how long the span is, or has been so far; None before it opens or a first request is sent."""
        if self._open_ns is None:
            return None
        if self._timed:
            length_s = ((self._close_ns or time.monotonic_ns()) - self._open_ns) / NS_PER_S
            return length_s if length_s > 0 else None
        first_s, last_s = totals.first_started_s, totals.last_done_s
        if first_s is None or last_s is None:
            return None
        return last_s - max(first_s, (self._open_ns - self.start_ns) / NS_PER_S)


def clock_of(load: AnyLoad, start_ns: int) -> StageTimeline | StepTimeline | None:
    """Return the clock of a load that is judged part by part; None where it is judged as a whole."""
    if isinstance(load, Capacity):
        return StepTimeline(load, start_ns)
    return StageTimeline(load, start_ns) if isinstance(load, Staged) else None


class Session:
    """
    The state of a run on a process that sends requests.

    Users and schedules call `next_conversation` and `send`; whoever ends the run calls `stop_starting`,
    `wait_until_idle` and `abort`.
    """

    def __init__(
        self,
        *,
        scenario: Scenario,
        shard: WorkerShard,
        client: ChatClient,
        queue: PromptQueue,
        log: RequestLog,
        run_id: str,
        salts: Salts | None = None,
    ) -> None:
        self.scenario = scenario
        self.run_id = run_id
        self._totals = RunTotals()
        self._ended: list[RequestRecord] = []
        self.span = Span(scenario)
        self.idle = Event()
        self.idle.set()
        self.exhausted = Event()
        self._slo = scenario.slo_limits()
        self._budget = shard.of(None if isinstance(scenario.load, Staged) else scenario.load.requests)
        self._client, self._deck, self._log, self._salts = client, queue, log, salts
        load = scenario.load
        self.timeline = clock_of(load, self.span.start_ns)
        self._stages: dict[str, RunTotals] = {}
        self.in_closed_loop = isinstance(load, ClosedLoop) or (isinstance(load, Staged | Capacity) and load.has_users)
        self._counted_together = _COUNTED_TOGETHER if self.in_closed_loop else _COUNTED_IN_TIME
        self._share = shard
        self._seats = ConcurrencyLimit(shard.of(int(load.start)) or 0) if isinstance(load, Capacity) else None
        self.think_time_s = load.think_time_s if isinstance(load, ClosedLoop | Staged) else 0.0
        self._request_prefix = f"{run_id}-{shard.index}"
        self._in_flight: set[greenlet] = set()
        self._starting = True
        self.closed = False

    @property
    def starting(self) -> bool:
        """Whether requests may still be started."""
        return self._may_start()

    def next_conversation(self) -> Conversation | None:
        """Return the next prompts to send, or None when the run has no more or is ending."""
        if not self._may_start():
            return None
        conversation = self._deck.next()
        if conversation is None:
            self._exhaust()
        return conversation

    def send(
        self, prompt: Prompt, count: Callable[[RequestRecord], None], due_ns: int | None = None
    ) -> RequestRecord | None:
        """Send the prompt, hand its record to `count`, and return it; None if the run has no place for it any more."""
        if not self._may_start():
            return None
        self._totals.started += 1
        self.idle.clear()
        current = gevent.getcurrent()
        self._in_flight.add(current)
        request_id = f"{self._request_prefix}-{self._totals.started}"
        try:
            stage = None if self.timeline is None else self.timeline.name_at(time.monotonic_ns())
            salt = None if self._salts is None else self._salts.next()
            record = self._client.complete(prompt, request_id=request_id, stage=stage, scheduled_ns=due_ns, salt=salt)
            count(record)
        finally:
            self._in_flight.discard(current)
            if not self._in_flight:
                self.idle.set()
                if not self._may_start():
                    self._exhaust()
        return record

    @property
    def totals(self) -> RunTotals:
        """What every request that has ended comes to."""
        self.count_ended()
        return self._totals

    @property
    def stages(self) -> dict[str, RunTotals]:
        """The same for each stage, or step, that any of them touched."""
        self.count_ended()
        return self._stages

    def record(self, record: RequestRecord) -> None:
        """Take a request that has ended; with some others it is counted, and appended to the run's file."""
        self._ended.append(record)
        if len(self._ended) >= self._counted_together:
            self.count_ended()

    def count_ended(self) -> None:
        """Count every request that has ended by now, and append it to the run's file."""
        if not self._ended:
            return
        ended, self._ended = self._ended, []
        for record in ended:
            self._totals.add(record, window=self.span.window, slo=self._slo, run_start_ns=self.span.start_ns)
            if self.timeline is not None:
                self._add_to_stages(record, self.timeline)
        self._totals.reused_prompts = self._deck.reused
        try:
            self._log.append(ended)
        except OSError:
            _logger.exception("%d requests are counted, but not in the run's file", len(ended))

    def keep_counting(self) -> None:
        """Count what has ended every 50 ms, until killed: a process that is lost loses no more than that."""
        while True:
            gevent.sleep(COUNTED_EVERY_S)
            self.count_ended()

    def _add_to_stages(self, record: RequestRecord, clock: StageTimeline | StepTimeline) -> None:
        """Count a record in every stage that it touched: it started in one, and may have ended in another."""
        first, last = clock.place_at(record.started_ns), clock.place_at(record.done_ns)
        for index in range(first, last + 1):
            totals = self._stages.setdefault(clock.name_of(index), RunTotals())
            totals.add(record, window=clock.window(index), slo=self._slo, run_start_ns=self.span.start_ns)

    def drop(self) -> None:
        """Count an arrival that is not sent."""
        self._totals.dropped += 1
        if self.timeline is not None:
            self._stages.setdefault(self.timeline.name_at(time.monotonic_ns()), RunTotals()).dropped += 1

    def seat(self) -> AbstractContextManager[None]:
        """Return what a user holds while it sends: a place among the users of a search's step, where there is one."""
        return nullcontext() if self._seats is None else self._seats.seat()

    def apply(self, command: StepCommand) -> None:
        """Do what the node that steers a search has ordered."""
        if isinstance(self.timeline, StepTimeline) and self._seats is not None:
            self.timeline.apply(command)
            self._seats.resize(self._share.of(int(command.load)) or 0)

    def no_more(self) -> None:
        """The schedule is over: the run ends when what is in flight has come to an end."""
        self._budget = self._totals.started
        self._exhaust()

    def stop_starting(self) -> None:
        """End the load: nothing more is sent, and the judged span of a timed run closes."""
        self._starting = False
        self.span.close()
        if self.timeline is not None:
            self.timeline.end()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False if the time was not enough."""
        return bool(self.idle.wait(timeout_s))

    def abort(self) -> None:
        """Cut what is in flight: each request leaves a record that says `censored`."""
        self.stop_starting()
        gevent.killall(list(self._in_flight), block=True, timeout=ABORT_GRACE_S)

    def close(self) -> None:
        """Close connections and files, once."""
        if not self.closed:
            self.closed = True
            self.count_ended()
            self._client.close()
            self._log.close()

    def _may_start(self) -> bool:
        return self._starting and (self._budget is None or self._totals.started < self._budget)

    def _exhaust(self) -> None:
        if self._starting and not self._in_flight:
            self.exhausted.set()  # not where the end was asked for: whoever did so ends the run


PERIOD_S: Final = 0.05


def watch(totals: RunTotals) -> None:
    """Add how late each sleep of 50 ms woke up, in seconds, until killed."""
    lag = totals.distributions["event_loop_lag_s"]
    while True:
        due_ns = time.monotonic_ns() + round(PERIOD_S * NS_PER_S)
        gevent.sleep(PERIOD_S)
        lag.add(max(0, time.monotonic_ns() - due_ns) / NS_PER_S)


# One conversation held, and what Locust hears of its requests.

ABSENT: Final = frozenset({ErrorType.DNS, ErrorType.CONNECT_REFUSED, ErrorType.CONNECT_FAILED, ErrorType.TLS})
ABSENT_PAUSE_S: Final = 1.0
"""An engine that is not there is asked once a second by each user: no pause would only fill the disk with failures."""


class RequestFailedError(Exception):
    """How Locust's tables name a failed request: its type, and the status where there is one."""


def run_conversation(
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


def fire_request_event(environment: Environment, name: str, record: RequestRecord) -> None:
    """Fire Locust's `request` event, the hinge between sending and counting; its unit is milliseconds."""
    error: Exception | None = None
    if record.error is not None:
        kind, status = record.error.type.value, record.error.http_status
        error = RequestFailedError(kind if status is None else f"{kind} ({status})")
    environment.events.request.fire(
        request_type="LLM",
        name=name,
        response_time=record.e2e_s * MS_PER_S,
        response_length=record.output_tokens or 0,
        exception=error,
        context={"record": record},
        response=None,
    )
