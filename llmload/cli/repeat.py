"""`llmload run --repeat N`: the same run N times, one after the other, and how far its figures spread."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from llmload.scenario.locust_command import locust_arguments

GOES_ON_AFTER: Final = (0, 1)
"""Exit codes after which the next run starts: an INVALID run, or one that could not start, would only come again."""
BY_SEVERITY: Final = (0, 1, 3, 2)


class _Runs:
    """Starts runs until told to stop; a run that goes on hears of Ctrl-C itself, and drains."""

    def __init__(self) -> None:
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def run(self, arguments: Sequence[str]) -> int:
        """Run Locust, and return its exit code."""
        command = [sys.executable, "-m", "locust", *arguments]
        with subprocess.Popen(command) as self._process:  # noqa: S603 - our own command
            return self._process.wait()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.stopped = True
        if number == signal.SIGTERM and self._process is not None:
            self._process.terminate()


def repeat_runs(
    scenario: Path,
    changes: Mapping[str, str | float | None],
    settings: Sequence[str],
    repeat: int,
    *,
    as_json: bool,
) -> int:
    """
    Run the scenario `repeat` times into one folder, show each run and the spread, and return the worst exit code.

    Every run sends the same prompts in the same order, so that only the system's own noise makes them differ. Ctrl-C
    ends the run that goes on, and then what there is is shown.
    """
    from llmload.report.run_folder import SUMMARY, RunFolder, runs_in

    group = _group(scenario, changes, settings, repeat)
    own = {name: value for name, value in changes.items() if name not in {"junit", "markdown"}} | {"out": str(group)}
    runs, codes = _Runs(), list[int]()
    for place in range(1, repeat + 1):
        arguments = [*locust_arguments(scenario, own, settings), *(["--summary", "none"] if as_json else [])]
        click.echo(f"\nrun {place} of {repeat}\n$ {shlex.join(['locust', *arguments])}", err=True)
        sys.stdout.flush()
        codes.append(runs.run(arguments))
        if runs.stopped or codes[-1] not in GOES_ON_AFTER:
            break
    folders = [folder for folder in runs_in(group) if (folder / SUMMARY).is_file()] if group.is_dir() else []
    summaries = [RunFolder(folder).read(SUMMARY) for folder in folders]
    if summaries:
        _show(group, repeat, folders, summaries, changes, as_json=as_json)
    return max(codes, key=lambda code: BY_SEVERITY.index(code) if code in BY_SEVERITY else len(BY_SEVERITY))


def _group(scenario: Path, changes: Mapping[str, str | float | None], settings: Sequence[str], repeat: int) -> Path:
    """Return where the runs will lie; ConfigError if the scenario, or a place to write to, is wrong."""
    from llmload.errors import ConfigError
    from llmload.report.run_folder import new_run_id
    from llmload.scenario import load_scenario
    from llmload.scenario.reading import read_setting

    for option in ("junit", "markdown"):
        file = changes.get(option)
        if file and not Path(str(file)).parent.is_dir():
            raise ConfigError(f"--{option} {file}: there is no folder {Path(str(file)).parent}")
    overrides = {key: value for key, value in map(read_setting, settings) if key.startswith(("run.", "scenario."))}
    loaded = load_scenario(scenario, overrides)
    return Path(str(changes.get("out") or loaded.run.folder)) / new_run_id(f"{loaded.scenario.name}-x{repeat}")


def _show(
    group: Path,
    asked: int,
    folders: Sequence[Path],
    summaries: Sequence[Mapping[str, Any]],
    changes: Mapping[str, str | float | None],
    *,
    as_json: bool,
) -> None:
    from llmload.report.gates import run_checks
    from llmload.report.job_summary import job_summary, write_page
    from llmload.report.junit import write_junit
    from llmload.report.repeated import REPEAT, repeat_markdown, repeat_report, repeated
    from llmload.report.run_folder import RunFolder
    from llmload.report.tables import console

    content = repeated(asked, [folder.name for folder in folders], summaries)
    RunFolder(group).write(REPEAT, content)
    if as_json:
        import orjson

        whole = content | {"folder": str(group), "runs": list(summaries)}
        click.echo(orjson.dumps(whole, option=orjson.OPT_INDENT_2).decode())
    else:
        terminal = console()
        terminal.print(repeat_report(asked, summaries))
        terminal.print(f"runs in: {group}", soft_wrap=True)
    if junit := changes.get("junit"):
        write_junit(Path(str(junit)), [(summary["run_id"], run_checks(summary)) for summary in summaries])
    if markdown := changes.get("markdown"):
        pages = [repeat_markdown(asked, summaries), *map(job_summary, summaries)]
        write_page(Path(str(markdown)), "\n".join(pages))
