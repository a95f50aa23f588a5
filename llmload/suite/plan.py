"""A suite file as a plan: each deployment with its commands, each cell with its scenario, all validated."""

import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from llmload.access.secrecy import Access, is_secret, masked, secret_variables
from llmload.errors import ConfigError
from llmload.scenario import Scenario, load_scenario
from llmload.scenario.reading import find_scenario, read_setting, toml_value
from llmload.suite.file import (
    SCENARIO_COMMAND,
    TEMPLATES,
    EngineEntry,
    EngineTemplate,
    ModelEntry,
    Selection,
    SuiteFile,
    Word,
    dtype_of,
    fill,
    load_suite,
)

HOST: Final = "127.0.0.1"
DOCKER_STOP_MARGIN_S: Final = 15.0
"""Time for docker itself, beyond the grace time that it gives a container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement: a deployment under a protocol."""

    engine: str
    model: str
    protocol: str
    scenario_file: Path
    settings: tuple[str, ...]
    """KEY=VALUE, as for `llmload run --set`."""
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
    """One engine with one model: the commands that start and stop it, and its cells."""

    engine: str
    model: str
    entry: EngineEntry
    model_entry: ModelEntry
    template: EngineTemplate | None
    values: Mapping[str, object]
    scenario_command: str | None
    container: str
    """Its container's name, the same at each start, so that a leftover container is found."""
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """Return engine/model."""
        return f"{self.engine}/{self.model}"

    @property
    def served_as(self) -> str:
        """Return the model's name in requests."""
        return self.cells[0].scenario.model.request_name

    @property
    def loaded(self) -> str:
        """Return the id of the model that the engine loads."""
        return str(self.values["id"])

    def start_command(self, port: int | str) -> list[str]:
        """Return the command that starts it on the port; empty for an engine that is running already."""
        if self.entry.kind == "running":
            return []
        if self.entry.kind == "docker":
            return self._docker_run(port)
        values = {**self.values, "host": HOST, "port": port}
        return self._fill_words(self._command_words(), values)

    @property
    def stop_command(self) -> list[str]:
        """Return the command that stops its container; empty for a process, which gets signals."""
        if self.entry.kind != "docker":
            return []
        return ["docker", "stop", "-t", f"{self.entry.stop_grace_s:.0f}", self.container]

    @property
    def grace_s(self) -> float:
        """Return the time that it may take to stop, in seconds."""
        return self.entry.stop_grace_s + (DOCKER_STOP_MARGIN_S if self.entry.kind == "docker" else 0.0)

    @property
    def env(self) -> dict[str, str]:
        """Return the variables that are added to the environment of its process."""
        return {} if self.entry.kind == "docker" else dict(self.entry.env)

    @property
    def access(self) -> Access:
        """Return what is sent to the engine, with all keys that it gets from the environment: none may be shown."""
        access = self.cells[0].scenario.access()
        named = {name: os.environ[name] for name in self.entry.pass_env if is_secret(name) and name in os.environ}
        return replace(access, secret_headers={**access.secret_headers, **secret_variables(os.environ), **named})

    def shown_command(self, port: int | str) -> str:
        """Return the command as a shell line, with its own environment variables."""
        return shlex.join([*(f"{key}={value}" for key, value in self.env.items()), *self.start_command(port)])

    def _command_words(self) -> list[Word]:
        entry = self.entry
        if entry.command is not None:
            words: list[Word] = list(entry.command)
        else:
            template = self._template()
            words = [*(template.program if entry.program is None else entry.program), *template.arguments]
        return [*words, *entry.options, *self.model_entry.options.get(self.engine, [])]

    def _template(self) -> EngineTemplate:
        if self.template is None:
            raise ConfigError(f"engines.{self.engine}: llmload has no template for this engine")
        return self.template

    def _docker_run(self, port: int | str) -> list[str]:
        entry, inside = self.entry, {**self.values, "host": "0.0.0.0", "port": self.entry.container_port}  # noqa: S104 - in its container
        options: Sequence[Word] = entry.docker_options or []
        if entry.docker_options is None and self.template is not None:
            options = self.template.docker_options
        image = entry.image or self._template().image or ""
        words = self._command_words()
        if entry.command is None and entry.program is None:
            words = [*self._template().image_program, *words[len(self._template().program) :]]
        publish = f"{HOST}:{port}:{entry.container_port}"
        command = ["docker", "run", "--rm", "--name", self.container, "--publish", publish]
        for name in entry.pass_env:
            command += ["--env", name]  # without a value: docker takes it from its own environment
        for name, value in entry.env.items():
            command += ["--env", f"{name}={value}"]
        return [*command, *self._fill_words([*options, image, *words], inside)]

    def _fill_words(self, words: Sequence[Word], values: Mapping[str, object]) -> list[str]:
        try:
            spread: list[Word] = []
            for word in words:
                spread += self._scenario_words() if word == SCENARIO_COMMAND else [word]
            return fill(spread, values)
        except ConfigError as error:
            raise ConfigError(f"engines.{self.engine}: {error}") from None

    def _scenario_words(self) -> list[str]:
        if self.scenario_command is None:
            raise ConfigError(f"{SCENARIO_COMMAND}: the scenario has no deployment.command")
        words = shlex.split(self.scenario_command)
        if masked(words) != words or "***" in self.scenario_command:
            raise ConfigError(
                "the scenario's deployment.command has a password or key: name its variable in pass_env, for the "
                "engine to read"
            )
        return words


@dataclass(frozen=True, slots=True, kw_only=True)
class SuitePlan:
    """All deployments and cells of a suite, in the order of their measurement."""

    file: Path
    suite: SuiteFile
    folder: Path
    deployments: tuple[DeploymentPlan, ...]

    @property
    def cells(self) -> list[Cell]:
        """Return every cell, in the order of measurement."""
        return [cell for deployment in self.deployments for cell in deployment.cells]

    @property
    def places(self) -> list[str]:
        """Return the paths in the folder that are written into, or emptied."""
        places = ["state.tmp", "suite.json", "suite.tmp", "suite.md", "warm-up/prompts.jsonl"]
        for deployment in self.deployments:
            places.append(f"warm-up/{deployment.name}")
            places += [f"logs/{deployment.name}/{log}.log" for log in ("engine", "warm-up")]
            places += [f"logs/{cell.deployment}/{cell.protocol}.log" for cell in deployment.cells]
            places += [f"runs/{cell.name}" for cell in deployment.cells]
        return places

    def check_environment(self, names: Collection[str]) -> None:
        """Raise ConfigError if a variable that one of the named cells needs is not set."""
        for deployment in self.deployments:
            if not any(cell.name in names for cell in deployment.cells):
                continue
            for variable in deployment.entry.pass_env:
                if not os.environ.get(variable):
                    where = f"{self.file}: engines.{deployment.engine}.pass_env"
                    raise ConfigError(f"{where}: the environment variable {variable} is not set; export it")
            try:
                deployment.cells[0].scenario.access()
            except ConfigError as error:
                raise ConfigError(f"{self.file}: {deployment.engine}: {error}") from None

    def fingerprint(self, deployment: DeploymentPlan, cell: Cell) -> str:
        """Return a hash of a cell's definition: its command, URL, version, scenario and settings."""
        definition = {
            "command": deployment.shown_command("PORT"),
            "url": deployment.entry.url,
            "version": deployment.entry.version,
            "scenario": cell.scenario.model_dump(mode="json", exclude_defaults=True),  # a new key does not change it
        }
        return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:16]


def make_plan(file: Path, *, folder: Path | None = None) -> SuitePlan:
    """Return the plan of a suite file; ConfigError names file and key of every fault."""
    suite = load_suite(file)
    home = folder or Path(suite.suite.folder or f"suites/{suite.suite.name}")
    deployments = []
    try:
        skipped = Selection(suite.suite.skip, "suite.skip")
        for engine in suite.engines:
            for model in suite.models:
                cells = tuple(_cells(file, suite, engine, model, skipped))
                if cells:
                    deployments.append(_deployment(suite, engine, model, cells, home))
        skipped.check_all_matched()
        _check_labels(deployments)
        for deployment in deployments:
            deployment.start_command("PORT")
    except ConfigError as error:
        lines = str(error).splitlines()
        raise ConfigError("\n".join(line if str(file) in line else f"{file}: {line}" for line in lines)) from None
    if not deployments:
        raise ConfigError(f"{file}: suite.skip leaves no cell")
    return SuitePlan(file=file, suite=suite, folder=home, deployments=tuple(deployments))


def _cells(file: Path, suite: SuiteFile, engine: str, model: str, skipped: Selection) -> Iterator[Cell]:
    for protocol, entry in suite.protocols.items():
        skipped_by_protocol = engine not in (entry.engines or suite.engines) or model not in (
            entry.models or suite.models
        )
        if skipped_by_protocol or skipped.has(f"{engine}/{model}/{protocol}"):
            continue
        try:
            yield _cell(file, suite, engine, model, protocol)
        except ConfigError as error:
            where = f"{engine}/{model}/{protocol}"
            raise ConfigError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None


def _cell(file: Path, suite: SuiteFile, engine: str, model: str, protocol: str) -> Cell:
    entry = suite.protocols[protocol]
    names = {"{engine}": engine, "{model}": model, "{gpus}": str(suite.models[model].gpus or 1)}
    scenario_file = _scenario_file(file, _substituted(entry.scenario, names))
    given = [*entry.set, *suite.engines[engine].set, *suite.models[model].set]
    settings = {
        **_cell_settings(suite, engine, model),
        **dict(_setting(_substituted(text, names)) for text in given),
    }
    try:
        scenario = load_scenario(scenario_file, settings)
    except ConfigError as error:
        raise ConfigError(str(error).replace("command line:", "set:")) from None
    return Cell(
        engine=engine,
        model=model,
        protocol=protocol,
        scenario_file=scenario_file,
        settings=tuple(f"{key}={toml_value(value)}" for key, value in settings.items()),
        processes=entry.processes,
        scenario=scenario,
    )


def _setting(text: str) -> tuple[str, Any]:
    try:
        return read_setting(text)
    except ConfigError as error:
        raise ConfigError(str(error).replace("command line: --set", "set:")) from None


def _substituted(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(name, value)
    return text


def _scenario_file(file: Path, name: str) -> Path:
    beside = file.parent / name
    return beside if beside.is_file() else find_scenario(name)


def _cell_settings(suite: SuiteFile, engine: str, model: str) -> dict[str, Any]:
    """The settings of a cell's scenario that follow from the suite's tables."""
    engines, models = suite.engines[engine], suite.models[model]
    name = suite.engine_of(engine)
    settings: dict[str, Any] = {
        "engine.name": name,
        "engine.label": engines.label or (None if engine == name else engine),
        "engine.api": engines.api,
        "engine.api_key_env": engines.api_key_env,
        "engine.headers": engines.model_dump(include={"headers"})["headers"],
        "model.name": model,
        "model.served_as": _served_as(suite, engine, model),
        "model.catalogue": models.catalogue,
        "deployment.gpu": suite.suite.gpu,
        "deployment.gpus": models.gpus,
        "deployment.tensor_parallel": models.tensor_parallel,
        "deployment.precision": models.precision,
        "deployment.engine_version": engines.version,
    }
    return {key: value for key, value in settings.items() if value is not None}


def _served_as(suite: SuiteFile, engine: str, model: str) -> str | None:
    entry = suite.models[model]
    if entry.served_as is not None:
        return entry.served_as
    template = TEMPLATES.get(suite.engine_of(engine))
    own_id = entry.ids.get(engine, entry.id)
    started_by_it = template is not None and suite.engines[engine].kind != "running"
    return own_id if not started_by_it or (template and template.request_name_is == "id") else None


def _deployment(suite: SuiteFile, engine: str, model: str, cells: tuple[Cell, ...], folder: Path) -> DeploymentPlan:
    entry, models, scenario = suite.engines[engine], suite.models[model], cells[0].scenario
    if len({cell.scenario.model.request_name for cell in cells}) > 1:
        raise ConfigError(f"{engine}/{model}: its protocols use different names for the model")
    commands = {cell.scenario.deployment.command for cell in cells}
    if len(commands) > 1 and SCENARIO_COMMAND in (entry.command or []):
        raise ConfigError(f"{engine}/{model}: the scenarios of its protocols have different deployment.command")
    mark = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    served_as = scenario.model.request_name
    return DeploymentPlan(
        engine=engine,
        model=model,
        entry=entry,
        model_entry=models,
        template=TEMPLATES.get(suite.engine_of(engine)),
        scenario_command=scenario.deployment.command,
        container=f"llmload-{mark}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', f'{engine}-{model}')}",
        cells=cells,
        values={
            "engine": engine,
            "model": model,
            "id": models.ids.get(engine) or models.id or served_as,
            "served_as": served_as,
            "dtype": dtype_of(scenario.deployment.precision),
            "gpus": scenario.deployment.gpus,
            "tensor_parallel": scenario.deployment.tensor_parallel,
            "version": entry.version,
            "hf_home": os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface"),
            "python": sys.executable,
        },
    )


def _check_labels(deployments: Sequence[DeploymentPlan]) -> None:
    """Refuse two engines with one label: they would share a column, and a cell would be the median of both."""
    columns: dict[str, str] = {}
    for deployment in deployments:
        column = deployment.cells[0].scenario.engine.display_name
        other = columns.setdefault(column, deployment.engine)
        if other != deployment.engine:
            raise ConfigError(f"engines.{deployment.engine}.label: {column!r} is engines.{other}'s too; give another")
