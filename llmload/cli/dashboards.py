"""`llmload dashboards`: the Grafana dashboard, built from code."""

from importlib.util import find_spec
from pathlib import Path

import click

from llmload.errors import ConfigError

FOLDER = "grafana/dashboards"
_OUT = click.option("--out", default=FOLDER, show_default=True, metavar="DIR", help="Where the JSON files lie.")


@click.group()
def dashboards() -> None:
    """
    Build the Grafana dashboard of a load test, or check that what is there is what would be built.

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
    """End with exit code 1 where a file is missing or differs from what would be built now."""
    _need_the_sdk()
    from llmload.prometheus.grafana import drifted

    if files := drifted(Path(out)):
        names = ", ".join(map(str, files))
        raise click.ClickException(f"not as they would be built now: {names}; run llmload dashboards build")
    click.echo("as they would be built now")


def _need_the_sdk() -> None:
    if find_spec("grafana_foundation_sdk") is None:
        raise ConfigError('llmload dashboards needs grafana-foundation-sdk: pip install "llmload[dashboards]"')
