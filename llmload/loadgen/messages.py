"""
The messages between a master and its workers, and the reports of totals that they carry.

During a run a report has limited room, so histograms are coarser where latencies spread widely; the last report is
whole.
"""

import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, Self, TypeVar

import msgpack
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from llmload.loadgen.locust_compat import Received, Runner
from llmload.loadgen.phases import StepCommand
from llmload.loadgen.wire import MAX_FRAME_BYTES, first_fault, unpacked
from llmload.metrics.by_name import NamedTotals
from llmload.metrics.received import named_totals_of, totals_of
from llmload.metrics.totals import COARSEST, RunTotals
from llmload.prompts.workload import Calibration
from llmload.scenario import Scenario
from llmload.scenario.lengths import MAX_SHAPES
from llmload.scenario.sections import MAX_LOAD

# The messages between a master and its workers.
#
#     master --PLAN--> worker             the run that Locust's next start begins
#     worker --STARTED--> master          its session is open, and its users run
#     master --WINDOW--> worker           all workers have started: the window opens, and the first phase begins
#     master --STAGE | STEP--> worker     a later stage begins; a step of a search or a sweep, or what an edit makes of
#                                         the load, begins or is measured
#     worker --TOTALS--> master           all that the worker has counted so far
#     worker --EXHAUSTED--> master        nothing more to send, and nothing in flight
#     worker --FAULT--> master            something of llmload's failed there, so the run is to end
#     master --DRAIN--> worker            start nothing, wait until idle, cut the rest
#     master --ABORT--> worker            cut what is in flight now: a second Ctrl-C
#     worker --DRAINED--> master          the worker's last, whole totals
#
# Locust ends a headless distributed run by dropping every request in flight, and those are the slow ones. Here the
# master blocks in `test_stopping` until its workers have drained.

SCHEMA_VERSION: Final = 1
MAX_BODY_BYTES: Final = MAX_FRAME_BYTES - 4096
"""Packed or not."""
MAX_TEXT: Final = 4096
MAX_WORKERS: Final = 1_000
_Name = Annotated[str, Field(max_length=256)]
_RunId = Annotated[str, Field(max_length=256, pattern=r"^\w[\w.-]*$")]
"""A name without a path in it, since it becomes a folder's; text before a point, so that it is not hidden."""

logger = logging.getLogger(__name__)


class Message(BaseModel):
    """What every message says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    name: ClassVar[str]
    """Its type among Locust's messages."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: _RunId

    def to_wire(self) -> dict[str, Any]:
        """Return the message as plain values, for msgpack."""
        return self.model_dump(mode="json")


class WorkerPlan(Message):
    """What a worker needs to know before a run starts."""

    model_config = ConfigDict(strict=False)
    name = "llmload_plan"
    scenario: Scenario
    workers: Annotated[tuple[_Name, ...], Field(max_length=MAX_WORKERS)]
    """The ids of all workers of the run; a worker's index is its shard."""
    calibration: Calibration | None = None
    """What the master has learned of the engine, where the scenario asks for lengths."""


class Started(Message):
    """
    A worker's session is open, and its users run: its answer to Locust's `spawning_complete`.

    Locust's master sends that after all that starts users, so a worker answers it once it has done all of this.
    After an edit, it also waits for the last answers of users that the edit has stopped.
    """

    name = "llmload_started"
    edits: NonNegativeInt = 0
    """How many edits of the load the worker had heard of when Locust's message came."""


class OpenWindow(Message):
    """All workers send: the window opens and the first phase begins now."""

    name = "llmload_window"


class BeginStage(Message):
    """A stage of a staged load with users, not the first, begins now."""

    name = "llmload_stage"
    index: NonNegativeInt


class Step(Message):
    """A `StepCommand` of a capacity search or a sweep, or of an edit."""

    name = "llmload_step"
    index: NonNegativeInt
    load: Annotated[FiniteFloat, Field(ge=0, le=MAX_LOAD)]
    paused: bool
    measured: bool
    closed: bool
    shape: Annotated[int, Field(ge=0, lt=MAX_SHAPES)] | None

    @classmethod
    def of(cls, run_id: str, command: StepCommand) -> Self:
        """Return the message that carries a command."""
        return cls(run_id=run_id, **asdict(command))

    @property
    def command(self) -> StepCommand:
        """The command that it carries."""
        return StepCommand(
            index=self.index,
            load=self.load,
            paused=self.paused,
            measured=self.measured,
            closed=self.closed,
            shape=self.shape,
        )


class Exhausted(Message):
    """A worker has nothing more to send and nothing in flight."""

    name = "llmload_exhausted"


class Fault(Message):
    """Something failed on a worker beside requests."""

    name = "llmload_fault"
    text: Annotated[str, Field(max_length=MAX_TEXT)]
    """What failed, in a line."""


class Drain(Message):
    """Start nothing more, wait until idle for the drain timeout, cut the rest, answer `Drained`."""

    name = "llmload_drain"


class Abort(Message):
    """Cut what is in flight now."""

    name = "llmload_abort"


class Totals(Message):
    """All that a worker has counted in a run so far, so that a lost or repeated report changes nothing."""

    name = "llmload_totals"
    version: _Name
    """Of llmload on the worker."""
    body: Annotated[bytes, Field(max_length=MAX_BODY_BYTES)]
    """The totals of run, stages and names, packed: a report rides on each of Locust's, and must stay small."""

    @classmethod
    def pack(
        cls,
        run_id: str,
        totals: Mapping[str, Any],
        stages: Mapping[str, Mapping[str, Any]],
        names: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """Return the message that carries totals, each as its `to_message` gives it."""
        body = zlib.compress(msgpack.dumps([totals, stages, names or {}]))  # keys come again and again
        return cls(run_id=run_id, version=version("llmload"), body=body)

    def to_wire(self) -> dict[str, Any]:
        """Return the message as plain values, for msgpack."""
        return self.model_dump()  # JSON has no bytes

    def unpack(self, phases: frozenset[str] | None = None) -> tuple[RunTotals, dict[str, RunTotals], NamedTotals]:
        """
        Return the totals of the run, of each stage, and of each name; ValueError if the body does not hold them.

        Also where it has a stage whose name is not one of `phases`, or too many names: each takes half a megabyte.
        """
        try:
            return _totals_in(unpacked(_inflate(self.body)), phases)
        except (zlib.error, ValueError) as error:
            raise ValueError(f"body: {error}") from None


class Drained(Totals):
    """A worker's last, whole totals: it has nothing in flight."""

    name = "llmload_drained"


def _totals_in(values: object, phases: frozenset[str] | None) -> tuple[RunTotals, dict[str, RunTotals], NamedTotals]:
    match values:
        case [totals, dict() as stages, dict() as names]:
            unknown = set() if phases is None else stages.keys() - phases
            if unknown:
                raise ValueError(f"the load has no stage {str(min(unknown, key=str))[:40]!r}")
            return (
                totals_of(totals),
                {name: totals_of(of) for name, of in stages.items()},
                named_totals_of(names),
            )
        case _:
            raise ValueError("holds no totals")


def _inflate(body: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(body, MAX_BODY_BYTES)
    if not inflater.eof:
        raise ValueError(f"cut short, or more than {MAX_BODY_BYTES} bytes")
    return plain


M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: object) -> M:
    """Return the message that the data hold; ValueError, with the key, if they do not hold one."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


def ignore(sender: str, why: str) -> None:
    """Log that a message was not taken."""
    logger.warning("ignored a message from %s: %s", sender or "the master", why)


def listen(
    runner: Runner,
    kind: type[M],
    take: Callable[[str, M], None],
    *,
    concurrent: bool = False,
    refuse: Callable[[str, str], None] = ignore,
) -> None:
    """Call `take` with the sender's id and each message of a kind; `refuse` with the id and why if it is none."""

    def on_message(msg: Received, **_: object) -> None:
        try:
            message = parse(kind, msg.data)
        except ValueError as error:
            refuse(msg.node_id, f"{kind.name}: {error}")
        else:
            take(msg.node_id, message)

    runner.register_message(kind.name, on_message, concurrent=concurrent)


def send(runner: Runner, message: Message) -> None:
    """Send to every worker from a master, to the master from a worker."""
    runner.send_message(message.name, message.to_wire())


KEY: Final = "llmload"
"""Our key in Locust's own report."""
REPORT_BYTES: Final = 14_500
"""Limit of a worker's report, Locust's own part included: with its envelope it is less than 15 kB."""
_STAGES_ALWAYS: Final = 2
"""The current stage, and the one before it, whose last requests are still ending."""

T = TypeVar("T", bound=Totals)


class Counting(Protocol):
    """The part of a session that is reported."""

    @property
    def run_id(self) -> str:
        """Which run it is."""

    @property
    def totals(self) -> RunTotals:
        """What the process has counted."""

    @property
    def stages(self) -> dict[str, RunTotals]:
        """The same of each stage, in the order in which they began."""

    @property
    def names(self) -> NamedTotals:
        """The same of each name."""


def last_report(session: Counting) -> Drained:
    """Return a worker's whole report, coarser only where hundreds of stages would not fit into a message."""
    for coarseness in range(COARSEST):
        report = _report(Drained, session, list(session.stages), list(session.names), coarseness)
        if len(report.body) <= MAX_BODY_BYTES:
            return report
    return _report(Drained, session, list(session.stages), list(session.names), COARSEST)


class Reports:
    """The reports of a worker during a run."""

    def __init__(self, session: Counting) -> None:
        self._session = session
        self._coarseness = 0
        self._made = self._names_sent = 0

    def next(self, room_bytes: int) -> Totals:
        """Return a report of at most `room_bytes` on the wire, or the coarsest if even that is larger."""
        self._made += 1
        self._coarseness = max(0, self._coarseness - 1)  # the next stage may need less room
        names = self._names()
        while True:
            made = _report(Totals, self._session, self._stages(), names, self._coarseness)
            if wire_bytes(made) <= room_bytes or (self._coarseness == COARSEST and len(names) <= 1):
                self._names_sent += len(names)
                return made
            if len(names) > 1:
                names = names[: len(names) // 2]
            else:
                self._coarseness += 1

    def fine(self) -> Totals:
        """Return a report as fine as the last one, of any size."""
        self._made += 1
        return _report(Totals, self._session, self._stages(), self._names(), 0)

    def _stages(self) -> list[str]:
        """Return the last stages, and one older stage in turn: those no longer change."""
        names = list(self._session.stages)
        older = names[:-_STAGES_ALWAYS]
        return names[-_STAGES_ALWAYS:] + ([older[self._made % len(older)]] if older else [])

    def _names(self) -> list[str]:
        """Return all names, beginning with another one each time: the first ones have room."""
        names = list(self._session.names)
        first = self._names_sent % max(1, len(names))
        return names[first:] + names[:first]


def wire_bytes(report: Totals) -> int:
    """Return how many bytes a report takes in a message."""
    return len(msgpack.dumps(report.to_wire()))


def _report(kind: type[T], session: Counting, stages: list[str], names: list[str], coarseness: int) -> T:
    def parts(of: Mapping[str, RunTotals], keys: list[str]) -> dict[str, Any]:
        return {key: of[key].to_message(with_out_of_window=False, coarseness=coarseness) for key in keys}

    return kind.pack(
        session.run_id,
        session.totals.to_message(coarseness=coarseness),
        parts(session.stages, stages),
        parts(session.names, names),
    )
