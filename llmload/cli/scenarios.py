"""`llmload scenarios`: what ships, cells of shipped suites among it, each as a scenario file."""

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import click

from llmload.errors import ConfigError
from llmload.scenario import load_scenario
from llmload.scenario.reading import find_scenario, locustfile_named_by, shipped_scenarios, shipped_suites, to_toml
from llmload.suite.file import load_suite
from llmload.suite.plan import HOST, Cell, DeploymentPlan, make_plan

# The cells of shipped suites as scenarios, such as `reference/vllm-llama2-70b-chat-speed`.

_DEFAULT_PORT = 8000
"""The port of an engine to which the suite would give a free one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedCell:
    """A cell of a suite that comes with llmload."""

    name: str
    """`SUITE/ENGINE-MODEL-PROTOCOL`."""
    suite_file: Path
    deployment: DeploymentPlan
    cell: Cell

    @property
    def description(self) -> str:
        """Return the scenario's description."""
        return self.cell.scenario.scenario.description or ""

    def toml(self) -> str:
        """Return the cell as the text of a scenario file: its engine started by hand, at the suite's port."""
        port = self.deployment.entry.port or _DEFAULT_PORT
        tables = self.cell.scenario.model_dump(mode="json", exclude_unset=True)
        tables["engine"]["base_url"] = self.deployment.entry.url or f"http://{HOST}:{port}"
        if command := self.deployment.start_command(port):
            tables.setdefault("deployment", {}).setdefault("command", shlex.join(command))
        locustfile = locustfile_named_by(self.cell.scenario_file) or "locustfiles/chat.py"
        head = f"# A cell of {self.suite_file.name}: {self.cell.name}\n"
        return head + to_toml({"tool.locust": {"locustfile": locustfile}, **tables})


def shipped_cells() -> Mapping[str, ShippedCell]:
    """Return the cells of all suites that come with llmload, by name."""
    return {
        (name := f"{plan.suite.suite.name}/{cell.engine}-{cell.model}-{cell.protocol}"): ShippedCell(
            name=name, suite_file=plan.file, deployment=deployment, cell=cell
        )
        for plan in map(make_plan, shipped_suites().values())
        for deployment in plan.deployments
        for cell in deployment.cells
    }


def scenario_file(name: str) -> Path:
    """
    Return the file of a scenario given by path or by a shipped one's name; a suite's cell is written to a new file in
    the folder for temporary files.

    Raises ConfigError where there is no scenario of that name.
    """
    if "/" not in name or name in shipped_scenarios() or Path(name).is_file():
        return find_scenario(name)
    cells = shipped_cells()
    if name not in cells:
        near = " or ".join(get_close_matches(name, cells)) or "one that `llmload scenarios` lists"
        raise ConfigError(f"{name}: no such scenario file, and no shipped scenario of that name; did you mean {near}?")
    cell = cells[name]
    file = Path(tempfile.mkdtemp(prefix="llmload-")) / f"{cell.cell.scenario.scenario.name}.toml"
    file.write_text(cell.toml(), encoding="utf-8")
    return file


def scenario_text(name: str) -> str:
    """Return the TOML of a scenario given by path or by a shipped one's name; ConfigError where there is none."""
    cell = shipped_cells().get(name) if "/" in name else None
    return find_scenario(name).read_text(encoding="utf-8") if cell is None else cell.toml()


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
