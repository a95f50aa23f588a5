"""A process's part in a run, made ready: its client, its prompts, its schedule."""

from locust.env import Environment

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.hub import get_hub
from gevent.pool import Group

from llmload.client import make_client
from llmload.client.settings import ClientSettings, Timeouts
from llmload.loadgen.phases import StageTimeline, StepTimeline
from llmload.loadgen.session import Session, WorkerShard, fire_request_event, run_conversation
from llmload.prompts.arrivals import read_trace, trace_of_worker, unit_gaps
from llmload.prompts.conversation import Conversation
from llmload.prompts.queue import Salts
from llmload.prompts.workload import Workload
from llmload.runs.folder import RequestLog, RunFolder
from llmload.scenario import Scenario
from llmload.scenario.loads import AnyLoad, Capacity, OpenLoop, Replay, Staged
from llmload.scenario.reading import read_value
from llmload.timerfd import TimerFd
from llmload.units import NS_PER_S

_READABLE: Final = 1


class GreenletTimer:
    """
    Wakes the one greenlet that sleeps by it, at readings of the monotonic clock in ns.

    By a timerfd; on a system without one, by the event loop's own timers, which wait in whole milliseconds.
    """

    def __init__(self) -> None:
        self._timer: TimerFd | None = None
        with contextlib.suppress(OSError):  # not on this system
            self._timer = TimerFd()
            self._watcher: Any = get_hub().loop.io(self._timer.fd, _READABLE)

    def sleep_until(self, due_ns: int) -> None:
        """Let others run until the moment has come; return at once if it has passed."""
        while (left_ns := due_ns - time.monotonic_ns()) > 0:
            if self._timer is not None:
                self._timer.set(due_ns)
                get_hub().wait(self._watcher)
            else:
                gevent.sleep(left_ns / NS_PER_S)

    def close(self) -> None:
        """Close what the system holds for it."""
        if self._timer is not None:
            self._watcher.close()
            self._timer.close()
            self._timer = None


# Which rate an open loop is asked for at this moment: the start form's, which may be edited while it runs.


def rate_from_form(load: OpenLoop, text_now: Callable[[], str]) -> Callable[[], float]:
    """
    Return what tells the form's rate while its text is a number above 0; the last good one while it is mistyped.

    Until the text changes, the scenario's rate holds: it has what stood in the form at the start already.
    """
    asked, seen = load.rate_per_s, text_now()

    def read_form() -> float:
        nonlocal asked, seen
        text = text_now()
        if text != seen:
            seen, edited = text, read_value(text)
            if isinstance(edited, int | float) and 0 < edited < math.inf:
                asked = float(edited)
        return asked

    return read_form


def target_rate(
    load: AnyLoad, clock: StageTimeline | StepTimeline | None, text_now: Callable[[], str]
) -> Callable[[], float | None]:
    """Return what tells the rate over all workers, in conversations a second; None where the load asks for none."""
    if isinstance(load, OpenLoop):
        return rate_from_form(load, text_now)
    if isinstance(clock, StepTimeline) and isinstance(load, Capacity) and not load.has_users:
        return clock.rate_per_s_now
    if isinstance(load, Staged) and clock is not None:
        return lambda: load.stages[clock.index].rate_per_s
    return lambda: None


# Requests sent when they are due, whatever is in flight.

LOOK_S: Final = 0.1
"""How often a long wait looks whether the rate has changed."""


class Schedule:
    """
    Sends conversations at due times until there are no more or the session starts none.

    `gaps` are in units of the mean gap at rate 1/s; `rate_per_s` is asked again and again, so it may change. The
    schedule is absolute: a request sent late does not move the next one.
    """

    def __init__(
        self,
        session: Session,
        gaps: Iterator[float],
        rate_per_s: Callable[[], float],
        run_conversation: Callable[[Conversation, int], None],
        max_in_flight: int,
    ) -> None:
        self._session, self._gaps, self._rate_per_s = session, gaps, rate_per_s
        self._hold, self._max_in_flight = run_conversation, max_in_flight
        self._talks = Group()
        self._timer = GreenletTimer()

    def run(self) -> None:
        """Send until the schedule is over."""
        try:
            self._run()
        finally:
            self._timer.close()

    def _run(self) -> None:
        due_ns = time.monotonic_ns()
        for gap in self._gaps:
            due_ns = self._wait(due_ns, gap)
            if not self._session.starting:
                return
            self._send(due_ns)
        self._talks.join()
        self._session.no_more()

    def _wait(self, since_ns: int, gap: float) -> int:
        """Wait until the next request is due and return that moment."""
        while True:
            rate_per_s = self._rate_per_s()
            wait_s = gap / rate_per_s if rate_per_s > 0 else float("inf")
            if wait_s <= LOOK_S:
                due_ns = since_ns + round(wait_s * NS_PER_S)
                self._timer.sleep_until(due_ns)
                return due_ns
            since_ns += round(LOOK_S * NS_PER_S)
            gap -= LOOK_S * rate_per_s
            self._timer.sleep_until(since_ns)
            if not self._session.starting:
                return since_ns

    def _send(self, due_ns: int) -> None:
        session = self._session
        if len(self._talks) >= self._max_in_flight:
            session.drop()
            return
        conversation = session.next_conversation()
        if conversation is not None:
            self._talks.spawn(self._hold, conversation, due_ns)


_RARE_COLLECTIONS: Final = (50_000, 20, 20)
"""A round of reads makes hundreds of short-lived objects, and none of them refers back: there is little to collect."""


def client_settings(scenario: Scenario) -> ClientSettings:
    """Return what the scenario says about sending, with the key from the environment."""
    return ClientSettings(
        base_urls=tuple(scenario.engine.base_url),
        model=scenario.model.request_name,
        api=scenario.engine.api,
        stream=scenario.request.stream,
        body=scenario.request.body(),
        include_usage=scenario.request.include_usage,
        api_key=scenario.api_key(),
        timeouts=Timeouts(**scenario.client.timeouts.model_dump()),
        retries=scenario.client.retries,
        ca_file=scenario.engine.ca_file,
        verify_tls=scenario.engine.verify_tls,
    )


def open_session(scenario: Scenario, workload: Workload, shard: WorkerShard, run_id: str) -> Session:
    """Return the session of a process that begins to send: files open, every request encoded."""
    folder = RunFolder(Path(scenario.run.folder) / run_id)
    folder.create()
    client = make_client(client_settings(scenario), scenario.client.kind)
    for conversation in workload.conversations:
        for prompt in conversation.prompts:
            client.prepare(prompt, salted=scenario.prompts.salt is not None)
    session = Session(
        scenario=scenario,
        shard=shard,
        client=client,
        queue=workload.queue(shard.index, shard.count),
        log=RequestLog(folder.path / shard.log_name, with_chunks=scenario.run.record_chunks),
        run_id=run_id,
        salts=_salts(scenario, shard, run_id),
    )
    gc.collect()
    gc.freeze()  # what lives through the whole run is not looked at again
    gc.set_threshold(*_RARE_COLLECTIONS)
    return session


def _salts(scenario: Scenario, shard: WorkerShard, run_id: str) -> Salts | None:
    mode, seed = scenario.prompts.salt, scenario.scenario.seed
    key = scenario.prompts.salt_key or run_id
    return mode and Salts(mode, seed=seed, key=key, worker_index=shard.index, worker_count=shard.count)


def open_schedule(
    session: Session, shard: WorkerShard, environment: Environment, request_name: str, base_dir: Path
) -> Schedule | None:
    """Return the schedule of an open loop; None in a closed one. DataError for a trace that cannot be read."""
    load = session.scenario.load
    if session.in_closed_loop or not isinstance(load, OpenLoop | Replay | Staged | Capacity):
        return None
    cap = shard.of(load.max_in_flight)
    count = partial(fire_request_event, environment, request_name)
    return Schedule(
        session,
        _gaps(session.scenario, shard, base_dir),
        _rate(session, environment),
        lambda conversation, due_ns: run_conversation(conversation, session, count, due_ns),
        max_in_flight=max(1, cap or 1),
    )


def _gaps(scenario: Scenario, shard: WorkerShard, base_dir: Path) -> Iterator[float]:
    load, seed = scenario.load, scenario.scenario.seed
    if isinstance(load, Replay):
        times_s = read_trace(load.trace, load.column, base_dir)[: load.requests]
        since_s = 0.0
        for _, time_s in trace_of_worker(times_s, worker_index=shard.index, worker_count=shard.count):
            yield time_s - since_s
            since_s = time_s
    elif isinstance(load, OpenLoop | Staged | Capacity):
        yield from unit_gaps(load.arrivals, cv=load.cv, seed=seed, worker_index=shard.index, worker_count=shard.count)


def _rate(session: Session, environment: Environment) -> Callable[[], float]:
    load, clock = session.scenario.load, session.timeline
    if isinstance(load, Replay):
        return lambda: load.speed
    if clock is not None:
        return clock.rate_per_s_now
    if not isinstance(load, OpenLoop):
        return lambda: 0.0
    return rate_from_form(load, lambda: str(getattr(environment.parsed_options, "rate", "")))
