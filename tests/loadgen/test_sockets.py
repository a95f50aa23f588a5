"""
What reaches a master's and a worker's socket: only messages that can be one reach Locust.

A worker's messages of every type are mutated by Hypothesis and go the way of real ones: our door, Locust's master, our
listeners. Nothing raises, nothing grows, the worker is put out or what it said changes nothing; others are heard.
"""

from locust import User, __version__, log
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner

import copy
import logging
import math
import resource
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final

import gevent
import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from llmload.loadgen import sockets
from llmload.loadgen.locust_statistics import shrink_report
from llmload.loadgen.master import MasterNode
from llmload.loadgen.messages import KEY, MAX_WORKERS, Drained, Exhausted, Fault, Started, Totals, WorkerPlan, parse
from llmload.loadgen.sockets import MasterDoor, WorkerDoor
from llmload.loadgen.unmeasured import Conditions
from llmload.loadgen.workers import Workers
from llmload.metrics.totals import RunTotals
from llmload.scenario import load_scenario
from llmload.scenario.reading import find_scenario, free_port
from tests.loadgen.test_credible import honest

MIB: Final = 1 << 10
"""In the kibibytes of `ru_maxrss`."""
ROW = {
    "name": "chat",
    "last_request_timestamp": 1.8e9,
    "start_time": 1.8e9,
    "num_requests": 3,
    "num_none_requests": 0,
    "num_failures": 1,
    "total_response_time": 30.5,
    "max_response_time": 12.3,
    "min_response_time": None,
    "total_content_length": 40,
    "response_times": {12.3: 2, 150: 1},
    "num_reqs_per_sec": {1_800_000_000: 3},
    "num_fail_per_sec": {1_800_000_000: 1},
    "method": "LLM",
}
ERROR = {"name": "chat", "method": "LLM", "error": "reset", "occurrences": 1, "first_seen": 1.8e9, "last_seen": None}


def statistics() -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(
        {"stats": [ROW], "stats_total": ROW | {"name": "Aggregated"}, "errors": {"e": ERROR}}
    )
    shrink_report(data)
    return data | {"user_classes_count": {"Chat": 2}, "user_count": 2, KEY: totals_message().to_wire()}


def totals_message() -> Totals:
    return Totals.pack("run", honest().to_message(), {})


MESSAGES: Final[dict[str, Any]] = {
    "client_ready": __version__,
    "locustfile": {"version": __version__},
    "client_stopped": None,
    "heartbeat": {"state": "running", "current_cpu_usage": 12.5, "current_memory_usage": 10**8},
    "stats": statistics(),
    "spawning": None,
    "spawning_complete": {"user_classes_count": {"Chat": 2}, "user_count": 2},
    "logs": {"worker_id": "liar_1", "logs": ["a line"]},
    "quit": None,
    "exception": {"msg": "boom", "traceback": "in line 3"},
    Started.name: Started(run_id="run").to_wire(),
    Totals.name: totals_message().to_wire(),
    Exhausted.name: Exhausted(run_id="run").to_wire(),
    Drained.name: Drained.pack("run", honest().to_message(), {}).to_wire(),
    Fault.name: Fault(run_id="run", text="the disk is full").to_wire(),
}
HONEST: Final = "honest_1"
LIAR: Final = "liar_1"


class Master:
    """Locust's master in this process, with our listeners and a run of two workers; nothing goes by network."""

    def __init__(self, runner: MasterRunner, said: list[str]) -> None:
        self.runner, self.said = runner, said
        self.conditions = Conditions()
        scenario = load_scenario(find_scenario("demo"))
        coordinator: Any = SimpleNamespace(
            run_id="run",
            conditions=self.conditions,
            scenario=scenario,
            timeline=None,
            elapsed_s=60.0,
            driver=None,
            users_vary=False,
        )
        node: Any = MasterNode.__new__(MasterNode)
        vars(node).update(
            runner=runner,
            guard=lambda _, listener: listener,
            end=lambda: said.append("the end"),
            coordinator=coordinator,
            _note_fault=lambda _, text: said.append(text),
            _ending=SimpleNamespace(begun=False),
        )
        node._workers = self.workers = Workers(coordinator, [HONEST, LIAR])
        node._listen(runner.environment)
        self.say(HONEST, "client_ready", __version__)
        self.say(LIAR, "client_ready", __version__)

    def say(self, worker: str, kind: str, data: Any) -> None:
        self.take([worker.encode(), msgpack.dumps((kind, data, worker))])

    def take(self, frames: list[bytes]) -> None:
        """What Locust's loop does with what comes."""
        admitted = sockets.MASTER_DOOR.admit(frames)
        if admitted is not None:
            self.runner.handle_message(*admitted)


class Nobody(User):
    """Locust wants a user class."""

    def task(self) -> None:
        """Do nothing."""

    tasks = [task]  # noqa: RUF012 - Locust's way


@pytest.fixture(scope="module")
def runner() -> Iterator[MasterRunner]:
    environment = Environment(user_classes=[Nobody], parsed_locustfiles=[__file__])
    runner = environment.create_master_runner("127.0.0.1", free_port())
    yield runner
    runner.quit()


@pytest.fixture
def master(runner: MasterRunner, monkeypatch: pytest.MonkeyPatch) -> Master:
    return fresh(runner, monkeypatch)


def fresh(runner: MasterRunner, monkeypatch: pytest.MonkeyPatch) -> Master:
    """A master that has heard of nobody."""
    monkeypatch.setattr(sockets, "MASTER_DOOR", MasterDoor())
    monkeypatch.setattr("llmload.loadgen.master.MASTER_DOOR", sockets.MASTER_DOOR)
    said: list[str] = []
    monkeypatch.setattr("llmload.loadgen.master.say", said.append)
    monkeypatch.setattr(runner.server, "send_to_client", lambda _: None)
    runner.custom_messages.clear()
    runner.clients._worker_nodes.clear()
    runner.stats.clear_all()
    runner.exceptions.clear()
    ours = runner.environment.events.worker_report._handlers
    ours[:] = [each for each in ours if "MasterNode" not in each.__qualname__]
    return Master(runner, said)


@pytest.mark.parametrize("kind", MESSAGES)
def test_an_honest_message_of_each_type_reaches_locust(
    master: Master, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    master.say(LIAR, kind, MESSAGES[kind])

    assert not master.conditions.rejected_workers
    assert "Traceback" not in caplog.text
    assert not log.unhandled_greenlet_exception


def test_an_honest_report_is_believed_and_in_locusts_tables(master: Master) -> None:
    master.say(LIAR, "stats", MESSAGES["stats"])

    assert master.workers.collected.latest[LIAR].started == 20
    assert master.runner.stats.get("chat", "LLM").response_times == {12.3: 2, 150: 1}


# Mutations

JUNK: Final[some.SearchStrategy[Any]] = (
    some.sampled_from(
        [None, True, False, -1, 2**63, -(2**63), 2**64 - 1, 1e308, math.nan, math.inf, -math.inf, "5", "", b"", [], {}]
    )
    | some.builds(lambda size: "x" * size, some.sampled_from([300, 70_000]))
    | some.builds(lambda size: [0] * size, some.sampled_from([3, 6_000]))
    | some.builds(lambda size: {f"k{at}": 1 for at in range(size)}, some.sampled_from([3, 2_000]))
    | some.builds(lambda depth: deep(depth), some.sampled_from([3, 14, 200]))
    | some.text(max_size=5)
    | some.binary(max_size=20)
    | some.integers(-(2**63), 2**64 - 1)
    | some.floats()
)


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]}
    return value


@some.composite
def mutated(draw: some.DrawFn, value: Any) -> Any:
    """The value with one thing in it replaced, removed, renamed or added."""
    if not isinstance(value, dict | list) or not value or draw(some.integers(0, 4)) == 0:
        return draw(JUNK)
    value = copy.copy(value)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(some.sampled_from(keys))
    how = draw(some.sampled_from(["inside", "inside", "inside", "remove", "add"]))
    if how == "inside":
        value[key] = draw(mutated(value[key]))
    elif how == "remove":
        del value[key]
    elif isinstance(value, dict):
        value[draw(some.text(max_size=3) | some.integers(0, 9))] = draw(JUNK)
    else:
        value.append(draw(JUNK))
    return value


@some.composite
def totals_body(draw: some.DrawFn) -> dict[str, Any]:
    """A report whose body, packed as a worker packs it, is mutated."""
    totals, stages = draw(mutated([honest().to_message(), {}])) if draw(some.booleans()) else ({}, {})
    if not stages:
        totals = draw(mutated(honest().to_message()))
    return Totals.pack("run", totals, stages).to_wire()


@some.composite
def frames(draw: some.DrawFn) -> list[bytes]:
    """What a lying worker sends."""
    kind: Any = draw(some.sampled_from(list(MESSAGES)))
    data: Any = MESSAGES[kind]
    sender: Any = LIAR
    match draw(some.sampled_from(["data", "data", "data", "body", "type", "sender", "shape", "bytes", "frames"])):
        case "data":
            data = draw(mutated(data))
        case "body":
            try:
                kind, data = Totals.name, draw(totals_body())
            except (ValueError, OverflowError, TypeError):  # msgpack cannot write it
                data = None
        case "type":
            kind = draw(JUNK)
        case "sender":
            sender = draw(some.sampled_from([HONEST, "", "nobody"]) | JUNK)
        case "shape":
            return [LIAR.encode(), msgpack.dumps(draw(mutated([kind, data, sender])), default=str)]
        case "bytes":
            frame = bytearray(msgpack.dumps((kind, data, sender)))
            at = draw(some.integers(0, len(frame) - 1))
            frame[at : at + draw(some.integers(0, 3))] = draw(some.binary(max_size=6))
            return [LIAR.encode(), bytes(frame)]
        case _:
            return draw(some.lists(some.sampled_from([LIAR.encode(), b"", b"\xff\xfe", b"\xc1"]), max_size=4))
    return [LIAR.encode(), msgpack.dumps((kind, data, sender), default=str)]


def test_nothing_that_a_worker_sends_stops_its_master(
    runner: MasterRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    outcomes: dict[bool, int] = {True: 0, False: 0}

    @given(some.lists(frames(), min_size=1, max_size=3))
    @settings(max_examples=80, suppress_health_check=list(HealthCheck))
    def run(messages: list[list[bytes]]) -> None:
        with monkeypatch.context() as patched:
            master = fresh(runner, patched)
            for each in messages:
                master.take(each)
            master.say(HONEST, "heartbeat", MESSAGES["heartbeat"])
            master.say(HONEST, Totals.name, MESSAGES[Totals.name])

        outcomes[LIAR in master.conditions.rejected_workers] += 1
        assert HONEST in runner.clients
        assert runner.clients[HONEST].state == "running"
        assert HONEST not in master.conditions.rejected_workers
        assert master.workers.collected.latest[HONEST].started == 20
        assert master.workers.collected.merged().started in (20, 40)
        assert all(text.isprintable() and len(text) < 5_000 for text in master.said)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * MIB
    assert outcomes[True] > 20, outcomes
    assert "Traceback" not in caplog.text
    assert not log.unhandled_greenlet_exception


EMPTY: Final = RunTotals().to_message()


def packed(kind: str, data: Any) -> bytes:
    frame: bytes = msgpack.dumps((kind, data, LIAR))
    return frame


def with_body(body: bytes) -> bytes:
    wire = {"schema_version": 1, "run_id": "run", "version": "1", "body": zlib.compress(body)}
    return packed(Totals.name, wire)


def with_histogram(counts: bytes) -> bytes:
    histogram = {"counts": zlib.compress(counts), "first": 0, "merge_factor": 1, "infinite": 0}
    distributions = {"ttft_s": histogram | {"total": 0, "min": 0, "max": 0}}
    return with_body(msgpack.dumps([EMPTY | {"distributions": distributions}, {}]))


def with_statistics(**parts: Any) -> bytes:
    return packed("stats", statistics() | parts)


LARGE: Final[dict[str, Callable[[], bytes]]] = {
    "stages": lambda: with_body(msgpack.dumps([EMPTY, {f"stage-{index}": EMPTY for index in range(500)}])),
    "many stages": lambda: with_body(msgpack.dumps([EMPTY, dict.fromkeys(map(str, range(20_000)), 0)])),
    "body": lambda: with_body(bytes(50_000_000)),
    "values": lambda: with_body(b"\x92\xdd\x00\x80\x00\x00" + b"\x80" * 0x800000),
    "histogram": lambda: with_histogram(bytes(30_000_000)),
    "times": lambda: with_statistics(stats=[ROW | {"response_times": [zlib.compress(bytes(30_000_000))] * 2}]),
    "tables": lambda: b"\x93\xa5stats\xdd\x00\xef\xff\xff" + b"\x80" * 0xEFFFFF + b"\xa6liar_1",
    "text": lambda: packed("exception", {"msg": "x" * 15_000_000, "traceback": ""}),
    "type": lambda: packed("x" * 15_000_000, None),
    "name": lambda: msgpack.dumps(("quit", None, "x" * 15_000_000)),
    "errors": lambda: with_statistics(errors={str(at): ERROR for at in range(6_000)}),
}


@pytest.mark.parametrize("name", LARGE)
def test_no_message_takes_a_hundred_megabytes_or_seconds(master: Master, name: str) -> None:
    frame = LARGE[name]()
    tracemalloc.start()
    since_s = time.process_time()
    master.take([LIAR.encode(), frame])
    took_s, (_, peak) = time.process_time() - since_s, tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 100 << 20
    assert took_s < 5
    assert LIAR in master.conditions.rejected_workers
    assert len(master.said[0]) < 1_000


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("heartbeat", {"state": "flying"}, "heartbeat: state: String should match pattern"),
        ("heartbeat", {"current_cpu_usage": math.nan}, "heartbeat: current_cpu_usage: Input should be a finite number"),
        ("heartbeat", {"current_cpu_usage": "5"}, "heartbeat: current_cpu_usage: Input should be a valid number"),
        ("spawning_complete", {"user_classes_count": {"Chat": -1}}, "user_classes_count.Chat: Input should be greater"),
        ("logs", {"worker_id": HONEST}, "logs: worker_id is another's"),
        ("logs", {"logs": ["x"] * 2_000}, "logs: logs: List should have at most"),
        ("stats", {"errors": 7}, "stats: errors: Input should be a valid dictionary"),
        ("stats", {"stats": [ROW | {"num_requests": "many"}]}, "stats.0.num_requests: Input should be a valid integer"),
        ("stats", {"stats": [ROW | {"response_times": {12.3456: 1}}]}, "response_times: have more than three digits"),
        ("stats", {"stats": [ROW | {"response_times": [b"", b""]}]}, "stats: counts"),
        ("stats", {KEY: {"run_id": "run"}}, "llmload_totals: version: Field required"),
        (Started.name, {"edits": "1"}, "llmload_started: edits: Input should be a valid integer"),
        (Fault.name, {"text": "x" * 5_000}, "llmload_fault: text: String should have at most"),
        (Totals.name, {"body": "text"}, "llmload_totals: body: Input should be a valid bytes"),
    ],
)
def test_a_bad_worker_is_put_out_and_named_once(master: Master, kind: str, change: dict[str, Any], says: str) -> None:
    master.say(LIAR, kind, MESSAGES[kind] | change)
    master.say(LIAR, kind, MESSAGES[kind] | change)
    master.say(LIAR, "heartbeat", MESSAGES["heartbeat"])

    [said] = master.said
    assert said.startswith(f"worker {LIAR} was put out: ")
    assert says in said
    assert says in master.conditions.rejected_workers[LIAR]
    assert master.conditions.missing_workers == {LIAR}
    assert master.workers.started.missing == {HONEST}
    assert list(master.runner.clients) == [HONEST]


def test_one_that_has_users_is_lost_as_locust_loses_workers(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master.runner, "_users_dispatcher", SimpleNamespace(dispatch_in_progress=True))
    master.say(LIAR, "heartbeat", {"state": "flying"})

    assert master.runner.clients[LIAR].heartbeat < 0


def test_a_counted_load_ends_without_the_requests_of_one_that_was_put_out(master: Master) -> None:
    master.say(HONEST, Exhausted.name, MESSAGES[Exhausted.name])
    gevent.sleep(0)
    assert not master.said

    master.workers.put_out(LIAR, "it lied")

    assert master.workers.all_exhausted
    master.say(HONEST, Exhausted.name, MESSAGES[Exhausted.name])
    gevent.sleep(0)
    assert master.said == ["the end"]


def test_a_stranger_is_not_heard_and_costs_no_run(master: Master) -> None:
    master.say("stranger", "stats", MESSAGES["stats"])
    master.say("stranger", Totals.name, MESSAGES[Totals.name])
    master.say("stranger", "heartbeat", {"state": 1})
    master.say("late", "client_ready", __version__)
    master.say("late", Totals.name, MESSAGES[Totals.name])

    assert not master.workers.collected.latest
    assert not master.conditions.rejected_workers
    assert not master.runner.stats.entries


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("exception", {"traceback": "in line 3\n" * 20_000}),
        ("logs", {"logs": ["x" * 200_000]}),
        ("stats", {"stats": [ROW | {"name": "/search?q=" + "x" * 5_000}]}),
    ],
)
def test_long_texts_of_a_locustfile_are_honest(master: Master, kind: str, change: dict[str, Any]) -> None:
    master.say(LIAR, kind, MESSAGES[kind] | change)

    assert not master.said


def test_new_names_in_each_report_fill_no_memory(master: Master) -> None:
    for index in range(8):
        rows = [ROW | {"name": f"{index}-{at}"} for at in range(400)]
        data = {"stats": rows, "stats_total": ROW, "errors": {f"{index}-{at}": ERROR for at in range(400)}}
        master.say(LIAR, "stats", data | {"user_classes_count": {}})
        master.say(LIAR, "exception", {"msg": "", "traceback": f"{index}"})
    seconds = {1_800_000_000 + at: 1 for at in range(10_000)}
    master.say(LIAR, "stats", statistics() | {"stats_total": ROW | {"num_reqs_per_sec": seconds}})

    known = len(master.runner.stats.entries) + len(master.runner.stats.errors) + len(master.runner.exceptions)
    assert 4_000 < known <= 5_000
    assert len(master.runner.stats.total.num_reqs_per_sec) < 10
    assert not master.conditions.rejected_workers


def test_the_number_of_workers_has_a_limit() -> None:
    door = MasterDoor()
    out: list[str] = []
    door.refuse = lambda worker, _: out.append(worker)

    admitted = [
        door.admit([b"w%d" % index, msgpack.dumps(("client_ready", "2", f"w{index}"))])
        for index in range(MAX_WORKERS + 5)
    ]

    assert [each is not None for each in admitted] == [True] * MAX_WORKERS + [False] * 5
    assert not out


# A worker

PLAN: Final = WorkerPlan(run_id="run", scenario=load_scenario(find_scenario("demo")), workers=(LIAR,)).to_wire()


@given(mutated(PLAN))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_a_plan_is_one_that_can_be_run_or_refused(plan: Any) -> None:
    with suppress(ValueError, OverflowError):
        parsed = parse(WorkerPlan, msgpack.loads(msgpack.dumps(plan, default=str), strict_map_key=False))
        assert parsed.scenario.load.kind


SPAWN = {"timestamp": 1.8e9, "user_classes_count": {"Chat": 2}, "host": "http://h", "stop_timeout": None}


def test_a_master_sets_no_option_of_a_workers_own() -> None:
    given = {"settings": ["run.folder=/etc"], "out": "/etc", "prompts": "/etc/passwd", "tags": ["a"], "of_users": 3}

    message = WorkerDoor().admit(msgpack.dumps(("spawn", SPAWN | {"parsed_options": given}, "w")))

    assert message.data["parsed_options"] == {"tags": ["a"], "of_users": 3}


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x91" * 1000,
        msgpack.dumps(("spawn", SPAWN, "w")),
        msgpack.dumps(("spawn", SPAWN | {"parsed_options": {}, "timestamp": "now"}, "w")),
        msgpack.dumps(("spawn", SPAWN | {"parsed_options": {}, "user_classes_count": {"Chat": 10**9}}, "w")),
        msgpack.dumps(("ack", {"index": "1"}, "w")),
        msgpack.dumps(("update_user_class", {"user_class_name": "Chat", "stop": 1}, "w")),
        msgpack.dumps(("spawning_complete", None, "w")),
        msgpack.dumps((7, None, "w")),
    ],
)
def test_what_no_master_sends_is_ignored(frame: bytes, caplog: pytest.LogCaptureFixture) -> None:
    door = WorkerDoor()

    assert door.admit(frame) is None
    assert "ignored a message from the master: " in caplog.text
    heard = door.admit(Message("heartbeat", None, "w").serialize())
    assert heard.type == "heartbeat"
