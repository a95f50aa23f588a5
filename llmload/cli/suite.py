"""`llmload suite`: measures a matrix of engines, models and protocols from one file."""

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmload.errors import ExitCode, worst
from llmload.runs.folder import REPORT
from llmload.scenario.reading import find_suite

if TYPE_CHECKING:
    from llmload.suite.plan import SuitePlan
    from llmload.suite.run import SuiteRun


@click.command()
@click.argument("suite_file", metavar="SUITE")
@click.option("--dry-run", is_flag=True, help="Print the plan with every command, and start nothing.")
@click.option("--only", multiple=True, metavar="E/M/P", help="Only these cells: engine/model/protocol, * for any.")
@click.option("--restart", is_flag=True, help="Measure all cells again, with --only those.")
@click.option("--retry-failed", is_flag=True, help="Measure failed cells again.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="The suite's folder, instead of the file's."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def suite(
    suite_file: str, *, dry_run: bool, only: tuple[str, ...], restart: bool, retry_failed: bool, out: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """
    Measure every deployment that SUITE lists, a file or the name of one that comes with llmload.

    Each engine is started with each model, checked, warmed up, measured by every protocol and stopped. A failed cell is
    recorded and the next one begins. Called again, it continues with the cells that are left.

    Exit codes: 0 all cells are good, 1 a cell failed, 2 wrong use, 3 a measurement is INVALID, 130 stopped.

    \b
    Examples:
      llmload suite demo-suite
      llmload suite reference-suite --dry-run
      llmload suite reference-suite --dry-run --only vllm/llama2-70b-chat
    """
    from llmload.suite.file import Selection
    from llmload.suite.plan import make_plan
    from llmload.suite.run import SuiteRun
    from llmload.suite.state import FolderLock, Status, SuiteProgress, SuiteState, refuse_links

    plan = make_plan(find_suite(suite_file), folder=out)
    selection = Selection(only or ["*"], "--only")
    selected = {cell.name for cell in plan.cells if selection.has(cell.name)}
    selection.check_all_matched()
    if dry_run:
        _show_plan(plan, selected)
        return
    plan.check_environment(selected)
    with FolderLock(plan.folder):
        refuse_links(plan.folder, plan.places)
        state = SuiteState(plan.folder) if restart and not only else SuiteState.read(plan.folder)
        failed = {name for name, cell in state.cells.items() if cell.status is Status.FAILED}
        state.forget(selected if restart else selected & failed if retry_failed else set())
        run = SuiteRun(plan, state, SuiteProgress(), selected)
        _run_to_its_end(run, suite_file)
        _show_outcome(run, as_json=as_json)


def _run_to_its_end(run: "SuiteRun", suite_file: str) -> None:
    """Run the suite; if it is stopped, by Ctrl-C or a signal, print the command that continues it."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)
    try:
        run.run()
    except KeyboardInterrupt:
        done = sum(cell.status != "running" for cell in run.state.cells.values())
        words = [word for word in sys.argv[1:] if word not in ("--restart", "--retry-failed")]
        again = shlex.join(["llmload", *(words or ["suite", suite_file])])
        click.echo(
            f"\nstopped, with everything it had started: {done} of {len(run.plan.cells)} cells are done", err=True
        )
        click.echo(f"continue with: {again}", err=True)
        sys.exit(ExitCode.INTERRUPTED)


def _show_outcome(run: "SuiteRun", *, as_json: bool) -> None:
    import orjson

    from llmload.suite.outcome import read_outcome, to_json, to_markdown, write_outcome

    outcome = read_outcome(run.plan, run.state, run.selected)
    write_outcome(outcome, run.plan.folder, run.state.faults)
    if as_json:
        click.echo(orjson.dumps(to_json(outcome), option=orjson.OPT_INDENT_2).decode())
    else:
        click.echo(to_markdown(outcome), nl=False)
        click.echo(f"\nsuite folder: {run.plan.folder}")
        swept = {summary.run_id for summaries in outcome.sweeps.values() for summary in summaries}
        folders = [run.plan.folder / cell.run_folder for cell in outcome.cells if cell.run_folder is not None]
        if runs := shlex.join(str(each) for each in folders if each.name in swept):
            click.echo(f"fronts over each other: llmload report {runs} --html {run.plan.folder / REPORT}")
    sys.exit(worst([outcome.exit_code, *(ExitCode.FAILED for _ in run.state.faults.unwritten)]))


def _show_plan(plan: "SuitePlan", selected: set[str]) -> None:
    """Print every command in order; a port that is chosen at the start is shown as PORT."""
    from llmload.suite.run import run_arguments, warmup_arguments

    requests = plan.suite.suite.warmup_requests
    chosen = [deployment for deployment in plan.deployments if selected & {cell.name for cell in deployment.cells}]
    click.echo(f"{plan.suite.suite.name}: {len(selected)} cells on {len(chosen)} deployments, results in {plan.folder}")
    for deployment in chosen:
        entry = deployment.entry
        port = entry.port or "PORT"
        url = entry.url or f"http://127.0.0.1:{port}"
        command = None if entry.url else deployment.shown_command(port)
        click.secho(f"\n{deployment.name}", bold=True)
        click.echo(f"  start  {command or f'nothing: it is running at {url}'}")
        click.echo(f"  wait   until {url} answers, {entry.ready_timeout_s:g} s at most")
        if requests:
            prompts = plan.folder / "warm-up" / "prompts.jsonl"
            arguments = warmup_arguments(deployment, url, plan.folder / "warm-up" / deployment.name, prompts, requests)
            click.echo(f"  warm   {shlex.join(['locust', *arguments])}")
        for cell in deployment.cells:
            if cell.name in selected:
                arguments = run_arguments(cell, url, plan.folder / "runs" / cell.name, command)
                click.echo(f"  {cell.protocol}\n         {shlex.join(['locust', *arguments])}")
        stop = shlex.join(deployment.stop_command) or "SIGTERM to it, then to its process group"
        click.echo(f"  stop   {'nothing' if entry.url else f'{stop}, SIGKILL after {deployment.grace_s:g} s'}")
