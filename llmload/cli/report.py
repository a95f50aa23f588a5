"""`llmload report`: finished runs on the terminal, and the tables that several of them fill."""

from pathlib import Path
from typing import Final

import click

from llmload.report.run_folder import SUMMARY, RunFolder, runs_in

TOOLS: Final = ("vllm", "sglang", "aiperf", "guidellm", "genai-bench")


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--seed-tables", is_flag=True, help="Markdown: engines as columns, models as rows, best in bold.")
@click.option(
    "--dialect",
    type=click.Choice(TOOLS),
    help="The same records by that tool's definitions, names and layout (docs/dialects.md).",
)
@click.option("--json", "as_json", is_flag=True, help="The summaries as a JSON list.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Verdicts and gates as JUnit XML.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw what the terminal shows.")
def report(
    folders: tuple[Path, ...],
    *,
    seed_tables: bool,
    dialect: str | None,
    as_json: bool,
    junit: Path | None,
    svg: Path | None,
) -> None:
    """
    Show finished runs, given by their folders.

    \b
    Examples:
      llmload report runs/*
      llmload report runs/* --seed-tables > tables.md
      llmload report runs/* --json
      llmload report runs/* --svg runs.svg
      llmload report runs/* --junit runs.xml
      llmload report runs/* --dialect vllm
      llmload report runs/* --dialect genai-bench --json
    """
    runs = [RunFolder(run) for folder in folders for run in runs_in(folder)]
    if junit is not None:
        from llmload.report.gates import run_checks
        from llmload.report.junit import write_junit

        summaries = [run.read(SUMMARY) for run in runs]
        write_junit(junit, [(summary["run_id"], run_checks(summary)) for summary in summaries])
    if dialect is not None:
        _show_dialect(runs, dialect, as_json=as_json, svg=svg)
    elif seed_tables:
        from llmload.report import seed_tables as tables

        click.echo(tables.seed_tables([tables.read_figure(run) for run in runs]), nl=False)
    elif as_json:
        import orjson

        click.echo(orjson.dumps([run.read(SUMMARY) for run in runs], option=orjson.OPT_INDENT_2).decode())
    else:
        from llmload.report.tables import console, run_report

        terminal = console(record=svg is not None)
        for run in runs:
            terminal.print(run_report(run.read(SUMMARY)))
        if svg is not None:
            terminal.save_svg(str(svg), title="llmload report")


def _show_dialect(runs: list[RunFolder], name: str, *, as_json: bool, svg: Path | None) -> None:
    from llmload.report.dialects.catalogue import DIALECTS
    from llmload.report.dialects.printing import dialect_json, dialect_report
    from llmload.report.dialects.sample import read_sample
    from llmload.report.tables import console

    samples = [(run.read(SUMMARY)["run_id"], read_sample(run)) for run in runs]
    if as_json:
        import orjson

        shown = [dialect_json(run_id, sample, DIALECTS[name]) for run_id, sample in samples]
        click.echo(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
        return
    terminal = console(record=svg is not None)
    for run_id, sample in samples:
        terminal.print(dialect_report(run_id, sample, DIALECTS[name]))
    if svg is not None:
        terminal.save_svg(str(svg), title=f"llmload report --dialect {name}")
