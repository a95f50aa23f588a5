"""Workers and masters that are killed, stopped, or late."""

from signal import SIGKILL
from typing import Final

from benchmarks.trials.ends.row import INVALID, USABLE, Expected, Mode, Row, invalid
from benchmarks.trials.ends.rows.signals import LONG
from benchmarks.trials.ends.steps import late_worker, pause, send, stop_for, until, until_all_wrote

SEVERAL: Final = (Mode.PROCESSES, Mode.WORKERS)
IN_FLIGHT: Final = 40
"""What a killed process may have had in flight, or ended and not yet written."""
KILLED: Final = Expected(codes=frozenset({-SIGKILL}), levels=INVALID, reported=True, killed=IN_FLIGHT)
SHORT: Final = 'kind = "closed_loop"\nusers = 4\nduration_s = 8\nwarmup_s = 0.5'
MISSING: Final = invalid("missing_workers", killed=IN_FLIGHT)

ROWS: Final = (
    Row(
        name="SIGKILL of the only process",
        load=LONG,
        steps=(until("window"), until_all_wrote(), send(SIGKILL)),
        expected=KILLED,
        ci=(Mode.ONE,),
    ),
    Row(
        name="SIGKILL of the master",
        modes=SEVERAL,
        load=LONG,
        steps=(until("window"), until_all_wrote(), send(SIGKILL)),
        expected=KILLED,
    ),
    Row(
        name="SIGKILL of one worker",
        modes=SEVERAL,
        load=SHORT,
        steps=(until("window"), until_all_wrote(), send(SIGKILL, "worker")),
        expected=MISSING,
    ),
    Row(
        name="SIGKILL of all workers",
        modes=SEVERAL,
        load=LONG,
        steps=(until("window"), until_all_wrote(), send(SIGKILL, "workers")),
        expected=MISSING,
    ),
    Row(
        name="a worker stops for 10 s",
        modes=SEVERAL,
        load='kind = "closed_loop"\nusers = 4\nduration_s = 15\nwarmup_s = 0.5',
        steps=(until("window"), until_all_wrote(), *stop_for(10, "worker")),
        expected=invalid("missing_workers"),
        ends_within_s=25,
    ),
    Row(
        name="the master stops for 2 s",
        modes=SEVERAL,
        load=SHORT,
        steps=(until("window"), until_all_wrote(), *stop_for(2, "main")),
        expected=Expected(codes=frozenset({0, 3}), levels=USABLE | INVALID),
    ),
    Row(
        name="the master stops for 10 s",
        modes=SEVERAL,
        load='kind = "closed_loop"\nusers = 4\nduration_s = 15\nwarmup_s = 0.5',
        steps=(until("window"), until_all_wrote(), *stop_for(10, "main")),
        expected=Expected(codes=frozenset({3}), levels=INVALID),
        ends_within_s=25,
    ),
    Row(
        name="a worker comes late",
        modes=SEVERAL[1:],
        load=SHORT,
        steps=(until("window"), late_worker(), pause(1)),
        expected=Expected(  # Locust gives it a user of another worker, which then idles
            codes=frozenset({0, 3}),
            levels=frozenset({"DEGRADED", "INVALID"}),
            reasons=frozenset({"late_workers", "concurrency_shortfall"}),
            says='"check": "late_workers"',
        ),
    ),
)
