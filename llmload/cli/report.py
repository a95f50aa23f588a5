"""`llmload report`: runs on the terminal, as pages, tables and exports."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from llmload.errors import ExitCode, worst
from llmload.extras import need
from llmload.runs.folder import REPORT, SUMMARY, RunFolder, runs_in
from llmload.runs.summary import Summary

FILE: Final = click.Path(dir_okay=False, path_type=Path)
LONG_BYTES: Final = 20_000_000
"""Reading request files of this size takes long enough for a progress bar."""
TOOLS: Final = ("vllm", "sglang", "aiperf", "guidellm", "genai-bench")


class Exclusive(click.Option):
    """An option that cannot be given together with others, named by their flags in `excludes`."""

    def __init__(self, *args: Any, excludes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.excludes = excludes

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Raise UsageError if an excluded option was given too."""
        given = {flag for option in ctx.command.params if option.name in opts for flag in option.opts}
        if self.name in opts and (others := [flag for flag in self.excludes if flag in given]):
            raise click.UsageError(f"{self.opts[0]} and {others[0]} exclude each other: give one of them", ctx)
        return super().handle_parse_result(ctx, opts, args)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--html",
    is_flag=False,
    flag_value=REPORT,
    metavar="[FILE]",
    help="One self-contained page, several runs side by side; without FILE in the run's folder.",
)
@click.option("--csv", "csv_file", type=FILE, metavar="FILE", help="One row per request.")
@click.option("--points", type=FILE, metavar="FILE", help="Sweeps: one row per point, as CSV.")
@click.option("--parquet", type=FILE, metavar="FILE", help="One row per request, with the times of its chunks.")
@click.option("--junit", type=FILE, metavar="FILE", help="Verdicts and gates as JUnit XML.")
@click.option(
    "--markdown",
    is_flag=True,
    cls=Exclusive,
    excludes=("--reference-tables", "--definitions", "--json"),
    help="The figures as a table for GitHub, one column per run.",
)
@click.option(
    "--reference-tables",
    is_flag=True,
    cls=Exclusive,
    excludes=("--markdown", "--definitions", "--json"),
    help="Markdown: engines as columns, models as rows, best in bold.",
)
@click.option(
    "--definitions",
    type=click.Choice(TOOLS),
    cls=Exclusive,
    excludes=("--markdown", "--reference-tables"),
    help="The same records by that tool's definitions, names and layout (docs/definitions.md).",
)
@click.option("--json", "as_json", is_flag=True, help="The summaries, or the tool's figures, as a JSON list.")
@click.option(
    "--svg",
    type=FILE,
    metavar="FILE",
    cls=Exclusive,
    excludes=("--markdown", "--reference-tables", "--json"),
    help="Draw what the terminal shows.",
)
def report(
    folders: tuple[Path, ...],
    *,
    html: str | None,
    csv_file: Path | None,
    points: Path | None,
    parquet: Path | None,
    junit: Path | None,
    markdown: bool,
    reference_tables: bool,
    definitions: str | None,
    as_json: bool,
    svg: Path | None,
) -> None:
    """
    Show runs, given by their folders. Figures of a run that crashed or still runs are counted from its requests.

    The exit code is the worst of the runs' own: 0 good, 1 a gate failed or requests failed, 3 INVALID; a run that
    crashed or still runs, or whose folder has lost lines since, is INVALID. A page or an export alone: 0 if it has
    every request of its runs, 3 if some are in no file.

    --html, --csv, --points, --parquet and --junit write files; all but the last print nothing else unless another form
    is named.

    \b
    Examples:
      llmload report runs/*
      llmload report runs/RUN --html
      llmload report runs/* --html report.html
      llmload report runs/* --csv requests.csv
      llmload report runs/* --points points.csv
      llmload report runs/* --parquet requests.parquet
      llmload report runs/* --markdown
      llmload report runs/* --reference-tables > tables.md
      llmload report runs/* --json
      llmload report runs/* --svg runs.svg
      llmload report runs/* --junit runs.xml
      llmload report runs/* --definitions vllm
      llmload report runs/* --definitions genai-bench --json
    """
    runs = [RunFolder(run) for folder in folders for run in runs_in(folder)]
    if junit is not None:
        _write_junit(junit, runs)
    if points is not None:
        _write_points(points, runs)
    wrote = _write_files(runs, html, csv_file, parquet) or points is not None
    if definitions is not None:
        _print_definitions(runs, definitions, as_json=as_json, svg=svg)
    elif reference_tables:
        _print_reference_tables(runs)
    elif markdown:
        _print_markdown(runs)
    elif as_json:
        _print_json([summary.model_dump(mode="json") for summary in _summaries(runs)])
    elif svg is not None or not wrote:
        _print_summaries(runs, svg)
    elif junit is None:
        sys.exit(_say_what_is_missing(runs))
    sys.exit(_exit_code(runs))


def _exit_code(runs: list[RunFolder]) -> int:
    """Return the worst of the runs' exit codes; that of a run without a summary is INVALID's."""
    from llmload.report.checks import exit_code_of

    finished = (run.has(SUMMARY) and run.summary() for run in runs)
    return worst(exit_code_of(summary) if summary else ExitCode.INVALID for summary in finished)


def _say_what_is_missing(runs: list[RunFolder]) -> int:
    """Say which requests are in no file of their run's folder, and so in no page or export; return the exit code."""
    from llmload.runs.writing import NOT_IN_THE_FOLDER

    code = ExitCode.GOOD
    for run in runs:
        reasons = run.summary().verdict.reasons if run.has(SUMMARY) else ()
        for reason in reasons:
            if reason.check in NOT_IN_THE_FOLDER:
                click.echo(f"{run.path}: {reason.text}", err=True)
                code = ExitCode.INVALID
    return code


def _write_junit(file: Path, runs: list[RunFolder]) -> None:
    from llmload.report.checks import run_suite, write_junit

    pairs = zip(runs, _summaries(runs), strict=True)
    write_junit(file, [run_suite(summary.run_id, summary, run.manifest()) for run, summary in pairs])


def _write_points(file: Path, runs: list[RunFolder]) -> None:
    from llmload.report.sweep import write_points

    write_points(file, _summaries(runs))
    click.echo(f"wrote {file}", err=True)


def _write_files(runs: list[RunFolder], html: str | None, csv_file: Path | None, parquet: Path | None) -> bool:
    """Write the page and the exports; return whether there was one to write."""
    writers: list[tuple[Path, Callable[..., object]]] = []
    if html is not None:
        from llmload.report.html.page import write_html

        writers.append((_page(runs, html), write_html))
    if csv_file is not None:
        from llmload.runs.requests import write_csv

        writers.append((csv_file, write_csv))
    if parquet is not None:
        need("parquet", "--parquet")
        from llmload.runs.parquet import write_parquet

        writers.append((parquet, write_parquet))
    for file, write in writers:
        with _progress(runs, str(file)) as progress:
            write(file, runs, progress)
    return bool(writers)


def _page(runs: list[RunFolder], html: str) -> Path:
    if html != REPORT:
        return Path(html)
    if len(runs) > 1:
        raise click.UsageError("--html of several runs needs a file: --html FILE")
    return runs[0].path / REPORT


@contextmanager
def _progress(runs: list[RunFolder], file: str) -> Iterator[Callable[[int], None]]:
    """Show the progress of a long reading on a terminal, then the file that was written."""
    from llmload.runs.loaded_run import request_bytes

    whole = sum(map(request_bytes, runs))
    if whole < LONG_BYTES or not sys.stderr.isatty():
        yield lambda _: None
    else:
        with click.progressbar(length=whole, label=file, file=sys.stderr) as bar:
            yield bar.update
    click.echo(f"wrote {file}", err=True)


def _summaries(runs: list[RunFolder]) -> list[Summary]:
    if all(run.has(SUMMARY) for run in runs):
        return [run.summary() for run in runs]
    from llmload.runs.loaded_run import read_summary

    return [read_summary(run) for run in runs]


def _print_json(content: object) -> None:
    import orjson

    click.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())


def _print_markdown(runs: list[RunFolder]) -> None:
    from llmload.report.markdown import as_markdown

    click.echo(as_markdown(_summaries(runs)), nl=False)


def _print_reference_tables(runs: list[RunFolder]) -> None:
    from llmload.report import markdown as tables

    click.echo(tables.reference_tables([tables.read_figure(run) for run in runs]), nl=False)


def _print_summaries(runs: list[RunFolder], svg: Path | None) -> None:
    from llmload.report.terminal import run_report

    _print_on_terminal(map(run_report, _summaries(runs)), svg, "llmload report")


def _print_definitions(runs: list[RunFolder], name: str, *, as_json: bool, svg: Path | None) -> None:
    from llmload.definitions.catalogue import TOOL_DEFINITIONS, definitions_json, definitions_report
    from llmload.definitions.sample import read_sample

    shown = definitions_json if as_json else definitions_report
    content = [shown(run.summary().run_id, read_sample(run), TOOL_DEFINITIONS[name]) for run in runs]
    if as_json:
        _print_json(content)
    else:
        _print_on_terminal(content, svg, f"llmload report --definitions {name}")


def _print_on_terminal(content: Iterable[Any], svg: Path | None, title: str) -> None:
    from llmload.report.terminal import console

    terminal = console(record=svg is not None)
    for each in content:
        terminal.print(each)
    if svg is not None:
        terminal.save_svg(str(svg), title=title)
