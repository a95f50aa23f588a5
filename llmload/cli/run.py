"""`llmload run`: prints the Locust command of a scenario and runs it; with --repeat, several times."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click

from llmload.cli.scenarios import scenario_file
from llmload.errors import ExitCode, worst
from llmload.interrupts import heard, held
from llmload.runs.summary import Summary
from llmload.scenario.options import GROUPS, OPTIONS
from llmload.scenario.reading import locust_arguments, locust_command, shown_command


class _Runs:
    """Starts runs until a signal comes: Ctrl-C reaches the current run itself, which drains; others are passed on."""

    def __init__(self) -> None:
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        for number in heard():
            signal.signal(number, self._on_signal)

    def run(self, arguments: Sequence[str]) -> int:
        """Run Locust and return its exit code; INTERRUPTED where a signal came before it could begin."""
        with held():
            if self.stopped:
                return ExitCode.INTERRUPTED
            self._process = subprocess.Popen(locust_command(arguments))  # noqa: S603 - our own command
        with self._process:
            return self._process.wait()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.stopped = True
        if number != signal.SIGINT and self._process is not None:
            self._process.send_signal(number)


def repeat_runs(
    scenario: Path,
    changes: Mapping[str, str | None],
    settings: Sequence[str],
    repeat: int,
    *,
    as_json: bool,
) -> int:
    """
    Run the scenario `repeat` times into one folder, show each run and the spread, and return the worst exit code.

    Every run sends the same prompts in the same order, so that they differ only by the system's own noise. Ctrl-C ends
    the current run, and then the runs so far are shown.
    """
    from llmload.runs.folder import SUMMARY, RunFolder, runs_in

    group = _group(scenario, changes, settings, repeat)
    own = {**changes, "junit": None, "markdown": None, "out": str(group)}
    if as_json:
        own["summary"] = "none"
    runs, codes = _Runs(), list[int]()
    for index in range(1, repeat + 1):
        arguments = locust_arguments(scenario, own, settings)
        click.echo(f"\nrun {index} of {repeat}\n$ {shown_command(arguments)}", err=True)
        sys.stdout.flush()
        codes.append(runs.run(arguments))
        # An INVALID run, or one that could not start, would end the same way again.
        if runs.stopped or codes[-1] not in (ExitCode.GOOD, ExitCode.FAILED):
            break
    if len(codes) < repeat and runs.stopped:
        codes.append(ExitCode.INTERRUPTED)  # the last run may have ended well, and the others were not begun
    folders = [folder for folder in runs_in(group) if (folder / SUMMARY).is_file()] if group.is_dir() else []
    summaries = [RunFolder(folder).summary() for folder in folders]
    if summaries:
        codes.append(_show(group, repeat, folders, summaries, changes, as_json=as_json))
    return worst(codes)


def _group(scenario: Path, changes: Mapping[str, str | None], settings: Sequence[str], repeat: int) -> Path:
    """Return the folder of the runs; ConfigError if the scenario or a file to write is wrong."""
    from llmload.errors import ConfigError
    from llmload.runs.folder import new_run_id
    from llmload.scenario import load_scenario
    from llmload.scenario.reading import read_setting

    for option in ("junit", "markdown"):
        file = changes.get(option)
        if file and not Path(str(file)).parent.is_dir():
            raise ConfigError(f"--{option} {file}: no folder {Path(str(file)).parent}")
    overrides = {key: value for key, value in map(read_setting, settings) if key.startswith(("run.", "scenario."))}
    loaded = load_scenario(scenario, overrides, is_whole=False)
    return Path(str(changes.get("out") or loaded.run.folder)) / new_run_id(f"{loaded.scenario.name}-x{repeat}")


def _show(
    group: Path,
    asked: int,
    folders: Sequence[Path],
    summaries: Sequence[Summary],
    changes: Mapping[str, str | None],
    *,
    as_json: bool,
) -> ExitCode:
    """Show the runs and write what belongs to all of them; FAILED if a file cannot be written."""
    from llmload.report.checks import run_suite, write_junit
    from llmload.report.markdown import job_summary, write_page
    from llmload.report.repeats import REPEAT, repeat_markdown, repeat_report, repeated
    from llmload.report.terminal import console
    from llmload.runs.folder import RunFolder
    from llmload.runs.writing import WriteFaults

    content = repeated(asked, [folder.name for folder in folders], summaries)
    faults = WriteFaults()
    with faults.tolerated(group / REPEAT, "the spread of its figures as JSON"):
        RunFolder(group).write(REPEAT, content)
    if as_json:
        import orjson

        whole = content | {"folder": str(group), "runs": [summary.model_dump(mode="json") for summary in summaries]}
        click.echo(orjson.dumps(whole, option=orjson.OPT_INDENT_2).decode())
    else:
        terminal = console()
        terminal.print(repeat_report(asked, summaries))
        terminal.print(f"runs in: {group}", soft_wrap=True)
    if junit := changes.get("junit"):
        with faults.tolerated(Path(str(junit)), "it"):
            runs = zip(folders, summaries, strict=True)
            suites = [run_suite(summary.run_id, summary, RunFolder(run).manifest()) for run, summary in runs]
            write_junit(Path(str(junit)), suites)
    if markdown := changes.get("markdown"):
        pages = [repeat_markdown(asked, summaries), *map(job_summary, summaries)]
        with faults.tolerated(Path(str(markdown)), "it"):
            write_page(Path(str(markdown)), "\n".join(pages))
    return ExitCode.FAILED if faults.unwritten else ExitCode.GOOD


_OWN: Final = "Only llmload run"


class _Grouped(click.Command):
    """A command whose `--help` shows the shared options in their groups, and last its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each group, then those that only this command has."""
        groups = {option.name: title for title, options in GROUPS.items() for option in options}
        shown: dict[str, list[tuple[str, str]]] = {title: [] for title in (*GROUPS, _OWN)}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx) if isinstance(option, click.Option) else None
            if record is not None:
                shown[next((groups[name] for name in option.opts if name in groups), _OWN)].append(record)
        for title, records in shown.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _shared_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of Locust with llmload's hooks; Locust reads and checks their values."""
    for option in reversed(OPTIONS):
        if not option.only_locust:
            kind = click.Choice(option.choices) if option.choices else None
            add = click.option(
                *option.names,
                *(["settings"] if option.name == "--set" else []),
                type=kind,
                multiple=option.repeats,
                metavar=None if kind else option.metavar,
                help=option.help_with_default,
            )
            command = add(command)
    return command


@click.command(cls=_Grouped)
@click.argument("scenario")
@_shared_options
@click.option(
    "--repeat",
    type=click.IntRange(1),
    metavar="N",
    help="Run N times, one after the other, with the same prompts, and show the spread of the figures.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --summary json.")
@click.option("--web", is_flag=True, help="Open Locust's web UI on 127.0.0.1:8089 instead of running at once.")
def run(
    scenario: str,
    *,
    repeat: int | None,
    as_json: bool,
    web: bool,
    settings: tuple[str, ...],
    **changes: str | None,
) -> None:
    """
    Run SCENARIO, a file or the name of a shipped scenario, and exit with Locust's exit code.

    Where an option is not given, the scenario's value counts. `locust` takes the same options.

    0: good; 1: a gate failed or requests failed; 2: wrong use; 3: the measurement is INVALID; 130: a signal ended it.
    With --repeat, the worst of all runs; Ctrl-C ends the current run, shows the runs so far, and leaves out the others.

    \b
    Examples:
      llmload run demo --base-url http://127.0.0.1:8100
      llmload run lima-speed --engine vllm --base-url http://127.0.0.1:8000 --model my-model --prompts lima
      llmload run scenarios/lima-throughput.toml --users 32 --run-time 5m --processes 2
      llmload run demo-open-loop --base-url http://127.0.0.1:8100 --rate 20 --max-tokens 16
      llmload run demo --base-url http://127.0.0.1:8100 --metrics-port 9647 --linger 1
      llmload run demo --base-url http://127.0.0.1:8100 --set 'gates.objectives=["ttft_s p95 < 0.5"]'
      llmload run lima-throughput --base-url http://127.0.0.1:8000 --model NAME --repeat 3
      llmload run sweep --base-url http://127.0.0.1:8000 --set 'load.users=[1, 8, 64]' --set deployment.gpus=4
    """
    if changes["host"] == "":  # such as a variable of the shell that is not set
        raise click.UsageError("--host: is empty: give the engine's address, or leave the option out")
    if as_json:
        if changes["summary"] not in (None, "json"):
            raise click.UsageError(f"--json and --summary {changes['summary']} exclude each other: give one of them")
        changes["summary"] = "json"
    if repeat is not None:
        if web:
            raise click.UsageError("--repeat and --web exclude each other: give one of them")
        sys.exit(repeat_runs(scenario_file(scenario), changes, settings, repeat, as_json=as_json))
    arguments = locust_arguments(scenario_file(scenario), changes, settings, web=web)
    click.echo(f"$ {shown_command(arguments)}", err=True)
    sys.stdout.flush()
    with held():
        os.execv(sys.executable, locust_command(arguments))  # noqa: S606 - no shell is needed
