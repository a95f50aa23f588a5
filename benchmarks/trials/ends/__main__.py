"""`python -m benchmarks.trials.ends`: every kind of end of a run, held to what is expected for it."""

import fnmatch
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from benchmarks.trials.ends.row import Case, cases_of
from benchmarks.trials.ends.rows import ROWS
from benchmarks.trials.ends.table import as_json, as_markdown, ends_table, fault_lines
from benchmarks.trials.ends.trial import Result, impossible, run_case


@click.command()
@click.argument("patterns", nargs=-1)
@click.option("--list", "listed", is_flag=True, help="Print the names of the cases, and run none.")
@click.option("--ci", is_flag=True, help="Only those that the tests run too.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Runs side by side.")
@click.option("--markdown", type=click.Path(dir_okay=False, path_type=Path), help="Write the table as Markdown.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the table as JSON.")
@click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave the files of failed cases in this folder."
)
def main(
    patterns: tuple[str, ...],
    *,
    listed: bool,
    ci: bool,
    jobs: int,
    markdown: Path | None,
    json_file: Path | None,
    keep: Path | None,
) -> None:
    """
    End runs in every way, and compare verdict, exit code and accounts with what is expected.

    PATTERNS choose cases by their names, such as '*SIGTERM*' or '*| one process'. Exits 0 if all are as expected.
    """
    cases = [case for case in cases_of(ROWS) if _is_wanted(case, patterns, ci=ci)]
    if listed:
        for case in cases:
            click.echo(case.name)
        return
    left_out = [f"{case.name}: left out: {why}" for case in cases if (why := impossible(case)) is not None]
    with working_in(keep) as folder:
        results = run_cases([case for case in cases if impossible(case) is None], folder, jobs, show=True)
    for file, text in ((markdown, as_markdown(results, left_out)), (json_file, as_json(results))):
        if file is not None:
            file.write_text(text, encoding="utf-8")
    Console(highlight=False, width=None if Console().is_terminal else 220).print(ends_table(results))
    for line in (*fault_lines(results), *left_out):
        click.echo(line)
    if not results or not all(result.passed for result in results):
        raise SystemExit(1)


def _is_wanted(case: Case, patterns: Sequence[str], *, ci: bool) -> bool:
    named = not patterns or any(fnmatch.fnmatchcase(case.name, pattern) for pattern in patterns)
    return named and (case.mode in case.row.ci or not ci)


@contextmanager
def working_in(keep: Path | None) -> Iterator[Path]:
    """Yield a folder for the files of runs: `keep`, or a temporary one."""
    with tempfile.TemporaryDirectory(prefix="llmload-ends-") as temporary:
        yield (keep or Path(temporary)).absolute()


def run_cases(cases: Sequence[Case], folder: Path, jobs: int, *, show: bool = False) -> list[Result]:
    """Run cases side by side, each in a folder that is left where it failed, and return them in their order."""

    def run(numbered: tuple[int, Case]) -> Result:
        number, case = numbered
        own = folder / f"{number:03}-{''.join(c if c.isalnum() else '-' for c in case.name)}"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        result = run_case(case, own)
        if result.passed:
            shutil.rmtree(own, ignore_errors=True)
        if show:
            click.echo(f"{'PASS' if result.passed else 'FAIL'} {case.name}: {'; '.join(result.faults)}", err=True)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, enumerate(cases)))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.trials.ends")
