"""A run put together: Locust's hooks on one side, sessions, totals and the run folder on the other."""

from locust.env import Environment
from locust.event import Events
from locust.runners import STATE_INIT, STATE_STOPPED, MasterRunner, WorkerRunner

import gc
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import gevent
from gevent import Greenlet

from llmload.errors import EngineError, LlmloadError
from llmload.measure.record import RequestRecord
from llmload.measure.totals import RunTotals
from llmload.report.run_folder import RequestLog, RunFolder, new_run_id
from llmload.scenario import Scenario
from llmload.swarm import loop_lag, options, totals_channel
from llmload.swarm.drain import ANSWER_GRACE_S, DRAIN, DRAINED, EXHAUSTED, Roll, drain
from llmload.swarm.outcome import Outcomes
from llmload.swarm.progress import show_progress
from llmload.swarm.session import Session, Share, Span
from llmload.wire import ClientSettings, Timeouts, make_client
from llmload.workload.prompts import Workload, load
from llmload.engines.deployment import Deployment, ask

WRONG_USE: Final = 2
logger = logging.getLogger(__name__)


@contextmanager
def ending_on_wrong_use() -> Iterator[None]:
    """End the process with exit code 2 and a line a fault, instead of a traceback."""
    try:
        yield
    except LlmloadError as error:
        _refuse(str(error))


def _refuse(text: str) -> NoReturn:
    for line in text.splitlines():
        print(f"llmload: {line}", file=sys.stderr)  # noqa: T201 - Locust's log may be off; this must be seen
    sys.stderr.flush()
    sys.exit(WRONG_USE)
