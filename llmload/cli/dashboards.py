"""`llmload dashboards`: build the Grafana dashboard from code."""

from importlib.util import find_spec
from pathlib import Path

import click

from llmload.errors import ConfigError

FOLDER = "grafana/dashboards"
_OUT = click.option("--out", default=FOLDER, show_default=True, metavar="DIR", help="Folder of the JSON files.")


@click.group()
def dashboards() -> None:
    """
    Build the Grafana dashboard of a load test, or check that its files are up to date.

    Needs the `dashboards` extra: pip install "llmload[dashboards]".

    \b
    Examples:
      llmload dashboards check
    """


@dashboards.command()
@_OUT
def build(out: str) -> None:
    """Write the dashboard's JSON."""
    _need_the_sdk()
    from llmload.prometheus.grafana import write

    for file in write(Path(out)):
        click.echo(file)


@dashboards.command()
@_OUT
def check(out: str) -> None:
    """End with exit code 1 if a file is missing or out of date."""
    _need_the_sdk()
    from llmload.prometheus.grafana import drifted

    if files := drifted(Path(out)):
        names = ", ".join(map(str, files))
        raise click.ClickException(f"out of date: {names}; run llmload dashboards build")
    click.echo("up to date")


def _need_the_sdk() -> None:
    if find_spec("grafana_foundation_sdk") is None:
        raise ConfigError('llmload dashboards needs grafana-foundation-sdk: pip install "llmload[dashboards]"')
