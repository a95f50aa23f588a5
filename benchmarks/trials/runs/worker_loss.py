"""A worker that is killed or disconnected: how soon it is noticed, and which records are left."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from click import ClickException
from rich.table import Table

from benchmarks import ROOT
from benchmarks.tools.logged_engine import LoggedEngine
from benchmarks.tools.requirements import Requirement, at_most, exactly
from benchmarks.trials.runs.count import END_TIMEOUT_S, START_TIMEOUT_S, open_setting, wait_for
from benchmarks.trials.runs.settings import Hosts, Setting, StartedRun

LOSSES: Final = {"kill -9, processes": "processes", "kill -9, hosts": "hosts", "cable pulled, hosts": "hosts"}
NOTICE_S: Final = 5.0
SETTLE_S: Final = 4.0
"""Length of the run before the loss: long enough for a report of each worker."""
ENGINE: Final[dict[str, object]] = {"ttft_s": 0.05, "itl_s": 0.01, "output_tokens": 8}
SCENARIO: Final = """\
[tool.locust]
locustfile = "{locustfile}"
[scenario]
name = "lost-worker-benchmark"
[engine]
name = "simulated"
base_url = "{url}"
[model]
name = "simulated"
[prompts]
repeat = true
[load]
kind = "closed_loop"
users = 4
duration_s = 600
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The figures of a run that lost a worker."""

    way: str
    noticed_s: float
    """From the loss until the web UI's verdict named it."""
    level: str
    exit_code: int
    counted: int
    """Requests that ended, by the summary."""
    lines: int
    """Requests in the files of the master's host, which the report can read."""
    lines_elsewhere: int
    """Requests in the files of other hosts."""


def lose_worker(way: str, folder: Path) -> Loss:
    """Run until both workers have reported, lose one, wait until the master notices, and end the run."""
    folder.mkdir(parents=True)
    with open_setting(LOSSES[way]) as setting, LoggedEngine(setting.engine_host, folder, ENGINE, {}) as engine:
        scenario = SCENARIO.format(locustfile=ROOT / "locustfiles" / "chat.py", url=engine.url)
        running = setting.start(folder, scenario, ["--autostart"])
        try:
            engine.wait_for_first_request(START_TIMEOUT_S)
            time.sleep(SETTLE_S)
            if "missing_workers" in checks_of(running.state()):
                raise ClickException(f"{way}: a worker was missing before it was lost; is this machine busy?")
            lost_at_s = time.monotonic()
            lose_by(way, setting, running)
            wait_for(lambda state: "missing_workers" in checks_of(state), running, period_s=0.02)
            noticed_s = time.monotonic() - lost_at_s
            running.master_host.fetch(f"{running.web_url}/stop", "POST")
            running.interrupt()
            exit_code = running.processes[0].wait(END_TIMEOUT_S)
        finally:
            running.kill()
    summary, here = running.summary(), running.folders[0]
    requests = summary["requests"]
    lines_here = sum(len(file.read_bytes().splitlines()) for file in running.request_files() if here in file.parents)
    return Loss(
        way=way,
        noticed_s=noticed_s,
        level=summary["verdict"]["level"],
        exit_code=exit_code,
        counted=requests["completed"] + requests["failed"] + requests["censored"],
        lines=lines_here,
        lines_elsewhere=len(list(running.lines())) - lines_here,
    )


def lose_by(way: str, setting: Setting, running: StartedRun) -> None:
    """Kill a worker, or take its host's network down."""
    if way.startswith("kill"):
        os.kill(running.workers()[0], signal.SIGKILL)
    elif isinstance(setting, Hosts):
        setting.workers[0].unplug()


def checks_of(state: dict[str, object]) -> set[str]:
    """Return the checks that the live verdict names."""
    verdict = state.get("verdict")
    return {reason["check"] for reason in verdict["reasons"]} if isinstance(verdict, dict) else set()


def judge_losses(losses: Sequence[Loss]) -> list[Requirement]:
    """Judge runs that lost a worker."""
    judgements = []
    for loss in losses:
        judgements += [
            at_most(loss.way, "noticed after, s", loss.noticed_s, NOTICE_S, "{:.1f}"),
            exactly(loss.way, "verdict", loss.level, "INVALID"),
            exactly(loss.way, "exit code", loss.exit_code, 3),
        ]
        if not loss.lines_elsewhere:
            judgements.append(exactly(loss.way, "requests counted, as in the files", loss.counted, loss.lines))
    return judgements


def losses_table(losses: Sequence[Loss]) -> Table:
    """Return a row per run."""
    table = Table(title="A lost worker", title_justify="left")
    table.add_column("way")
    for column in ("noticed after s", "verdict", "exit code", "counted", "lines here", "lines on other hosts"):
        table.add_column(column, justify="right")
    for loss in losses:
        figures = (loss.exit_code, loss.counted, loss.lines, loss.lines_elsewhere)
        table.add_row(loss.way, f"{loss.noticed_s:.1f}", loss.level, *map(str, figures))
    return table
