"""One deployment as it will be: its cells, and the commands that start and stop it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llmload.engines.templates import EngineTemplate, Word, fill
from llmload.errors import ConfigError
from llmload.scenario import Scenario
from llmload.suite.suite_file import SCENARIO_COMMAND, EngineEntry, ModelEntry

HOST: Final = "127.0.0.1"
DOCKER_STOP_MARGIN_S: Final = 15.0
"""What docker may take beyond the grace time that it gives a container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement: a deployment under a protocol."""

    engine: str
    model: str
    protocol: str
    scenario_file: Path
    settings: tuple[str, ...]
    """As `--set` takes them."""
    processes: int | None
    scenario: Scenario

    @property
    def deployment(self) -> str:
        """Return engine/model."""
        return f"{self.engine}/{self.model}"

    @property
    def name(self) -> str:
        """Return engine/model/protocol."""
        return f"{self.engine}/{self.model}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentPlan:
    """One engine with one model: how it is started, and its cells."""

    engine: str
    model: str
    entry: EngineEntry
    model_entry: ModelEntry
    template: EngineTemplate | None
    values: Mapping[str, object]
    scenario_command: str | None
    container: str
    """What its container is called: the same for each start, so that one left behind is found."""
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Return engine/model."""
        return f"{self.engine}/{self.model}"

    @property
    def served_as(self) -> str:
        """Return what requests call the model."""
        return self.cells[0].scenario.model.request_name

    @property
    def loaded(self) -> str:
        """Return what the engine was told to load."""
        return str(self.values["id"])

    def start_command(self, port: int | str) -> list[str]:
        """Return the command that starts it on the port; empty for an engine that runs already."""
        if self.entry.kind == "running":
            return []
        if self.entry.kind == "docker":
            return self._docker_run(port)
        values = {**self.values, "host": HOST, "port": port}
        return self._filled(self._own_words(), values)

    @property
    def stop_command(self) -> list[str]:
        """Return the command that stops its container; empty where it has none and signals do."""
        if self.entry.kind != "docker":
            return []
        return ["docker", "stop", "-t", f"{self.entry.stop_grace_s:.0f}", self.container]

    @property
    def grace_s(self) -> float:
        """Return how long it may take to stop, in seconds."""
        return self.entry.stop_grace_s + (DOCKER_STOP_MARGIN_S if self.entry.kind == "docker" else 0.0)

    @property
    def env(self) -> dict[str, str]:
        """Return what is laid over the environment of its process."""
        return {} if self.entry.kind == "docker" else dict(self.entry.env)

    def shown_command(self, port: int | str) -> str:
        """Return the command for people, with what it has of an environment."""
        return shlex.join([*(f"{key}={value}" for key, value in self.env.items()), *self.start_command(port)])

    def _own_words(self) -> list[Word]:
        entry = self.entry
        if entry.command is not None:
            words: list[Word] = list(entry.command)
        else:
            template = self._template()
            words = [*(template.program if entry.program is None else entry.program), *template.arguments]
        return [*words, *entry.options, *self.model_entry.options.get(self.engine, [])]

    def _template(self) -> EngineTemplate:
        if self.template is None:
            raise ConfigError(f"engines.{self.engine}: llmload has no template for it")
        return self.template

    def _docker_run(self, port: int | str) -> list[str]:
        entry, inside = self.entry, {**self.values, "host": "0.0.0.0", "port": self.entry.container_port}  # noqa: S104 - in its container
        options: Sequence[Word] = entry.docker_options or []
        if entry.docker_options is None and self.template is not None:
            options = self.template.docker_options
        image = entry.image or self._template().image or ""
        words = self._own_words()
        if entry.command is None and entry.program is None:
            words = [*self._template().image_program, *words[len(self._template().program) :]]
        publish = f"{HOST}:{port}:{entry.container_port}"
        command = ["docker", "run", "--rm", "--name", self.container, "--publish", publish]
        for name in entry.pass_env:
            command += ["--env", name]  # without a value: docker takes it from its own environment
        for name, value in entry.env.items():
            command += ["--env", f"{name}={value}"]
        return [*command, *self._filled([*options, image, *words], inside)]

    def _filled(self, words: Sequence[Word], values: Mapping[str, object]) -> list[str]:
        try:
            spread: list[Word] = []
            for word in words:
                spread += self._words_of_scenario() if word == SCENARIO_COMMAND else [word]
            return fill(spread, values)
        except ConfigError as error:
            raise ConfigError(f"engines.{self.engine}: {error}") from None

    def _words_of_scenario(self) -> list[str]:
        if self.scenario_command is None:
            raise ConfigError(f"{SCENARIO_COMMAND}: the scenario has no deployment.command")
        return shlex.split(self.scenario_command)
