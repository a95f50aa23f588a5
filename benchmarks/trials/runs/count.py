"""Nothing is lost: the accounts of runs with random loads, faults and ends, in three settings."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any, Final

from click import ClickException
from rich.table import Table

from benchmarks.tools.hosts import Network
from benchmarks.tools.logged_engine import LoggedEngine
from benchmarks.trials.runs.ledger import Ledger
from benchmarks.trials.runs.places import Hosts, Local, Place, Running
from benchmarks.trials.runs.trials import Trial, draw_trials

PLACES: Final = ("local", "processes", "hosts")
START_TIMEOUT_S: Final = 60.0
END_TIMEOUT_S: Final = 120.0
POLL_S: Final = 0.2
GOOD, FAILED, INVALID = 0, 1, 3
NO_EXIT_CODE: Final = -1
NO_SUMMARY: Final[dict[str, Any]] = {
    "requests": {"started": 0, "completed": 0, "failed": 0, "censored": 0},
    "verdict": {"level": "none"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounted:
    """A run that has ended, and its accounts."""

    place: str
    trial: Trial
    ledger: Ledger
    exit_code: int
    level: str
    wall_s: float

    @property
    def differences(self) -> tuple[str, ...]:
        """Where accounts do not agree, the exit code among them."""
        expected = INVALID if self.level == "INVALID" else FAILED if self.ledger.failed else GOOD
        if self.exit_code == expected:
            return self.ledger.differences
        return (*self.ledger.differences, f"exit code {self.exit_code} where {expected} was due")


@contextmanager
def open_place(name: str) -> Iterator[Place]:
    """Give a setting while the context lasts."""
    if name == "hosts":
        with Network("engine", "master", "worker-1", "worker-2") as network:
            engine, master, *workers = network.hosts
            yield Hosts(engine, master, workers)
    else:
        yield Local(name, workers=2 if name == "processes" else 0)


def count(places: Sequence[str], runs: int, seed: int, folder: Path, say: Callable[[str], None]) -> Iterator[Accounted]:
    """Run every trial in every setting; the folders of runs without a difference are removed."""
    for name in places:
        with open_place(name) as place:
            for trial in draw_trials(runs, seed):
                own = folder / f"{name}-{trial.number:02}-{trial.end}"
                accounted = run_trial(place, trial, own)
                say(f"{own.name}: {len(accounted.differences)} differences, {accounted.ledger.started} requests")
                if not accounted.differences:
                    shutil.rmtree(own)
                yield accounted


def run_trial(place: Place, trial: Trial, folder: Path) -> Accounted:
    """Run one trial to its end and hold its accounts against each other; one that does not end is a difference."""
    folder.mkdir(parents=True)
    started_s = time.monotonic()
    fault: tuple[str, ...] = ()
    exit_code, summary = NO_EXIT_CODE, NO_SUMMARY
    with ExitStack() as stack:
        engine = stack.enter_context(LoggedEngine(place.engine_host, folder, trial.engine, trial.faults))
        running = place.start(folder, trial.scenario(engine.url), trial.arguments())
        stack.callback(running.kill)
        try:
            end(trial, running, engine)
            exit_code = running.wait(END_TIMEOUT_S)
            engine.wait_until_idle()
            summary = running.summary()
        except (ClickException, CalledProcessError) as error:
            fault = (str(error),)
    ledger = Ledger.of(summary["requests"], running.lines(), engine.log)
    return Accounted(
        place=place.name,
        trial=trial,
        ledger=replace(ledger, differences=(*fault, *ledger.differences)),
        exit_code=exit_code,
        level=summary["verdict"]["level"],
        wall_s=time.monotonic() - started_s,
    )


def end(trial: Trial, running: Running, engine: LoggedEngine) -> None:
    """End the run as the trial has it, if it does not end by itself."""
    if trial.end not in {"interrupt", "interrupt-twice", "ui-stop"}:
        return
    engine.wait_until_asked(START_TIMEOUT_S)
    time.sleep(trial.stop_after_s)
    if trial.end == "ui-stop":
        running.coordinator.fetch(f"{running.web_url}/stop", "POST")
        wait_for(lambda state: state["stage"] == "ended", running)
    running.interrupt()
    if trial.end == "interrupt-twice":
        time.sleep(trial.again_after_s)
        running.interrupt()


def wait_for(reached: Callable[[dict[str, Any]], bool], running: Running, period_s: float = POLL_S) -> None:
    """Wait until the web UI says that the run has come so far."""
    end_s = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < end_s:
        try:
            if reached(running.state()):
                return
        except CalledProcessError:
            pass  # it does not serve yet
        time.sleep(period_s)
    raise ClickException(f"the web UI did not come so far in {END_TIMEOUT_S:.0f} s")


def accounts_table(runs: Sequence[Accounted]) -> Table:
    """Return a row per run, and the sums."""
    table = Table(title="Accounts", title_justify="left", caption_justify="left")
    table.caption = "unsent: ended before the last byte was handed to the kernel; an engine need not have seen it"
    table.add_column("setting")
    table.add_column("end")
    table.add_column("faults")
    columns = ("started", "completed", "failed", "censored", "lines", "unsent", "engine's log")
    for column in (*columns, "exit code", "s", "differences"):
        table.add_column(column, justify="right")
    fields = ("started", "completed", "failed", "censored", "lines", "unsent", "logged")
    for run in runs:
        table.add_row(
            run.place,
            run.trial.end,
            " ".join(run.trial.faults) or "-",
            *(str(getattr(run.ledger, field)) for field in fields),
            str(run.exit_code),
            f"{run.wall_s:.0f}",
            str(len(run.differences)),
        )
    table.add_section()
    sums = [str(sum(getattr(run.ledger, field) for run in runs)) for field in fields]
    differences = sum(len(run.differences) for run in runs)
    table.add_row(f"{len(runs)} runs", "", "", *sums, "", "", str(differences))
    return table
