"""`llmload report`: finished runs on the terminal, and the tables that several of them fill."""

from pathlib import Path

import click

from llmload.report.run_folder import SUMMARY, RunFolder


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--seed-tables", is_flag=True, help="Markdown: engines as columns, models as rows, best in bold.")
@click.option("--json", "as_json", is_flag=True, help="The summaries as a JSON list.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw what the terminal shows.")
def report(folders: tuple[Path, ...], *, seed_tables: bool, as_json: bool, svg: Path | None) -> None:
    """
    Show finished runs, given by their folders.

    \b
    Examples:
      llmload report runs/*
      llmload report runs/* --seed-tables > tables.md
      llmload report runs/* --json
      llmload report runs/* --svg runs.svg
    """
    runs = [RunFolder(folder) for folder in folders]
    if seed_tables:
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
