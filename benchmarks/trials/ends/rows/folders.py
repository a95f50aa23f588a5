"""Disks that fill, and run folders that go."""

from dataclasses import replace
from typing import Final

from benchmarks.trials.ends.row import GOOD, INVALID, REFUSED, Expected, Mode, Row
from benchmarks.trials.ends.steps import (
    delete_folder,
    fill_disk,
    free_disk,
    make_immutable,
    move_folder,
    replace_folder,
    until,
    until_all_wrote,
    until_said,
)

LOAD: Final = 'kind = "closed_loop"\nusers = 4\nduration_s = 6\nwarmup_s = 0.5'
BOTH: Final = (Mode.ONE, Mode.PROCESSES)
DISK_KIB: Final = 1024
LINES_AND_SUMMARY_LOST: Final = Expected(
    codes=frozenset({3}), levels=INVALID, reasons=frozenset({"lost_records"}), folder_lost=True
)
OTHER_FILES_LOST: Final = Expected(
    codes=frozenset({1}),
    levels=frozenset({"DEGRADED"}),
    reasons=frozenset({"unwritten_files"}),
    folder_lost=True,
)
CANNOT: Final = r"cannot be written"

ROWS: Final = (
    Row(
        name="disk full before the start",
        modes=BOTH,
        load=LOAD,
        disk_kib=DISK_KIB,
        steps_before=(fill_disk(),),
        expected=REFUSED,
    ),
    Row(
        name="disk full in the window",
        modes=BOTH,
        load=LOAD,
        disk_kib=DISK_KIB,
        steps=(until("window"), until_all_wrote(), fill_disk()),
        expected=replace(LINES_AND_SUMMARY_LOST, report_agrees=True),
    ),
    Row(
        name="disk full in the window, room comes back",
        modes=BOTH,
        load=LOAD,
        disk_kib=DISK_KIB,
        steps=(until("window"), until_all_wrote(), fill_disk(), until_said(CANNOT), free_disk()),
        expected=replace(GOOD, report_agrees=True),  # lines are held back, and follow
    ),
    Row(
        name="folder deleted in the window",
        modes=BOTH,
        load=LOAD,
        steps=(until("window"), until_all_wrote(), delete_folder()),
        expected=LINES_AND_SUMMARY_LOST,
        ci=(Mode.ONE,),
    ),
    Row(
        name="folder moved and replaced in the window",
        modes=BOTH,
        load=LOAD,
        steps=(until("window"), until_all_wrote(), move_folder()),
        expected=replace(GOOD, says=r"was moved to .*moved-away"),  # an open folder is followed, and nothing is lost
    ),
    Row(
        name="folder deleted and replaced in the window",
        load=LOAD,
        steps=(until("window"), until_all_wrote(), replace_folder()),
        expected=LINES_AND_SUMMARY_LOST,
    ),
    Row(
        name="folder read-only in the window",
        modes=BOTH,
        load=LOAD,
        steps=(until("window"), until_all_wrote(), make_immutable(files=False)),
        expected=OTHER_FILES_LOST,
    ),
    Row(
        name="folder and files read-only in the window",
        load=LOAD,
        steps=(until("window"), until_all_wrote(), make_immutable(files=True)),
        expected=replace(LINES_AND_SUMMARY_LOST, report_agrees=True),
    ),
    Row(
        name="too few descriptors for the users",
        modes=BOTH,
        load='kind = "closed_loop"\nusers = 200\nduration_s = 4\nwarmup_s = 0.5',
        descriptors=80,
        expected=Expected(codes=frozenset({1, 2, 3}), levels=frozenset({"DEGRADED"}) | INVALID, says="ulimit -n"),
    ),
)
