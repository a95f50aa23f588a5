"""`llmload dashboards`: the Grafana dashboard with all that it needs, and how it is built from code."""

import filecmp
import shutil
from pathlib import Path

import click

from llmload.errors import ConfigError
from llmload.extras import need
from llmload.shipped import shipped_folder

FOLDER = "grafana/dashboards"
_OUT = click.option("--out", default=FOLDER, show_default=True, metavar="DIR", help="Folder of the JSON files.")


@click.group()
def dashboards() -> None:
    """
    Copy the Grafana dashboard with its Prometheus rules and compose file, or build it from code.

    \b
    Examples:
      llmload dashboards export monitoring
      llmload dashboards check
    """


@dashboards.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite files there that differ.")
def export(folder: Path, *, force: bool) -> None:
    """Copy dashboard, recording rules, alerts, Prometheus' and Grafana's settings and the compose file to FOLDER."""
    shipped = shipped_folder("grafana")
    files = [file.relative_to(shipped) for file in sorted(shipped.rglob("*")) if file.is_file()]
    differing = [
        folder / file
        for file in files
        if (folder / file).exists() and not filecmp.cmp(shipped / file, folder / file, shallow=False)
    ]
    if differing and not force:
        raise ConfigError(f"{differing[0]}: is there and differs: name another folder, or overwrite with --force")
    try:
        shutil.copytree(shipped, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
    except (OSError, shutil.Error) as error:
        raise ConfigError(f"{folder}: cannot be written: {error}") from None
    for file in files:
        click.echo(folder / file)


@dashboards.command()
@_OUT
def build(out: str) -> None:
    """Write the dashboard's JSON from its code, for who changes its panels."""
    need("dashboards", "llmload dashboards build")
    from llmload.prometheus.grafana import write

    for file in write(Path(out)):
        click.echo(file)


@dashboards.command()
@_OUT
def check(out: str) -> None:
    """End with exit code 1 if a file is missing or out of date."""
    need("dashboards", "llmload dashboards check")
    from llmload.prometheus.grafana import drifted

    if files := drifted(Path(out)):
        names = ", ".join(map(str, files))
        raise click.ClickException(f"out of date: {names}; run llmload dashboards build")
    click.echo("up to date")
