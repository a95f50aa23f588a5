"""Messages between nodes: typed at both ends, bounded, and ignored by name when they do not parse."""

import zlib
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from benchmarks.tools.generated import SCHEMAS
from llmload.loadgen.collected import Collected
from llmload.loadgen.credible import Limits
from llmload.loadgen.messages import (
    MAX_BODY_BYTES,
    Abort,
    BeginStage,
    Drain,
    Drained,
    Exhausted,
    Fault,
    Message,
    OpenWindow,
    Started,
    Step,
    Totals,
    WorkerPlan,
    last_report,
    listen,
    parse,
    send,
)
from llmload.loadgen.phases import StepCommand
from llmload.metrics.totals import RunTotals
from llmload.scenario import load_scenario
from llmload.scenario.reading import find_scenario

TOTALS = Totals.pack("run", RunTotals(started=3).to_message(), {"stage-1": RunTotals(started=2).to_message()})
DEMO = find_scenario("demo")
MESSAGES: tuple[Message, ...] = (
    WorkerPlan(
        run_id="run",
        scenario=load_scenario(find_scenario("demo")),
        workers=("a",),
    ),
    Started(run_id="run"),
    OpenWindow(run_id="run"),
    BeginStage(run_id="run", index=1),
    Step.of("run", StepCommand(index=2, load=1.5, paused=True)),
    Exhausted(run_id="run"),
    Fault(run_id="run", text="the disk is full"),
    Drain(run_id="run"),
    Abort(run_id="run"),
    TOTALS,
    Drained.pack("run", {}, {}),
)


class Runner:
    """One that sends to itself, by msgpack as Locust does."""

    def __init__(self) -> None:
        self.listeners: dict[str, Any] = {}

    def register_message(self, msg_type: str, listener: Any, concurrent: bool = False) -> None:
        self.listeners[msg_type] = listener

    def send_message(self, msg_type: str, data: Any = None) -> None:
        packed = msgpack.loads(msgpack.dumps(data), strict_map_key=False)
        self.listeners[msg_type](environment=None, msg=SimpleNamespace(data=packed, node_id="w"))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    runner: Any = Runner()
    got: list[Any] = []
    listen(runner, type(message), lambda sender, taken: got.append((sender, taken)))

    send(runner, message)

    assert got == [("w", message)]
    assert message.to_wire()["schema_version"] == 1


def test_every_kind_has_a_name_of_ours() -> None:
    names = [message.name for message in MESSAGES]

    assert len(set(names)) == len(names)
    assert all(name.startswith("llmload_") for name in names)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "message: Input should be"),
        (b"\x93", "message: Input should be"),
        ({}, "run_id: Field required"),
        ({"run_id": "run", "index": -1}, "index: Input should be greater than or equal to 0"),
        ({"run_id": "run", "index": 1, "more": 2}, "more: Extra inputs are not permitted"),
        ({"run_id": "run", "index": 1, "schema_version": 2}, "schema_version: Input should be 1"),
        ({"run_id": "r" * 1000, "index": 1}, "run_id: String should have at most 256 characters"),
        ({"run_id": "../r", "index": 1}, "run_id: String should match pattern"),
        ({"run_id": "/etc/r", "index": 1}, "run_id: String should match pattern"),
        ({"run_id": "..", "index": 1}, "run_id: String should match pattern"),
        ({"run_id": "r/s", "index": 1}, "run_id: String should match pattern"),
        ({"run_id": "run", "index": "1"}, "index: Input should be a valid integer"),
        ({"run_id": "run", "index": True}, "index: Input should be a valid integer"),
    ],
)
def test_what_does_not_parse_is_logged_by_name_and_ignored(
    caplog: pytest.LogCaptureFixture, data: Any, says: str
) -> None:
    runner: Any = Runner()
    got: list[Any] = []
    listen(runner, BeginStage, lambda _, message: got.append(message))

    runner.send_message(BeginStage.name, data)

    assert got == []
    assert f"ignored a message from w: llmload_stage: {says}" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("load", [float("nan"), float("inf"), -1.0, 1e300])
def test_a_step_has_a_load_that_can_be_sent(load: float) -> None:
    data = {"run_id": "run", "index": 0, "load": load, "paused": False, "measured": False}

    with pytest.raises(ValueError, match="load: Input should be"):
        parse(Step, data)


GOOD = RunTotals(started=3).to_message()


def packed(*values: Any) -> bytes:
    return zlib.compress(msgpack.dumps(values))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not zlib",
        zlib.compress(b"\xc1"),
        packed(1, 2, 3),
        packed({"no such figure": 1}, {}),
        packed(GOOD | {"more": 1}, {}),
        packed({name: value for name, value in GOOD.items() if name != "failed"}, {}),
        packed(GOOD | {"started": "many"}, {}),
        packed(GOOD | {"started": "3"}, {}),
        packed(GOOD | {"started": True}, {}),
        packed(GOOD | {"started": -1}, {}),
        packed(GOOD | {"started": 3.0}, {}),
        packed(GOOD | {"busy_s": float("nan")}, {}),
        packed(GOOD | {"distributions": {"ttft_s": 3}}, {}),
        packed(GOOD | {"distributions": {"no such": {}}}, {}),
        packed(GOOD | {"errors": 5}, {}),
        packed(GOOD | {"errors": {f"e{number}": 0 for number in range(1000)}}, {}),
        packed(GOOD | {"failures": [["no such", None, 1, []]]}, {}),
        packed(GOOD | {"exemplars": {"ttft_s": [[1.0, "\x1b[2J", 2.0]]}}, {}),
        packed(GOOD, {f"stage-{number}": GOOD for number in range(900)}),
        TOTALS.body[:-9],
        zlib.compress(bytes(MAX_BODY_BYTES + 1)),
    ],
)
def test_totals_that_cannot_be_added_up_change_nothing(body: bytes) -> None:
    collected, limits = Collected("run"), Limits(elapsed_s=60.0, phases=frozenset({"stage-1"}))
    collected.take(
        "w", last_report(SimpleNamespace(run_id="run", totals=RunTotals(started=9), stages={}, names={})), limits
    )
    collected.final.clear()

    doubt = collected.take("w", Totals(run_id="run", version="1", body=body), limits)

    assert collected.merged().started == 9
    assert doubt is not None
    assert doubt.startswith("body: ")


def test_totals_say_what_was_counted() -> None:
    totals, stages, _ = TOTALS.unpack()

    assert (totals.started, {name: of.started for name, of in stages.items()}) == (3, {"stage-1": 2})


def test_every_message_has_a_schema() -> None:
    [shipped] = [set(models) for file, models in SCHEMAS.items() if file.name == "messages.schema.json"]

    assert shipped == {type(message) for message in MESSAGES}
