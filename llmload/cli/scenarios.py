"""`llmload scenarios`: what comes with llmload."""

import click

from llmload.scenario import load_scenario
from llmload.scenario.shipped import shipped_scenarios, shipped_suites
from llmload.suite.file import load_suite


@click.command()
def scenarios() -> None:
    """
    List the scenarios and suites that come with llmload, each with its file.

    \b
    Examples:
      llmload scenarios
      llmload run lima-speed --base-url http://127.0.0.1:8000 --model NAME
    """
    for name, file in shipped_scenarios().items():
        click.echo(f"{name:42} {load_scenario(file).scenario.description or ''}\n{'':42} {file}")
    for name, file in shipped_suites().items():
        click.echo(f"{name:42} {load_suite(file).suite.description or ''}\n{'':42} {file}")
