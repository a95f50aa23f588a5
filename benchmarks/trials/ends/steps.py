"""What may happen to a run, and the facts that are waited for before it does."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Final

from benchmarks.trials.ends.row import Mode, Step
from benchmarks.trials.ends.running import Running, TrialError

# Phases of a run, each known by a fact.

_LIBRARIES: Final = {"imports of Locust": "/gevent/", "imports of llmload": "/numpy/"}
_PROGRESS: Final = {"warm-up": "warm-up", "window": "measuring", "drain": "draining"}


def until(phase: str) -> Step:
    """
    Wait for a phase.

    `imports of Locust`, `imports of llmload`: a library that comes early in them is loaded; `asked`: the engine was
    asked which models, and has not answered; `ramp`: the first request has come; `warm-up`, `window` and `drain`: the
    progress says so.
    """

    def act(run: Running) -> None:
        if phase in _LIBRARIES:
            run.wait_until(lambda: _LIBRARIES[phase] in run.maps(), phase)
        elif phase == "asked":
            run.wait_until(lambda: run.engine.wait_until_asked(0), phase)
        elif phase == "ramp":
            run.wait_until(lambda: run.engine.wait_for_requests(1, 0), phase)
        else:
            run.wait_until(lambda: run.engine.wait_for_requests(1, 0), "the first request")
            run.wait_until_said(rf"^trial: {_PROGRESS[phase]},")

    return Step(f"until {phase}", act)


def until_requests(count: int) -> Step:
    """Wait until this many requests have reached the engine."""
    return Step(
        f"until {count} requests",
        lambda run: run.wait_until(lambda: run.engine.wait_for_requests(count, 0), "requests"),
    )


def until_said(pattern: str) -> Step:
    """Wait until the run has written a text, given as a regular expression."""
    return Step(f"until it says {pattern!r}", lambda run: run.wait_until_said(pattern))


def until_all_wrote() -> Step:
    """Wait until every process that sends has written lines of requests."""

    def act(run: Running) -> None:
        senders = 1 if run.case.mode is Mode.ONE else 2
        run.wait_until(
            lambda: sum(file.stat().st_size > 0 for file in run.runs.glob("*/requests*.jsonl")) >= senders,
            "lines of every process",
        )

    return Step("until all wrote", act)


def pause(seconds: float) -> Step:
    """Let time pass."""
    return Step(f"for {seconds:g} s", lambda _: time.sleep(seconds))


# Signals


def press_ctrl_c() -> Step:
    """Send SIGINT to all processes of the terminal that the run was started in."""
    return Step("Ctrl-C", lambda run: os.killpg(run.processes[0].pid, signal.SIGINT))


def send(number: signal.Signals, to: str = "main") -> Step:
    """Send a signal to the process that coordinates (`main`), to one worker (`worker`), or to all (`workers`)."""

    def act(run: Running) -> None:
        found = {"main": lambda: [run.processes[0].pid], "worker": lambda: run.workers()[:1], "workers": run.workers}
        pids = found[to]()
        if not pids:
            raise TrialError(f"there is no {to} to send {number.name} to")
        for pid in pids:
            os.kill(pid, number)

    return Step(f"{number.name} to {to}", act)


def hang_up() -> Step:
    """Send SIGHUP to all processes of the terminal that the run was started in, as its end does."""
    return Step("SIGHUP", lambda run: os.killpg(run.processes[0].pid, signal.SIGHUP))


def stop_for(seconds: float, to: str) -> tuple[Step, ...]:
    """Stop a process for a while, as a paused container is."""
    return send(signal.SIGSTOP, to), pause(seconds), send(signal.SIGCONT, to)


def late_worker() -> Step:
    """Start one more worker."""
    return Step("a worker comes late", lambda run: run.start_worker())


# The engine


def engine_vanishes() -> Step:
    """Close the engine's port and break its connections, as the end of its process does."""
    return Step("the engine vanishes", lambda run: run.engine.vanish())


def engine_continues() -> Step:
    """Let the engine finish what it held."""
    return Step("the engine continues", lambda run: run.engine.release())


# The disk; all of it needs root, since only a separate file system can be filled safely.


def fill_disk() -> Step:
    """Leave no room on the run's file system."""
    return Step("the disk fills", _fill)


def _fill(run: Running) -> None:
    run.disk.mkdir(exist_ok=True)
    with (run.disk / "ballast").open("ab", buffering=0) as file:
        for size in (4096, 512, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def free_disk() -> Step:
    """Make room again."""
    return Step("room comes back", lambda run: (run.disk / "ballast").unlink())


def delete_folder() -> Step:
    """Delete the run's folder."""
    return Step("the folder is deleted", lambda run: shutil.rmtree(run.run_folder()))


def replace_folder() -> Step:
    """Delete the run's folder, and make an empty one of its name."""

    def act(run: Running) -> None:
        folder = run.run_folder()
        shutil.rmtree(folder)
        folder.mkdir()

    return Step("the folder is replaced", act)


def move_folder() -> Step:
    """Move the run's folder, and make an empty one of its name."""

    def act(run: Running) -> None:
        folder = run.run_folder()
        folder.rename(folder.with_name("moved-away"))
        folder.mkdir()

    return Step("the folder is moved", act)


def make_immutable(*, files: bool) -> Step:
    """
    Let nothing be made, renamed or removed in the run's folder, as a file system does that became read-only.

    `files`: nothing can be appended to its files either. Root may write whatever the permissions say, and a file system
    with open files cannot be mounted read-only; an attribute of files is what is left.
    """

    def act(run: Running) -> None:
        folder = str(run.run_folder())
        run.undo.append(["chattr", "-R", "-i", folder])
        subprocess.run(["chattr", *(["-R"] if files else []), "+i", folder], check=True)

    return Step("folder and files become immutable" if files else "the folder becomes immutable", act, needs_root=True)


# The web UI


def start_in_form(**fields: object) -> Step:
    """Start a run in the web UI's form, once it is there with all workers."""

    def act(run: Running) -> None:
        workers = 0 if run.case.mode is Mode.ONE else 2
        run.wait_until(lambda: run.answers("stats/requests", lambda text: _workers_in(text) == workers), "the web UI")
        run.ask("swarm", {"user_count": 4, "spawn_rate": 4, "host": "", "run_time": "", **fields})

    return Step("started in the form", act)


def edit_in_form(**fields: object) -> Step:
    """Change the load of the run in the web UI."""
    return Step(
        f"edited: {fields}",
        lambda run: _discard(run.ask("swarm", {"user_count": 4, "spawn_rate": 4, "host": "", **fields})),
    )


def stop_in_form() -> Step:
    """Press the web UI's stop, and wait until the run has ended."""

    def act(run: Running) -> None:
        run.ask("stop", {})
        run.wait_until(lambda: _stage_is(run, lambda stage: stage == "ended"), "the end of the run")

    return Step("stopped in the web UI", act)


def until_stage(name: str) -> Step:
    """Wait until the live page says that the run is in a stage."""
    return Step(
        f"until {name}", lambda run: run.wait_until(lambda: _stage_is(run, lambda stage: stage == name), f"{name}")
    )


def _stage_is(run: Running, wanted: Callable[[object], bool]) -> bool:
    return run.answers("llm/state", lambda text: wanted(json.loads(text).get("stage")))


def _workers_in(text: str) -> int:
    return len(json.loads(text).get("workers", ()))


def _discard(_: object) -> None:
    """Make a statement of an expression."""
