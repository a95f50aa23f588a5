"""
What a worker does of what its master asks: a load, prompts and an engine, but only with what its own scenario names.

A false master could otherwise have it write anywhere, or send its key and its files to any host.
"""

from pathlib import Path
from typing import Final

from llmload.access.address import origin_of
from llmload.errors import ConfigError
from llmload.loadgen.options import SHIPPED
from llmload.loadgen.preparation import Preparation
from llmload.scenario import Scenario
from llmload.scenario.loads import Replay

_HARMLESS: Final = frozenset({"name", "base_url", "label", "api"})
"""Keys of `[engine]` that a master may change; the others name secrets, or say who may read them."""
_HUB: Final = "hf:"


def agreed(asked: Scenario, own: Scenario, preparation: Preparation) -> Scenario:
    """Return what the master asks for, with the worker's own run folder; ConfigError for what it may not ask for."""
    _check_engine(asked, own, preparation)
    base_dir = preparation.file.parent
    source = asked.prompts.source
    if source != own.prompts.source and source not in SHIPPED and not source.startswith(_HUB):
        _check_file("prompts.source", source, base_dir, f"--prompts {source}")
    if isinstance(asked.load, Replay) and asked.load.trace != getattr(own.load, "trace", None):
        _check_file("load.trace", asked.load.trace, base_dir, f"--set load.trace={asked.load.trace}")
    return asked.model_copy(update={"run": asked.run.model_copy(update={"folder": own.run.folder})})


def _check_engine(asked: Scenario, own: Scenario, preparation: Preparation) -> None:
    theirs, ours = asked.engine.model_dump(exclude=set(_HARMLESS)), own.engine.model_dump(exclude=set(_HARMLESS))
    for key, value in theirs.items():
        if value != ours[key]:
            raise ConfigError(
                f"engine.{key}: the master asks for another than this worker's scenario has: start both with the same "
                "scenario and the same --set engine..."
            )
    if not asked.engine.secret_names:
        return
    for url in asked.engine.base_url:
        if origin_of(url) not in preparation.named:
            raise ConfigError(
                f"engine.base_url: the master would have this worker send its key to {url}, which its own scenario "
                f"does not name: start it with --host {url}"
            )


def _check_file(key: str, name: str, base_dir: Path, option: str) -> None:
    """Raise ConfigError for a file that is neither in the scenario's folder nor in the working directory."""
    for root in (base_dir.resolve(), Path.cwd()):
        if (root / name).resolve().is_relative_to(root):
            return
    raise ConfigError(
        f"{key}: the master asks for {name}, which is neither in the folder of this worker's scenario nor in its "
        f"working directory: start it with {option}"
    )
