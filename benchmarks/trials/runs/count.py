"""No request is lost: the accounts of runs with random loads, faults and ends, in three settings."""

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
from benchmarks.trials.runs.accounts import Accounts
from benchmarks.trials.runs.settings import Hosts, Local, Setting, StartedRun
from benchmarks.trials.runs.trials import Trial, draw_trials

SETTINGS: Final = ("local", "processes", "hosts")
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
class CheckedRun:
    """A run that has ended, and its accounts."""

    setting: str
    trial: Trial
    accounts: Accounts
    exit_code: int
    level: str
    wall_s: float

    @property
    def differences(self) -> tuple[str, ...]:
        """What does not agree, the exit code included."""
        expected = INVALID if self.level == "INVALID" else FAILED if self.accounts.failed else GOOD
        if self.exit_code == expected:
            return self.accounts.differences
        return (*self.accounts.differences, f"exit code {self.exit_code}, expected {expected}")


@contextmanager
def open_setting(name: str) -> Iterator[Setting]:
    """Yield a setting while the context lasts."""
    if name == "hosts":
        with Network("engine", "master", "worker-1", "worker-2") as network:
            engine, master, *workers = network.hosts
            yield Hosts(engine, master, workers)
    else:
        yield Local(name, workers=2 if name == "processes" else 0)


def count(
    settings: Sequence[str], runs: int, seed: int, folder: Path, say: Callable[[str], None]
) -> Iterator[CheckedRun]:
    """Run every trial in every setting; the folders of runs without a difference are removed."""
    for name in settings:
        with open_setting(name) as setting:
            for trial in draw_trials(runs, seed):
                own = folder / f"{name}-{trial.number:02}-{trial.end}"
                checked = run_trial(setting, trial, own)
                say(f"{own.name}: {len(checked.differences)} differences, {checked.accounts.started} requests")
                if not checked.differences:
                    shutil.rmtree(own)
                yield checked


def run_trial(setting: Setting, trial: Trial, folder: Path) -> CheckedRun:
    """Run one trial to its end and check its accounts; a run that does not end is a difference."""
    folder.mkdir(parents=True)
    started_s = time.monotonic()
    fault: tuple[str, ...] = ()
    exit_code, summary = NO_EXIT_CODE, NO_SUMMARY
    with ExitStack() as stack:
        engine = stack.enter_context(LoggedEngine(setting.engine_host, folder, trial.engine, trial.faults))
        running = setting.start(folder, trial.scenario(engine.url), trial.arguments())
        stack.callback(running.kill)
        try:
            end(trial, running, engine)
            exit_code = running.wait(END_TIMEOUT_S)
            engine.wait_until_idle()
            summary = running.summary()
        except (ClickException, CalledProcessError) as error:
            fault = (str(error),)
    accounts = Accounts.of(summary["requests"], running.lines(), engine.log)
    return CheckedRun(
        setting=setting.name,
        trial=trial,
        accounts=replace(accounts, differences=(*fault, *accounts.differences)),
        exit_code=exit_code,
        level=summary["verdict"]["level"],
        wall_s=time.monotonic() - started_s,
    )


def end(trial: Trial, running: StartedRun, engine: LoggedEngine) -> None:
    """End the run as the trial says, if it does not end by itself."""
    if trial.end not in {"interrupt", "interrupt-twice", "ui-stop"}:
        return
    engine.wait_for_first_request(START_TIMEOUT_S)
    time.sleep(trial.stop_after_s)
    if trial.end == "ui-stop":
        running.master_host.fetch(f"{running.web_url}/stop", "POST")
        wait_for(lambda state: state["stage"] == "ended", running)
    running.interrupt()
    if trial.end == "interrupt-twice":
        time.sleep(trial.again_after_s)
        running.interrupt()


def wait_for(reached: Callable[[dict[str, Any]], bool], running: StartedRun, period_s: float = POLL_S) -> None:
    """Wait until the live state meets a condition; ClickException after a timeout."""
    end_s = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < end_s:
        try:
            if reached(running.state()):
                return
        except CalledProcessError:
            pass  # it does not serve yet
        time.sleep(period_s)
    raise ClickException(f"the live state did not change as expected in {END_TIMEOUT_S:.0f} s")


def accounts_table(runs: Sequence[CheckedRun]) -> Table:
    """Return a row per run, and the sums."""
    table = Table(title="Accounts", title_justify="left", caption_justify="left")
    table.caption = "unsent: ended before its last byte was sent; the engine may not have seen it"
    table.add_column("setting")
    table.add_column("end")
    table.add_column("faults")
    columns = ("started", "completed", "failed", "censored", "lines", "unsent", "engine's log")
    for column in (*columns, "exit code", "s", "differences"):
        table.add_column(column, justify="right")
    fields = ("started", "completed", "failed", "censored", "lines", "unsent", "logged")
    for run in runs:
        table.add_row(
            run.setting,
            run.trial.end,
            " ".join(run.trial.faults) or "-",
            *(str(getattr(run.accounts, field)) for field in fields),
            str(run.exit_code),
            f"{run.wall_s:.0f}",
            str(len(run.differences)),
        )
    table.add_section()
    sums = [str(sum(getattr(run.accounts, field) for run in runs)) for field in fields]
    differences = sum(len(run.differences) for run in runs)
    table.add_row(f"{len(runs)} runs", "", "", *sums, "", "", str(differences))
    return table
