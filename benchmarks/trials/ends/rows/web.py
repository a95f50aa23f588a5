"""Runs of the web UI: stopped, edited, and ended with their process."""

from signal import SIGTERM
from typing import Final

from benchmarks.trials.ends.row import INVALID, USABLE, Expected, Mode, Row
from benchmarks.trials.ends.steps import (
    edit_in_form,
    press_ctrl_c,
    send,
    start_in_form,
    stop_in_form,
    until_all_wrote,
    until_requests,
    until_stage,
)

COUNTED: Final = 'kind = "closed_loop"\nusers = 4\nrequests = 5000'
HOUR: Final = 'kind = "closed_loop"\nusers = 4\nduration_s = 3600\nwarmup_s = 0.5'
TIMED: Final = 'kind = "closed_loop"\nusers = 4\nduration_s = 5\nwarmup_s = 0.5'
STOPPED_EARLY: Final = Expected(codes=frozenset({3}), levels=INVALID, reasons=frozenset({"ended_early"}))

ROWS: Final = (
    Row(
        name="counted load stopped in the web UI",
        modes=(Mode.ONE, Mode.PROCESSES),
        web=True,
        load=COUNTED,
        steps=(start_in_form(), until_stage("measuring"), until_all_wrote(), stop_in_form(), press_ctrl_c()),
        expected=STOPPED_EARLY,
        ci=(Mode.ONE,),
    ),
    Row(
        name="timed load stopped in the web UI",
        modes=(Mode.ONE, Mode.WORKERS),
        web=True,
        load=HOUR,
        steps=(start_in_form(), until_stage("measuring"), until_requests(100), stop_in_form(), press_ctrl_c()),
        expected=STOPPED_EARLY,
    ),
    Row(
        name="users edited in the web UI",
        modes=(Mode.ONE, Mode.PROCESSES),
        web=True,
        load=TIMED,
        steps=(
            start_in_form(run_time="5s"),
            until_stage("measuring"),
            until_all_wrote(),
            edit_in_form(user_count=8, spawn_rate=8, run_time="5s"),
            until_stage("ended"),
            press_ctrl_c(),
        ),
        expected=Expected(codes=frozenset({0, 3}), levels=USABLE | INVALID, edited=True),
    ),
    Row(
        name="SIGTERM during a run of the web UI",
        modes=(Mode.ONE, Mode.PROCESSES),
        web=True,
        load=COUNTED,
        steps=(start_in_form(), until_stage("measuring"), until_all_wrote(), send(SIGTERM)),
        expected=Expected(codes=frozenset({130}), levels=INVALID, reasons=frozenset({"ended_early"})),
    ),
)
