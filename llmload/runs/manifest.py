"""`manifest.json` as types: what was run, on what, and when; written at a run's start and again with its times."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, Self

from llmload.prompts.queue import ADDED_CHARS
from llmload.prompts.workload import Workload
from llmload.record import METRICS_VERSION
from llmload.runs.summary_parts import Part, PerSecond, UnixSeconds
from llmload.scenario import Scenario

SCHEMA_VERSION: Final = 1
_PACKAGES: Final = ("llmload", "locust", "gevent", "openai", "datasets", "httptools", "numpy", "pydantic")


class StageTimes(Part):
    """When a stage of a staged load, or a step of a search, ran; `null`: it did not come to that."""

    name: str
    """The stage's name, or the step's."""
    users: int | None
    """Users of a closed loop."""
    rate_per_s: PerSecond | None
    """Requests a second of an open loop."""
    start_unix_s: UnixSeconds | None
    """When it began."""
    window_start_unix_s: UnixSeconds | None
    """When its warm-up ended."""
    end_unix_s: UnixSeconds | None
    """When it ended."""


class RunTimes(Part):
    """When window and stages began and ended; `null`: it did not come to that, or there is no set end."""

    window_start_unix_s: UnixSeconds | None
    """When the window began."""
    window_end_unix_s: UnixSeconds | None
    """When the window ended."""
    stages: tuple[StageTimes, ...]
    """Each stage of a staged load, or step of a search."""


class Techniques(Part):
    """How prompts were changed before they were sent."""

    n_shot: int
    """Solved examples before each prompt."""
    chain_of_thought: str | None
    """The instruction to think step by step, where one was added."""


class Salt(Part):
    """What is needed to salt prompts as this run did."""

    mode: str
    """`request`: a salt for each request; `run`: one for the whole run."""
    key: str
    """What the salts were made from, beside the seed."""
    added_chars: int
    """Characters that a salt adds to a prompt."""


class PromptFacts(Part):
    """What is needed to send the same prompts again."""

    dataset: str
    """The data set's name."""
    source: str
    """Where it came from."""
    split: str | None
    """Its split."""
    sha256: str
    """Hash of its bytes."""
    licence: str | None
    """Its licence, where it names one."""
    rows: int
    """Rows it has."""
    skipped: dict[str, int]
    """Rows that cannot become a request, by reason."""
    seed: int
    """The seed of the draw."""
    turns: str
    """`first` or `all`: which turns of a dialogue were sent."""
    repeat: bool
    """Whether the draw starts again once every prompt was sent."""
    drawn: tuple[int, ...]
    """Rows that were drawn, in the order in which they are sent."""
    requests: int
    """Requests that one pass over them makes."""
    techniques: Techniques
    """How prompts were changed."""
    salt: Salt | None
    """How prompts were salted against prefix caches; `null`: not at all."""


class EngineFacts(Part):
    """What the engine said of itself at the run's start."""

    base_url: str
    """The address that answered."""
    version: str | None
    """The engine's version."""
    models: tuple[str, ...]
    """Models that it serves."""
    simulated: bool
    """Whether it is llmload's simulated engine."""
    answers: dict[str, Any]
    """Its answers in full, by path."""


class Host(Part):
    """The machine of the process that coordinated the run."""

    system: str
    """Operating system and its version."""
    cpus: int | None
    """Logical CPUs."""


class Manifest(Part):
    """A run's `manifest.json`."""

    schema_version: Literal[1]
    """Version of this file's keys; llmload reads no other version than its own."""
    run_id: str
    """The run's name."""
    started_unix_s: UnixSeconds
    """When the run began."""
    ended_unix_s: UnixSeconds | None
    """When it ended; `null` while it runs, or if it crashed."""
    timeline: RunTimes
    """When window and stages began and ended."""
    scenario_file: str
    """Name of the scenario file."""
    scenario: Scenario
    """The whole scenario, with all that was changed on the command line."""
    seed: int
    """The scenario's seed."""
    prompts: PromptFacts
    """The prompts."""
    engine: EngineFacts | None
    """What the engine said of itself; `null` where it said nothing."""
    simulated: bool
    """Whether a simulated engine was measured."""
    metrics_version: int
    """Version of the metrics' definitions."""
    workers: int
    """Processes that sent requests."""
    command: tuple[str, ...]
    """The command line."""
    versions: dict[str, str]
    """Versions of Python and of the packages that matter."""
    host: Host
    """The machine."""

    @classmethod
    def at_start(
        cls,
        *,
        run_id: str,
        started_unix_s: float,
        scenario: Scenario,
        scenario_file: Path,
        workload: Workload,
        engine: Mapping[str, Any] | None,
        simulated: bool,
        workers: int,
        command: Sequence[str] = (),
    ) -> Self:
        """Return the manifest of a run that starts now, on this machine; its times are not known yet."""
        salted = scenario.prompts
        salt = None
        if salted.salt is not None:
            salt = Salt(mode=salted.salt, key=salted.salt_key or run_id, added_chars=ADDED_CHARS)
        return cls(
            schema_version=SCHEMA_VERSION,
            run_id=run_id,
            started_unix_s=started_unix_s,
            ended_unix_s=None,
            timeline=RunTimes(window_start_unix_s=None, window_end_unix_s=None, stages=()),
            scenario_file=scenario_file.name,
            scenario=scenario,
            seed=scenario.scenario.seed,
            prompts=PromptFacts(**workload.manifest(), salt=salt),
            engine=None if engine is None else EngineFacts.model_validate(engine),
            simulated=simulated,
            metrics_version=METRICS_VERSION,
            workers=workers,
            command=tuple(command),
            versions={"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
            host=Host(system=platform.platform(), cpus=os.cpu_count()),
        )

    def with_times(self, timeline: RunTimes, ended_unix_s: float | None) -> Self:
        """Return the same manifest with what is known of its times by now."""
        return self.model_copy(update={"timeline": timeline, "ended_unix_s": ended_unix_s})
