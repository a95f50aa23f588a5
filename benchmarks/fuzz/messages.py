"""Readers of what nodes of a run send each other: msgpack, the totals of a worker, a worker's messages."""

import math
from itertools import islice
from pathlib import Path
from typing import Any, Final, NoReturn

import msgpack

from benchmarks.fuzz.files import example_run
from benchmarks.fuzz.reader import Input, Reader, RefusedError
from llmload.loadgen import wire
from llmload.loadgen.wire import unpacked
from llmload.metrics import received
from llmload.metrics.received import contradiction, levels, totals_of
from llmload.metrics.totals import RunTotals
from llmload.record import Slo, Window
from llmload.runs.folder import RunFolder
from llmload.runs.requests import read_records

WORKER: Final = "worker_1"
_MOST_SAID: Final = 600
"""Characters of why a message is refused."""
_ROW: Final = {
    "name": "chat",
    "method": "LLM",
    "last_request_timestamp": 1.8e9,
    "start_time": 1.8e9,
    **dict.fromkeys(("num_requests", "num_none_requests", "num_failures", "total_content_length"), 3),
    **dict.fromkeys(("total_response_time", "max_response_time", "min_response_time"), 12.3),
    "num_reqs_per_sec": {1_800_000_000: 3},
    "num_fail_per_sec": {1_800_000_000: 1},
    "response_times": {12.3: 2, 150: 1},
}
_ERROR: Final = {"name": "chat", "method": "LLM", "error": "reset", "occurrences": 1}
_USERS: Final = {"user_classes_count": {"Chat": 2}, "user_count": 2}
_MESSAGES: Final = {
    "client_ready": "2.1",
    "locustfile": {"version": "2.1"},
    "heartbeat": {"state": "running", "current_cpu_usage": 12.5, "current_memory_usage": 10**8},
    "stats": {"stats": [_ROW], "stats_total": _ROW, "errors": {"e": _ERROR}, **_USERS},
    "spawning_complete": _USERS,
    "logs": {"worker_id": WORKER, "logs": ["a line"]},
    "exception": {"msg": "boom", "traceback": "in line 3"},
    "quit": None,
}


def _totals(_: Path) -> list[Input]:
    made = []
    for answers in (0, 3, 1_000):
        totals = RunTotals()
        for record in islice(read_records(RunFolder(example_run()), "requests.jsonl") or (), answers):
            totals.started += 1
            totals.add(record, window=Window(start_ns=0), slo=Slo(ttft_s=1.0), run_start_ns=0)
        made.append(Input("totals.msgpack", msgpack.dumps(totals.to_message())))
    return made


def _messages(_: Path) -> list[Input]:
    return [Input(f"{kind}.msgpack", msgpack.dumps((kind, data, WORKER))) for kind, data in _MESSAGES.items()]


def _plain(folder: Path) -> list[Input]:
    return [*_messages(folder), *_totals(folder)]


def values_in(data: bytes) -> Any:
    """Return what a node's bytes hold; RefusedError, after a look at what is said, where they are none."""
    try:
        return unpacked(data)
    except ValueError as error:
        refuse(str(error))


def refuse(said: str) -> NoReturn:
    """Raise RefusedError; AssertionError for a refusal that is long or has control characters."""
    if len(said) > _MOST_SAID or not said.isprintable():
        raise AssertionError(f"a refusal of {len(said)} characters: {said[:300]!r}")
    raise RefusedError


def check_packed(given: Input, _: Path) -> None:
    """Unpack bytes."""
    values_in(given.data)


def check_totals(given: Input, _: Path) -> None:
    """Take the bytes as a worker's totals; those that are taken can be sent on, and read again as what they were."""
    try:
        totals = totals_of(values_in(given.data))
    except ValueError as error:
        refuse(str(error))
    contradiction(totals, is_whole=True)
    if odd := {name: level for name, level in levels(totals).items() if not math.isfinite(level)}:
        raise AssertionError(f"figures that are not finite: {odd}")
    if levels(totals_of(unpacked(msgpack.dumps(totals.to_message())))) != levels(totals):
        raise AssertionError("totals are others when they are sent on")


def check_message(given: Input, _: Path) -> None:
    """Hand the bytes to the master as a message of a worker that it knows."""
    from llmload.loadgen.sockets import MasterDoor  # Locust patches the process that imports it

    door, why = MasterDoor(), list[str]()
    door.refuse = lambda _, said: why.append(said)
    door.admit([WORKER.encode(), msgpack.dumps(("client_ready", "2.1", WORKER))])
    if door.admit([WORKER.encode(), given.data]) is None:
        refuse(" ".join(why))


READERS: Final = (
    Reader("msgpack of a node", _plain, check_packed, (wire,)),
    Reader("totals of a worker", _totals, check_totals, (wire, received)),
    Reader("message of a worker", _messages, check_message),
)
