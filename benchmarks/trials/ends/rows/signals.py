"""Signals at every phase of a run."""

from collections.abc import Iterator
from signal import SIGHUP, SIGTERM
from typing import Final

from benchmarks.tools.controlled_engine import Behaviour
from benchmarks.trials.ends.row import ALL, CUT, GOOD, INVALID, USABLE, Expected, Mode, Row
from benchmarks.trials.ends.steps import engine_continues, hang_up, press_ctrl_c, send, until, until_requests

SIGNALS: Final = {"Ctrl-C": press_ctrl_c(), "SIGTERM": send(SIGTERM), "SIGHUP": hang_up()}
LONG: Final = 'kind = "closed_loop"\nusers = 4\nduration_s = 60\nwarmup_s = 0.5'
PHASES: Final = {
    "ramp": 'kind = "closed_loop"\nusers = 10\nspawn_rate_per_s = 1\nduration_s = 60',
    "warm-up": 'kind = "closed_loop"\nusers = 4\nduration_s = 60\nwarmup_s = 30',
    "window": LONG,
}
SHORT: Final = 'kind = "closed_loop"\nusers = 4\nduration_s = 2\nwarmup_s = 0.5'
NEVER_BEGAN: Final = Expected(codes=frozenset({130}))
KILLED_IN_IMPORTS: Final = Expected(codes=frozenset({130, -SIGTERM, -SIGHUP}))
"""Before anything of llmload is loaded, a signal may do what it does to every program."""
WITHOUT_END: Final = Expected(codes=frozenset({1, 3, 130}), levels=USABLE | INVALID)
"""Requests were cut in the drain: whatever the verdict says of them, it is not exit code 0."""


def _at_imports() -> Iterator[Row]:
    for name, step in SIGNALS.items():
        for phase in ("imports of Locust", "imports of llmload"):
            yield Row(
                name=f"{name} in the {phase}",
                as_llmload=True,
                load=LONG,
                steps=(until(phase), step),
                expected=NEVER_BEGAN if name == "Ctrl-C" else KILLED_IN_IMPORTS,
            )


def _while_the_engine_is_asked() -> Iterator[Row]:
    for name, step in SIGNALS.items():
        yield Row(
            name=f"{name} while the engine is asked",
            modes=ALL if name != "SIGHUP" else (Mode.ONE,),
            engine=Behaviour(asked_in_vain=True),
            load=LONG,
            steps=(until("asked"), step),
            expected=NEVER_BEGAN,
            workers_wait=True,
            ci=(Mode.ONE,) if name == "SIGTERM" else (),
        )


def _at_phases() -> Iterator[Row]:
    for phase, load in PHASES.items():
        for name, step in SIGNALS.items():
            yield Row(
                name=f"{name} in the {phase}",
                modes=ALL if phase == "window" else (Mode.ONE,),
                load=load,
                steps=(until(phase), step),
                expected=CUT,
                ci=(Mode.WORKERS,) if (name, phase) == ("SIGTERM", "window") else (),
            )


def _in_the_drain() -> Iterator[Row]:
    held = Behaviour(holds=True, answers_first=40)
    yield Row(
        name="Ctrl-C in the drain",
        modes=ALL,
        engine=held,
        load=SHORT,
        steps=(until("drain"), press_ctrl_c()),
        expected=Expected(codes=frozenset({130}), levels=USABLE | INVALID),
    )
    for name in ("SIGTERM", "SIGHUP"):
        yield Row(
            name=f"{name} in the drain, and the engine answers",
            modes=ALL if name == "SIGTERM" else (Mode.ONE,),
            engine=held,
            load=SHORT,
            steps=(until("drain"), SIGNALS[name], engine_continues()),
            expected=GOOD,
        )
    yield Row(
        name="Ctrl-C twice, and the engine does not answer",
        modes=ALL,
        engine=held,
        load=LONG,
        steps=(until("window"), until_requests(44), press_ctrl_c(), until("drain"), press_ctrl_c()),
        expected=CUT,
        ci=(Mode.PROCESSES,),
    )
    yield Row(
        name="SIGTERM, and the engine does not answer",
        modes=ALL,
        engine=held,
        load=LONG,
        options=("--drain-on-sigterm", "2"),
        steps=(until("window"), until_requests(44), send(SIGTERM)),
        expected=CUT,
        ends_within_s=30,
    )


def _by_count() -> Iterator[Row]:
    for name, step in SIGNALS.items():
        yield Row(
            name=f"{name}, counted load half done",
            modes=(Mode.PROCESSES,) if name == "SIGTERM" else (Mode.ONE,),
            load='kind = "closed_loop"\nusers = 4\nrequests = 5000',
            steps=(until("window"), step),
            expected=Expected(codes=CUT.codes, levels=INVALID, reasons=CUT.reasons, says=r"of 5,?000 requests"),
        )


ROWS: Final = (
    *_at_imports(),
    *_while_the_engine_is_asked(),
    *_at_phases(),
    *_in_the_drain(),
    *_by_count(),
    Row(
        name="drain is over before the answers",
        modes=(Mode.ONE, Mode.PROCESSES),
        engine=Behaviour(holds=True, answers_first=40),
        load=SHORT,
        further="[run]\ndrain_timeout_s = 1",
        expected=WITHOUT_END,
    ),
    Row(
        name="drain takes long and is whole",
        engine=Behaviour(ttft_s=1.5, gap_s=0.5),
        load='kind = "closed_loop"\nusers = 4\nduration_s = 6',
        expected=GOOD,
    ),
)
