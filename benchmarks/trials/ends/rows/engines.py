"""Engines that fail, vanish, or say strange things."""

from typing import Final

from benchmarks.tools.controlled_engine import Behaviour
from benchmarks.trials.ends.row import ALL, INVALID, REFUSED, USABLE, Expected, Mode, Row, invalid
from benchmarks.trials.ends.rows.loads import BY_COUNT, BY_TIME, ONE_AND_PROCESSES, ONE_AND_WORKERS
from benchmarks.trials.ends.steps import engine_vanishes, until, until_requests

OPEN_BY_COUNT: Final = 'kind = "open_loop"\nrate_per_s = 20\nrequests = 40'
SHORT_PATIENCE: Final = "[client.timeouts]\nfirst_token_s = 1\nbetween_tokens_s = 1"
SOME_FAILED: Final = Expected(
    codes=frozenset({1}), levels=frozenset({"DEGRADED"}), reasons=frozenset({"failures", "error_share"})
)
ALL_FAILED: Final = invalid("failures", "error_share", says="http_5xx|out of memory")
BROKE_OFF: Final = Expected(codes=frozenset({1, 3}), levels=INVALID | {"DEGRADED"})
ODD_NUMBER: Final = b'{"object": "list", "data": [{"id": "controlled", "object": "model", "created": %d}]}' % 2**100
LONE_SURROGATE: Final = b'{"object": "list", "data": [{"id": "controlled", "object": "model", "owned_by": "\\ud800"}]}'

ROWS: Final = (
    Row(
        name="no engine",
        modes=ALL,
        no_engine=True,
        load=BY_TIME,
        expected=REFUSED,
        workers_wait=True,
        ci=(Mode.ONE,),
    ),
    Row(
        name="model that the engine does not serve",
        modes=ALL,
        model="another",
        load=BY_TIME,
        expected=REFUSED,
        workers_wait=True,
    ),
    Row(
        name="engine vanishes in the warm-up",
        modes=ONE_AND_PROCESSES,
        load='kind = "closed_loop"\nusers = 4\nduration_s = 6\nwarmup_s = 2',
        steps=(until("warm-up"), engine_vanishes()),
        expected=invalid("failures", "error_share", "nothing_measured", says="connect_refused"),
    ),
    Row(
        name="engine vanishes in the window",
        modes=ALL,
        load='kind = "closed_loop"\nusers = 4\nduration_s = 4',
        steps=(until("window"), until_requests(30), engine_vanishes()),
        expected=BROKE_OFF,
        ci=(Mode.PROCESSES,),
    ),
    Row(
        name="engine vanishes, counted load",
        modes=ONE_AND_WORKERS,
        load=BY_COUNT,
        steps=(until_requests(6), engine_vanishes()),
        expected=BROKE_OFF,
    ),
    Row(name="every request fails", modes=ALL, engine=Behaviour(fault="http_500"), load=BY_TIME, expected=ALL_FAILED),
    Row(
        name="every request of a counted load fails",
        modes=ONE_AND_PROCESSES,
        engine=Behaviour(fault="http_500"),
        load=BY_COUNT,
        expected=ALL_FAILED,
    ),
    Row(
        name="every request of an open loop fails",
        engine=Behaviour(fault="http_500"),
        load=OPEN_BY_COUNT,
        expected=ALL_FAILED,
    ),
    Row(
        name="every request of a staged load fails",
        locustfile="chat_staged.py",
        engine=Behaviour(fault="http_500"),
        load='kind = "staged"\nstages = [{ users = 2, duration_s = 2 }, { users = 4, duration_s = 2 }]',
        expected=ALL_FAILED,
    ),
    Row(
        name="every third request fails",
        modes=ONE_AND_WORKERS,
        engine=Behaviour(fault="http_500", fault_every=3),
        load=BY_TIME,
        expected=SOME_FAILED,
        ci=(Mode.ONE,),
    ),
    Row(
        name="engine stalls: every answer is too late",
        modes=ONE_AND_PROCESSES,
        engine=Behaviour(fault="stall"),
        load='kind = "closed_loop"\nusers = 4\nduration_s = 4',
        further=SHORT_PATIENCE,
        expected=invalid("failures", "error_share", "nothing_measured", says="between_tokens_timeout"),
    ),
    Row(
        name="engine stalls now and then",
        engine=Behaviour(fault="stall", fault_every=5),
        load='kind = "closed_loop"\nusers = 4\nduration_s = 4',
        further=SHORT_PATIENCE,
        expected=SOME_FAILED,
    ),
    Row(
        name="engine closes in the middle of every answer",
        engine=Behaviour(fault="close"),
        load=BY_COUNT,
        expected=invalid("failures", "error_share", "nothing_measured", says="incomplete_stream|reset"),
    ),
    Row(
        name="/v1/models holds 2**100",
        modes=ONE_AND_PROCESSES,
        engine=Behaviour(models=ODD_NUMBER),
        load=BY_COUNT,
        expected=Expected(codes=frozenset({0}), levels=USABLE),
    ),
    Row(
        name="/v1/models holds a lone surrogate",
        modes=(Mode.ONE, Mode.WORKERS),
        engine=Behaviour(models=LONE_SURROGATE),
        load=BY_COUNT,
        expected=Expected(codes=frozenset({0}), levels=USABLE),
    ),
    Row(
        name="one user, two workers",
        modes=(Mode.PROCESSES, Mode.WORKERS),
        load='kind = "closed_loop"\nusers = 1\nrequests = 4',
        expected=REFUSED,
    ),
    Row(
        name="max_tokens with 30 digits",
        modes=ONE_AND_PROCESSES,
        load=BY_COUNT,
        options=("--set", f"request.max_tokens={'9' * 30}"),
        expected=REFUSED,
    ),
)
