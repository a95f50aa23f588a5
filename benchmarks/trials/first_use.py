"""
llmload as a new user tries it: `python -m benchmarks.trials.first_use`.

The wheel is installed into a new environment, and what README and the start page say is typed as it is written, one
command after the other, in an empty folder. The engine that they name is llmload's simulated one, started by the start
page's own command.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from benchmarks import ROOT
from benchmarks.tools.pages import commands_of
from benchmarks.tools.requirements import Requirement, at_most, exactly, requirements_table
from llmload.metrics.validity import Level
from llmload.runs.folder import SUMMARY, RunFolder

PAGES: Final = ("README.md", "docs/start.md")
ENGINE: Final = "llmload engine simulate --port 8000"
MAX_FIRST_FIGURE_S: Final = 120.0
_OF_A_CHECKOUT: Final = re.compile(r"^(make|pip) |\b(scenarios|locustfiles)/")
_WEB_UI: Final = {"LOCUST_AUTOSTART": "true", "LOCUST_AUTOQUIT": "0", "LOCUST_RUN_TIME": "5s"}
"""What a user clicks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """A command as it was typed, and how it ended."""

    command: str
    exit_code: int
    wall_s: float
    is_valid_figure: bool
    """Whether it left a run of the engine that is VALID."""


def commands() -> list[str]:
    """Return what the pages say to type after the installation, in their order, without what needs a checkout."""
    written = dict.fromkeys(command for page in PAGES for command in commands_of(ROOT / page))
    return [command for command in written if command != ENGINE and not _OF_A_CHECKOUT.search(command)]


def type_in(folder: Path, programs: Path, command: str) -> Typed:
    """Type a command in a shell of the folder, with the programs first on its path; its output goes to the terminal."""
    before = set(folder.glob(f"runs/*/{SUMMARY}"))
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"} | (_WEB_UI if "--web" in command else {})
    began = time.monotonic()
    code = subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=False).returncode
    wall_s = time.monotonic() - began
    new = set(folder.glob(f"runs/*/{SUMMARY}")) - before
    is_valid = any(RunFolder(file.parent).summary().verdict.level == Level.VALID for file in new)
    return Typed(
        command=command,
        exit_code=code,
        wall_s=wall_s,
        is_valid_figure=is_valid and command.startswith("llmload run"),  # not the demonstration's own
    )


def judge(typed: Sequence[Typed]) -> list[Requirement]:
    """Require that every command ends well, and that a VALID figure is there soon after the installation."""
    until = next((index for index, each in enumerate(typed) if each.is_valid_figure), None)
    first_s = None if until is None else sum(each.wall_s for each in typed[: until + 1])
    return [
        at_most("first use", "s until a VALID figure of the engine", first_s, MAX_FIRST_FIGURE_S, "{:.0f}"),
        *(exactly(each.command, "exit code", each.exit_code, 0) for each in typed),
    ]


def install(folder: Path) -> Path:
    """Build the wheel, install it into a new environment in the folder as a user does, and return its programs."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(folder / "env/bin/python"), "install", str(wheel)], check=True)
    return folder / "env" / "bin"


@contextmanager
def engine(programs: Path) -> Iterator[None]:
    """Run the start page's engine; RuntimeError where it does not start."""
    words = shlex.split(ENGINE)
    started = subprocess.Popen([programs / words[0], *words[1:]], stdout=subprocess.PIPE, text=True)
    with started:
        try:
            if started.stdout is None or not started.stdout.readline():
                raise RuntimeError(f"{ENGINE}: did not start")
            yield
        finally:
            started.terminate()


@click.command()
def main() -> None:
    """Install, type, and print PASS or FAIL; exit code 1 if a requirement is not met."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="llmload-first-use-") as temporary:
        home = Path(temporary)
        began = time.monotonic()
        programs = install(home)
        console.print(f"installed from the wheel in {time.monotonic() - began:.0f} s")
        empty = home / "empty"
        empty.mkdir()
        typed = []
        with engine(programs):
            for command in commands():
                console.print(f"\n$ {command}", style="bold")
                typed.append(type_in(empty, programs, command))
    requirements = judge(typed)
    console.print(requirements_table(requirements))
    raise SystemExit(0 if all(each.passed for each in requirements) else 1)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.first_use")
