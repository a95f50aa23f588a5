"""
One process's part in a run: which prompts it sends, what is in flight, what ended, and Locust's events.
"""

from locust.env import Environment

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.lock import Semaphore
from greenlet import greenlet

from llmload.client.client import ChatClient
from llmload.client.words import Words
from llmload.loadgen.commanded import EditTimeline, timeline_of
from llmload.loadgen.phases import FOREVER_NS, Span, StepCommand
from llmload.metrics.by_name import NamedTotals
from llmload.metrics.totals import RunTotals
from llmload.prompts.conversation import Conversation, Prompt
from llmload.prompts.salts import Salts
from llmload.prompts.workload import PromptQueue
from llmload.record import ErrorType, Outcome, RequestRecord
from llmload.runs.requests import RequestLog
from llmload.scenario import Scenario
from llmload.units import MS_PER_S, NS_PER_S

ABORT_GRACE_S: Final = 5.0
"""How long cut requests may take to close their streams and leave their records."""
COUNT_S: Final = 0.05
"""How often requests that have ended are counted: a process that is lost loses no more than that."""
LAG_SAMPLE_S: Final = 0.05
"""How long the watcher of the event loop's lag sleeps at a time."""
_BATCH: Final = 16
"""Requests that are counted together: the caches are warm, and one write takes their lines."""
_OPEN_LOOP_BATCH: Final = 2
"""The same in an open loop, whose arrivals a larger batch would delay."""
ABSENT: Final = frozenset(
    {
        ErrorType.DNS,
        ErrorType.CONNECT_REFUSED,
        ErrorType.CONNECT_FAILED,
        ErrorType.NO_DESCRIPTOR,
        ErrorType.TLS,
    }
)
ABSENT_PAUSE_S: Final = 1.0
"""How long a user waits after an error of `ABSENT`: without a pause, it would only fill the disk with failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShard:
    """This process's part of the run: that of worker `index` of `count`."""

    index: int
    count: int

    @property
    def log_name(self) -> str:
        """The name of the file that this process appends its requests to."""
        return "requests.jsonl" if self.count == 1 else f"requests.worker-{self.index}.jsonl"

    def of(self, total: int | None) -> int | None:
        """Return this process's part of a number that all of them share; None stays None."""
        return None if total is None else total // self.count + (self.index < total % self.count)


class ConcurrencyLimit:
    """
    How many users of this process may have a request in flight; the others rest.

    Lowering the limit cuts nothing: a request in flight keeps its permit until its answer is complete.
    """

    def __init__(self, count: int) -> None:
        self._count, self._to_withdraw = count, 0
        self._free = Semaphore(count)

    def resize(self, count: int) -> None:
        """Let this many users send from now on."""
        change, self._count = count - self._count, count
        if change < 0:
            self._to_withdraw -= change
            while self._to_withdraw and self._free.acquire(blocking=False):
                self._to_withdraw -= 1
            return
        spared = min(change, self._to_withdraw)
        self._to_withdraw -= spared
        for _ in range(change - spared):
            self._free.release()

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Wait for a permit, and hold it for the length of the context."""
        self._free.acquire()
        try:
            yield
        finally:
            if self._to_withdraw:
                self._to_withdraw -= 1
            else:
                self._free.release()


class Session:
    """
    The state of a run on a process that sends requests.

    Users and schedules call `next_conversation` and `send`; the end of the run calls `stop_starting`,
    `wait_until_idle` and `abort`. `start_ns` is when the run began, now if None.
    """

    def __init__(
        self,
        *,
        scenario: Scenario,
        shard: WorkerShard,
        client: ChatClient,
        queue: PromptQueue,
        shape_queues: Sequence[PromptQueue] = (),
        log: RequestLog,
        run_id: str,
        start_ns: int | None = None,
        salts: Salts | None = None,
    ) -> None:
        load = scenario.load
        self.scenario, self.run_id = scenario, run_id
        self.span = Span(load, start_ns)
        self.timeline = timeline_of(load, self.span.start_ns)
        self.in_closed_loop, self.think_time_s = not load.is_open_loop, load.think_s
        self.idle, self.exhausted = Event(), Event()
        self.idle.set()
        self.closed = False
        self._client, self._queue, self._log, self._salts = client, queue, log, salts
        self._queues = (queue, *shape_queues)
        """Of all prompts, and of those of each shape."""
        self.shard, self._request_prefix = shard, f"{run_id}-{shard.index}"
        self._budget, limit = shard.of(load.ends_after_requests), shard.of(load.concurrency_limit)
        self._limit = None if limit is None else ConcurrencyLimit(limit)
        self._slo = scenario.slo_limits()
        self._totals, self._stages, self._names = RunTotals(), dict[str, RunTotals](), NamedTotals()
        self._ended: list[RequestRecord] = []
        self._batch = _BATCH if self.in_closed_loop else _OPEN_LOOP_BATCH
        self._in_flight: set[greenlet] = set()
        self._leaving: set[greenlet] = set()
        """Users that an edit has stopped, and whose last request is in flight."""
        self._starting = True

    @property
    def starting(self) -> bool:
        """Whether requests may still be started."""
        return self._may_start()

    def next_conversation(self) -> Conversation | None:
        """Return the next prompts to send; None when there are no more, or the run is ending."""
        if not self._may_start():
            return None
        conversation = self._queue.next()
        if conversation is None:
            self._exhaust()
        return conversation

    def send(
        self,
        prompt: Prompt,
        count: Callable[[RequestRecord], None],
        due_ns: int | None = None,
        *,
        repeated: bool = False,
        words: Words | None = None,
    ) -> RequestRecord | None:
        """
        Send the prompt, pass its record to `count` unless it was cut, and return it; None once no more are started.

        `repeated` says whether the run has sent the prompt before, so that it may need a salt. With `words`, in which
        the answer's are kept, the prompt is sent as it is: `salted` has seen it.
        """
        current = gevent.getcurrent()
        if not self._may_start() or current in self._leaving:
            return None
        self._totals.started += 1
        self.idle.clear()
        self._in_flight.add(current)
        request_id = f"{self._request_prefix}-{self._totals.started}"
        try:
            stage = None if self.timeline is None else self.timeline.name_at(time.monotonic_ns())
            salt = None if self._salts is None or words is not None else self._salts.next(repeated=repeated)
            record = self._client.complete(
                prompt, request_id=request_id, stage=stage, scheduled_ns=due_ns, salt=salt, words=words
            )
            if record.outcome is Outcome.CENSORED:
                self.record(record)  # Locust counts no task that it kills, and its tables must not call this a success
            else:
                count(record)
        finally:
            self._in_flight.discard(current)
            if not self._in_flight:
                self.idle.set()
                if not self._may_start():
                    self._exhaust()
        return record

    def check(self, prompt: Prompt) -> None:
        """Raise ValueError for a prompt that cannot be sent: a task made it."""
        try:
            self._client.check(prompt)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"these messages or fields cannot be sent: {type(error).__name__}: {error}") from None

    def salted(self, prompt: Prompt, *, repeated: bool = False) -> Prompt:
        """Return the prompt with the salt that the scenario gives it, if any."""
        salt = None if self._salts is None else self._salts.next(repeated=repeated)
        return prompt if salt is None else prompt.salted(salt)

    @property
    def totals(self) -> RunTotals:
        """The totals of every request that has ended."""
        self.count_ended()
        return self._totals

    @property
    def stages(self) -> dict[str, RunTotals]:
        """The same for each phase, a stage or step, that a request touched."""
        self.count_ended()
        return self._stages

    @property
    def names(self) -> NamedTotals:
        """The same for each name, where requests have names."""
        self.count_ended()
        return self._names

    def record(self, record: RequestRecord) -> None:
        """Take a request that has ended; it is counted and appended to the run's file with some others."""
        self._ended.append(record)
        if len(self._ended) >= self._batch:
            self.count_ended()

    def count_ended(self) -> None:
        """Count every request that has ended by now, and append it to the run's file."""
        if not self._ended:
            return
        ended, self._ended = self._ended, []
        for record in ended:
            self._totals.add(record, window=self.span.window, slo=self._slo, run_start_ns=self.span.start_ns)
            self._names.add(record, window=self.span.window, slo=self._slo, run_start_ns=self.span.start_ns)
            if self.timeline is not None:
                for name, window in self.timeline.touched(record.started_ns, record.done_ns):
                    stage = self._stages.setdefault(name, RunTotals())
                    stage.add(record, window=window, slo=self._slo, run_start_ns=self.span.start_ns)
        self._totals.reused_prompts = sum(queue.reused for queue in self._queues)
        self._log.append(ended)
        self._totals.lost_lines = self._log.lost

    def settle(self) -> None:
        """Count every request that has ended, and wait for room on the disk for lines that were held back."""
        self.count_ended()
        self._log.settle()
        self._totals.lost_lines = self._log.lost
        self._totals.dropped_segments = self._client.dropped_segments or 0

    def keep_counting(self) -> None:
        """Count requests that have ended every 50 ms, until killed."""
        while True:
            gevent.sleep(COUNT_S)
            self.count_ended()

    def drop(self) -> None:
        """Count an arrival that is not sent."""
        self._totals.dropped += 1
        if self.timeline is not None:
            self._stages.setdefault(self.timeline.name_at(time.monotonic_ns()), RunTotals()).dropped += 1

    def acquire(self) -> AbstractContextManager[None]:
        """Return the context in which a user sends: it waits for a permit where a search limits the users."""
        return nullcontext() if self._limit is None else self._limit.acquire()

    def apply(self, command: StepCommand) -> None:
        """Begin the phase that a master commands, a search's step or what an edit makes of the load, or its window."""
        if self.timeline is None:
            self._divide()
        if self.timeline is not None:
            self.timeline.apply(command)
        if command.shape is not None:
            self._queue = self._queues[command.shape + 1]
        if self._limit is not None:
            self._limit.resize(0 if command.paused else self.shard.of(int(command.load)) or 0)

    def _divide(self) -> None:
        """
        Measure by itself what comes before the load's first edit, which is now.

        All that has ended by now belongs to the first phase, so nothing need be counted twice until there is a second.
        """
        whole = self.totals
        self.timeline = EditTimeline.at_edit(self.scenario.load, self.span.start_ns, self.span.window.start_ns)
        self._stages = {self.timeline.name_of(0): RunTotals()}
        self._stages[self.timeline.name_of(0)].merge(whole)

    @property
    def edits(self) -> int:
        """How many edits of the load have reached this process."""
        return self.timeline.index if isinstance(self.timeline, EditTimeline) else 0

    def rate_at(self, moment_ns: int) -> tuple[float, int]:
        """Return the arrival rate at a moment that is not in the future, and until when it stays the same at least."""
        if self.timeline is not None:
            return self.timeline.rate_at(moment_ns)
        return self.scenario.load.gaps_per_s, FOREVER_NS

    def let_go(self, user: greenlet) -> bool:
        """Let a user end once its request is answered; False where it has none in flight, or the run is ending."""
        if not self._starting or user not in self._in_flight:
            return False
        self._leaving.add(user)
        return True

    def wait_for_leavers(self) -> None:
        """Wait until users that an edit has stopped have their answers; those that take too long are cut."""
        gevent.joinall(list(self._leaving), timeout=self.scenario.run.drain_timeout_s)
        gevent.killall(list(self._leaving), timeout=ABORT_GRACE_S)
        self._leaving.clear()

    def end_of_schedule(self) -> None:
        """Start no more requests: the run ends once those in flight have ended."""
        self._budget = self._totals.started
        self._exhaust()

    def stop_starting(self) -> None:
        """End the load: nothing more is sent, and the window of a timed run closes."""
        self._starting = False
        self.span.close()
        if self.timeline is not None:
            self.timeline.end()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False if the time was not enough."""
        return bool(self.idle.wait(timeout_s))

    def abort(self) -> None:
        """Cut the requests in flight: each leaves a record with outcome `censored`."""
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
            self.exhausted.set()  # not after `stop_starting`: its caller ends the run


def watch_loop_lag(totals: RunTotals) -> None:
    """Add how late each sleep of 50 ms woke up, in seconds, until killed: a saturated load generator shows here."""
    lag = totals.distributions["event_loop_lag_s"]
    while True:
        due_ns = time.monotonic_ns() + round(LAG_SAMPLE_S * NS_PER_S)
        gevent.sleep(LAG_SAMPLE_S)
        lag.add(max(0, time.monotonic_ns() - due_ns) / NS_PER_S)


class RequestFailedError(Exception):
    """How Locust's tables name a failed request: its type, and the status where there is one."""


def run_conversation(
    conversation: Conversation, session: Session, count: Callable[[RequestRecord], None], due_ns: int | None = None
) -> None:
    """
    Send the conversation's requests one after the other, each when the last is answered.

    `due_ns` is when the first was due, in an open loop. GreenletExit when a request was cut, so that its greenlet ends.
    """
    for prompt in conversation.prompts:
        record = session.send(prompt, count, due_ns, repeated=conversation.repeated)
        if record is None:
            return
        if record.outcome is Outcome.CENSORED:
            raise GreenletExit
        if not record.ok:
            if due_ns is None and record.error is not None and record.error.type in ABSENT:
                gevent.sleep(ABSENT_PAUSE_S)
            return  # without this answer, the later turns are not what a user would send
        due_ns = None


def fire_request_event(environment: Environment, name: str, record: RequestRecord) -> None:
    """
    Fire Locust's `request` event, which joins sending and counting; its times are in milliseconds.

    `name` is that of a request without its own.
    """
    error: Exception | None = None
    if record.error is not None:
        kind, status = record.error.type.value, record.error.http_status
        error = RequestFailedError(kind if status is None else f"{kind} ({status})")
    environment.events.request.fire(
        request_type="LLM",
        name=record.name or name,
        response_time=record.e2e_s * MS_PER_S,
        response_length=record.body_bytes,
        exception=error,
        context={"record": record},
        response=None,
    )
