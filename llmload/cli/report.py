"""`llmload report`: finished runs on the terminal, and the tables that several of them fill."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from llmload.runs.folder import REPORT, SUMMARY, RunFolder, runs_in
from llmload.runs.summary import Summary

FILE: Final = click.Path(dir_okay=False, path_type=Path)
LONG_BYTES: Final = 20_000_000
"""From so many on, reading takes long enough to be watched."""
TOOLS: Final = ("vllm", "sglang", "aiperf", "guidellm", "genai-bench")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--html",
    is_flag=False,
    flag_value=REPORT,
    metavar="[FILE]",
    help="One self-contained page, several runs side by side; without FILE in the run's folder.",
)
@click.option("--csv", "csv_file", type=FILE, metavar="FILE", help="A row a request.")
@click.option("--parquet", type=FILE, metavar="FILE", help="A row a request, with the times of its chunks.")
@click.option("--markdown", is_flag=True, help="The figures as a table for GitHub, a column a run.")
@click.option("--reference-tables", is_flag=True, help="Markdown: engines as columns, models as rows, best in bold.")
@click.option(
    "--definitions",
    type=click.Choice(TOOLS),
    help="The same records by that tool's definitions, names and layout (docs/definitions.md).",
)
@click.option("--json", "as_json", is_flag=True, help="The summaries as a JSON list.")
@click.option("--junit", type=FILE, metavar="FILE", help="Verdicts and gates as JUnit XML.")
@click.option("--svg", type=FILE, metavar="FILE", help="Draw what the terminal shows.")
def report(
    folders: tuple[Path, ...],
    *,
    html: str | None,
    csv_file: Path | None,
    parquet: Path | None,
    markdown: bool,
    reference_tables: bool,
    definitions: str | None,
    as_json: bool,
    junit: Path | None,
    svg: Path | None,
) -> None:
    """
    Show runs, given by their folders; figures of a run that crashed or goes on are counted from its requests.

    Files are written beside what is printed; --html, --csv and --parquet alone print nothing else.

    \b
    Examples:
      llmload report runs/*
      llmload report runs/RUN --html
      llmload report runs/* --html report.html
      llmload report runs/* --csv requests.csv
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
        from llmload.report.checks import run_checks, write_junit

        summaries = [run.summary() for run in runs]
        write_junit(junit, [(summary.run_id, run_checks(summary)) for summary in summaries])
    wrote = _write_files(runs, html, csv_file, parquet)
    if definitions is not None:
        _show_definitions(runs, definitions, as_json=as_json, svg=svg)
    elif reference_tables:
        from llmload.report import reference_tables as tables

        click.echo(tables.reference_tables([tables.read_figure(run) for run in runs]), nl=False)
    elif markdown:
        from llmload.report.markdown import as_markdown

        click.echo(as_markdown(_summaries(runs)), nl=False)
    elif as_json:
        import orjson

        content = [summary.model_dump(mode="json") for summary in _summaries(runs)]
        click.echo(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
    elif svg is not None or not wrote:
        from llmload.report.terminal import console, run_report

        terminal = console(record=svg is not None)
        for summary in _summaries(runs):
            terminal.print(run_report(summary))
        if svg is not None:
            terminal.save_svg(str(svg), title="llmload report")


def _write_files(runs: list[RunFolder], html: str | None, csv_file: Path | None, parquet: Path | None) -> bool:
    """Write what was asked for, and return whether anything was."""
    if html is not None:
        from llmload.report.html.page import write_html

        page = _page(runs, html)
        with _progress(runs, str(page)) as progress:
            write_html(page, runs, progress)
    if csv_file is not None:
        from llmload.runs.export import write_csv

        with _progress(runs, str(csv_file)) as progress:
            write_csv(csv_file, runs, progress)
    if parquet is not None:
        from llmload.runs.export import write_parquet

        with _progress(runs, str(parquet)) as progress:
            write_parquet(parquet, runs, progress)
    return any(file is not None for file in (html, csv_file, parquet))


def _page(runs: list[RunFolder], html: str) -> Path:
    if html != REPORT:
        return Path(html)
    if len(runs) > 1:
        raise click.UsageError("--html of several runs needs a file: --html FILE")
    return runs[0].path / REPORT


@contextmanager
def _progress(runs: list[RunFolder], file: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far a long reading has come, and say what was written in the end."""
    from llmload.runs.loaded_run import request_bytes

    whole = sum(map(request_bytes, runs))
    if whole < LONG_BYTES or not sys.stderr.isatty():
        yield lambda _: None
    else:
        with click.progressbar(length=whole, label=file, file=sys.stderr) as bar:
            yield bar.update
    click.echo(f"wrote {file}", err=True)


def _summaries(runs: list[RunFolder]) -> list[Summary]:
    if all((run.path / SUMMARY).is_file() for run in runs):
        return [run.summary() for run in runs]
    from llmload.runs.loaded_run import read_summary

    return [read_summary(run) for run in runs]


def _show_definitions(runs: list[RunFolder], name: str, *, as_json: bool, svg: Path | None) -> None:
    from llmload.definitions.catalogue import TOOL_DEFINITIONS, definitions_json, definitions_report
    from llmload.definitions.sample import read_sample
    from llmload.report.terminal import console

    samples = [(run.summary().run_id, read_sample(run)) for run in runs]
    if as_json:
        import orjson

        shown = [definitions_json(run_id, sample, TOOL_DEFINITIONS[name]) for run_id, sample in samples]
        click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
        return
    terminal = console(record=svg is not None)
    for run_id, sample in samples:
        terminal.print(definitions_report(run_id, sample, TOOL_DEFINITIONS[name]))
    if svg is not None:
        terminal.save_svg(str(svg), title=f"llmload report --definitions {name}")
