"""A process's part in a run, made ready: its client, its prompts, its schedule."""

from locust.env import Environment

import gc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from llmload.report.run_folder import RequestLog, RunFolder
from llmload.scenario import Scenario
from llmload.scenario.capacity import Capacity
from llmload.scenario.loads import OpenLoop, Replay, Staged
from llmload.swarm.asked_rate import edited_rate
from llmload.swarm.open_loop import Schedule
from llmload.swarm.session import Session, Share
from llmload.swarm.talk import hold, tell_locust
from llmload.wire.client import ClientSettings, Timeouts
from llmload.wire.kind import make_client
from llmload.workload.arrivals import share_of_trace, unit_gaps
from llmload.workload.prompts import Workload
from llmload.workload.salt import Salts
from llmload.workload.trace import read_trace

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


def open_session(scenario: Scenario, workload: Workload, share: Share, run_id: str) -> Session:
    """Return the session of a process that begins to send: files open, every request encoded."""
    folder = RunFolder(Path(scenario.run.folder) / run_id)
    folder.create()
    client = make_client(client_settings(scenario), scenario.client.kind)
    for conversation in workload.conversations:
        for prompt in conversation.prompts:
            client.prepare(prompt, salted=scenario.prompts.salt is not None)
    session = Session(
        scenario=scenario,
        share=share,
        client=client,
        deck=workload.deck(share.index, share.count),
        log=RequestLog(folder.path / share.log_name, with_chunks=scenario.run.record_chunks),
        run_id=run_id,
        salts=_salts(scenario, share, run_id),
    )
    gc.collect()
    gc.freeze()  # what lives through the whole run is not looked at again
    gc.set_threshold(*_RARE_COLLECTIONS)
    return session


def _salts(scenario: Scenario, share: Share, run_id: str) -> Salts | None:
    mode, seed = scenario.prompts.salt, scenario.scenario.seed
    key = scenario.prompts.salt_key or run_id
    return mode and Salts(mode, seed=seed, key=key, worker_index=share.index, worker_count=share.count)


def open_schedule(
    session: Session, share: Share, environment: Environment, request_name: str, base_dir: Path
) -> Schedule | None:
    """Return the schedule of an open loop; None in a closed one. DataError for a trace that cannot be read."""
    load = session.scenario.load
    if session.in_closed_loop or not isinstance(load, OpenLoop | Replay | Staged | Capacity):
        return None
    cap = share.of(load.max_in_flight)
    count = partial(tell_locust, environment, request_name)
    return Schedule(
        session,
        _gaps(session.scenario, share, base_dir),
        _rate(session, environment),
        lambda conversation, due_ns: hold(conversation, session, count, due_ns),
        max_in_flight=max(1, cap or 1),
    )


def _gaps(scenario: Scenario, share: Share, base_dir: Path) -> Iterator[float]:
    load, seed = scenario.load, scenario.scenario.seed
    if isinstance(load, Replay):
        times_s = read_trace(load.trace, load.column, base_dir)[: load.requests]
        since_s = 0.0
        for _, time_s in share_of_trace(times_s, worker_index=share.index, worker_count=share.count):
            yield time_s - since_s
            since_s = time_s
    elif isinstance(load, OpenLoop | Staged | Capacity):
        yield from unit_gaps(load.arrivals, cv=load.cv, seed=seed, worker_index=share.index, worker_count=share.count)


def _rate(session: Session, environment: Environment) -> Callable[[], float]:
    load, clock = session.scenario.load, session.stage_clock
    if isinstance(load, Replay):
        return lambda: load.speed
    if clock is not None:
        return clock.rate_per_s_now
    if not isinstance(load, OpenLoop):
        return lambda: 0.0
    return edited_rate(load, lambda: str(getattr(environment.parsed_options, "rate", "")))
