"""Runs that end by themselves: every type of load, and windows in which nothing can be measured."""

from typing import Final

from benchmarks.tools.controlled_engine import Behaviour
from benchmarks.trials.ends.row import ALL, GOOD, NOTHING_MEASURED, REFUSED, Mode, Row
from benchmarks.trials.ends.steps import engine_continues, until

BY_TIME: Final = 'kind = "closed_loop"\nusers = 4\nduration_s = 3\nwarmup_s = 0.5'
BY_COUNT: Final = 'kind = "closed_loop"\nusers = 4\nrequests = 20'
TRACE: Final = "timestamp\n" + "".join(f"{number / 10:.1f}\n" for number in range(30))
ONE_AND_PROCESSES: Final = (Mode.ONE, Mode.PROCESSES)
ONE_AND_WORKERS: Final = (Mode.ONE, Mode.WORKERS)
SLOW_WORKER: Final = """\
import sys
from pathlib import Path

from locust import events
from gevent.monkey import get_original
from llmload.loadgen import node
from llmload.loadgen.users import ChatUser, install

open_session = node.open_session


def open_slowly(*arguments):
    try:
        Path("slow").mkdir()
    except FileExistsError:
        return open_session(*arguments)  # the other worker is the slow one
    get_original("time", "sleep")(2.8)  # as slow work does that lets no greenlet run
    return open_session(*arguments)


if "--worker" in sys.argv:
    node.open_session = open_slowly
install(events)


class Chat(ChatUser):
    pass
"""

ROWS: Final = (
    Row(name="done by count", modes=ALL, load=BY_COUNT, expected=GOOD, ci=(Mode.ONE,)),
    Row(name="done by time", modes=ALL, load=BY_TIME, expected=GOOD),
    Row(
        name="open loop, done by time",
        modes=ONE_AND_PROCESSES,
        load='kind = "open_loop"\nrate_per_s = 20\nduration_s = 3\nwarmup_s = 0.5',
        expected=GOOD,
    ),
    Row(
        name="open loop, done by count",
        modes=ONE_AND_WORKERS,
        load='kind = "open_loop"\nrate_per_s = 20\nrequests = 40',
        expected=GOOD,
    ),
    Row(
        name="staged",
        modes=ONE_AND_PROCESSES,
        locustfile="chat_staged.py",
        load='kind = "staged"\nwarmup_s = 0.5\nstages = [{ users = 2, duration_s = 3 }, { users = 4, duration_s = 3 }]',
        expected=GOOD,
    ),
    Row(
        name="spike",
        modes=ONE_AND_WORKERS,
        load='kind = "spike"\nbase_rate_per_s = 10\nburst_rate_per_s = 40\nburst_s = 1\nperiod_s = 3\nduration_s = 7',
        expected=GOOD,
    ),
    Row(
        name="replay of a trace",
        modes=ONE_AND_PROCESSES,
        load='kind = "replay"\ntrace = "trace.csv"',
        files={"trace.csv": TRACE},
        expected=GOOD,
    ),
    Row(
        name="search for a capacity",
        modes=ONE_AND_PROCESSES,
        locustfile="chat_capacity.py",
        load='kind = "capacity"\nobjectives = ["ttft_s p95 < 1"]\nstart = 2\nat_most = 4\nwarmup_s = 0.5\n'
        "step_min_s = 1\nstep_max_s = 4\nstep_min_requests = 10",
        expected=GOOD,
        ends_within_s=25,
    ),
    Row(
        name="window that cannot open: ramp longer than the run",
        modes=ALL,
        load='kind = "closed_loop"\nusers = 10\nspawn_rate_per_s = 1\nduration_s = 5',
        expected=REFUSED,
        ci=(Mode.PROCESSES,),
    ),
    Row(
        name="window that did not open: requests done in the warm-up",
        modes=ALL,
        load='kind = "closed_loop"\nusers = 4\nrequests = 8\nwarmup_s = 5',
        expected=NOTHING_MEASURED,
    ),
    Row(
        name="a worker slow to start: the load's time begins with it",
        modes=(Mode.WORKERS,),
        users=SLOW_WORKER,
        load='kind = "closed_loop"\nusers = 4\nduration_s = 2',
        expected=GOOD,
        ends_within_s=25,
    ),
    Row(
        name="no answer inside the window",
        modes=ONE_AND_PROCESSES,
        engine=Behaviour(holds=True),
        load='kind = "closed_loop"\nusers = 4\nduration_s = 2',
        steps=(until("drain"), engine_continues()),
        expected=NOTHING_MEASURED,
        ci=(Mode.ONE,),
    ),
)
