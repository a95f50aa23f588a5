"""`llmload scenarios`: the scenarios and suites that come with llmload, listed or printed."""

import click

from llmload.scenario import load_scenario
from llmload.scenario.shipped import shipped_scenarios, shipped_suites
from llmload.suite.cells import scenario_text, shipped_cells
from llmload.suite.file import load_suite

_WIDTH = 44


@click.command()
@click.argument("name", required=False)
def scenarios(name: str | None) -> None:
    """
    List the scenarios and suites that come with llmload, or print the TOML of the scenario NAME.

    \b
    Examples:
      llmload scenarios
      llmload scenarios reference/vllm-llama2-70b-chat-throughput
      llmload run lima-speed --base-url http://127.0.0.1:8000 --model NAME
    """
    if name is not None:
        click.echo(scenario_text(name), nl=False)
        return
    for shipped, file in shipped_scenarios().items():
        _show(shipped, load_scenario(file).scenario.description, file)
    for shipped, file in shipped_suites().items():
        _show(shipped, load_suite(file).suite.description, file)
    for shipped, cell in shipped_cells().items():
        _show(shipped, cell.description, f"a cell of {cell.suite_file}")


def _show(name: str, description: str | None, source: object) -> None:
    click.echo(f"{name:{_WIDTH}} {description or ''}\n{'':{_WIDTH}} {source}")
