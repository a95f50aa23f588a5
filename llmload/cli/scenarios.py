"""`llmload scenarios`: what ships, cells of shipped suites among it, each as a scenario file."""

import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from llmload.errors import ConfigError, did_you_mean
from llmload.scenario import load_scenario
from llmload.scenario.reading import (
    SCHEMA_LINE,
    find_scenario,
    locustfile_named_by,
    schema_of,
    shipped_locustfile,
    shipped_scenarios,
    shipped_suites,
    to_toml,
    toml_value,
)
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
        advice = did_you_mean(name, cells) or "llmload scenarios --all lists them"
        raise ConfigError(f"{name}: no such scenario file, and no shipped scenario of that name; {advice}")
    cell = cells[name]
    file = Path(tempfile.mkdtemp(prefix="llmload-")) / f"{cell.cell.scenario.scenario.name}.toml"
    file.write_text(cell.toml(), encoding="utf-8")
    return file


def scenario_text(name: str) -> str:
    """Return the TOML of a scenario or suite, by path or by a shipped one's name; ConfigError where there is none."""
    cells = shipped_cells() if "/" in name else {}
    if name in cells:
        return cells[name].toml()
    return (shipped_suites().get(name) or scenario_file(name)).read_text(encoding="utf-8")


FIRST: Final = ("chat", "lima-speed", "lima-throughput", "capacity", "sweep", "demo", "demo-open-loop", "demo-staged")
"""What most people need, in the order in which they do; the others are listed with `--all`."""


@click.group(invoke_without_command=True)
@click.option("--all", "everything", is_flag=True, help="List the others too: scenarios, suites, their cells.")
@click.pass_context
def scenarios(context: click.Context, *, everything: bool) -> None:
    """
    List the scenarios and suites that come with llmload, show one, or begin a file of your own.

    \b
    Examples:
      llmload scenarios
      llmload scenarios --all
      llmload scenarios show reference/vllm-llama2-70b-chat-throughput
      llmload scenarios path lima-speed
    """
    if context.invoked_subcommand is not None:
        return
    listed = _descriptions()
    names = [*FIRST, *(name for name in listed if name not in FIRST)] if everything else [*FIRST]
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:{width}}  {listed[name]}")
    more = "" if everything else f"{len(listed) - len(FIRST)} more: llmload scenarios --all. "
    click.echo(f"\n{more}See one: llmload scenarios show NAME. Begin your own: llmload scenarios new NAME")


def _descriptions() -> dict[str, str]:
    """Return what each shipped scenario, suite and cell of a suite measures, by name."""
    described = {name: load_scenario(file).scenario.description for name, file in shipped_scenarios().items()}
    described |= {name: load_suite(file).suite.description for name, file in shipped_suites().items()}
    described |= {name: cell.description for name, cell in shipped_cells().items()}
    return {name: text or "" for name, text in described.items()}


@scenarios.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the TOML of a scenario or suite: a shipped one's, a suite's cell or a file's."""
    click.echo(scenario_text(name), nl=False)


@scenarios.command()
@click.argument("name")
def path(name: str) -> None:
    """Print where the file of a shipped scenario or suite is."""
    if name in shipped_cells():
        raise ConfigError(f"{name}: is a cell of a suite and has no file: write one with llmload scenarios new {name}")
    click.echo(shipped_suites().get(name) or find_scenario(name))


@scenarios.command()
@click.option("--suite", is_flag=True, help="That of suite files.")
def schema(*, suite: bool) -> None:
    """Print where the JSON Schema of scenario files is, for an editor."""
    click.echo(schema_of("suite" if suite else "scenario"))


@scenarios.command()
@click.argument("name")
@click.option("--from", "source", metavar="SCENARIO", help="What it begins with, a suite too (default: NAME, or chat).")
def new(name: str, source: str | None) -> None:
    """
    Write NAME.toml, a scenario or suite of your own to edit, with its schema for editors.

    It begins as a copy of a shipped scenario: of the one called NAME, or of that which --from names.

    \b
    Examples:
      llmload scenarios new mine --from lima-speed
      llmload scenarios new options --from demo-suite
    """
    file = Path(name if name.endswith(".toml") else f"{Path(name).name}.toml")
    known = {*shipped_scenarios(), *shipped_suites(), *shipped_cells()}
    text = _own_copy(scenario_text(source or (name if name in known else "chat")), file.stem)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise ConfigError(f"{file}: is there already: give another name, or remove it") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None
    run = f"run {file} --base-url http://127.0.0.1:8000 --model NAME"
    click.echo(f"written: {file}; run it: llmload {f'suite {file}' if _is_suite(text) else run}")


def _is_suite(text: str) -> bool:
    return re.search(r"^\[suite\]", text, re.MULTILINE) is not None


def _own_copy(text: str, name: str) -> str:
    """Return a file's text under a name, for any folder: its schema and its locustfile are the installed ones."""
    schema = schema_of("suite" if _is_suite(text) else "scenario")
    text = text.removeprefix(f"{SCHEMA_LINE}{schema.name}\n")
    named = re.search(r'^locustfile = "(.*)"$', text, re.MULTILINE)
    if named is not None and not Path(named[1]).is_file():
        installed = shipped_locustfile(Path(named[1]).name)
        text = text.replace(named[0], f"locustfile = {toml_value(str(installed))}", 1)
    text = re.sub(r"^name = .*$", lambda _: f"name = {toml_value(name)}", text, count=1, flags=re.MULTILINE)
    return f"{SCHEMA_LINE}{schema}\n{text}"
