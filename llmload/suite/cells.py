"""The cells of shipped suites as scenarios, such as `reference/vllm-llama2-70b-chat-speed`."""

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from llmload.errors import ConfigError
from llmload.scenario.reading import locustfile_named_by, to_toml
from llmload.scenario.shipped import find_scenario, shipped_scenarios, shipped_suites
from llmload.suite.plan import HOST, Cell, DeploymentPlan, make_plan

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
