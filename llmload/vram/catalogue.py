"""Models by name: the configs that ship with llmload, and config files on disk."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from llmload.errors import ConfigError
from llmload.vram.families import model_from_config
from llmload.vram.hf_config import HfConfig
from llmload.vram.model import ModelSpec


def load_model(name_or_path: str) -> ModelSpec:
    """
    The model under a catalogue name, a Hugging Face id in the catalogue, a config.json or a directory holding one.

    Raises ConfigError for a name that is not known, a file that cannot be read, or an unknown architecture.
    """
    entry = catalogue().get(name_or_path.lower())
    if entry is not None:
        return model_from_config(HfConfig(entry["config"], f"catalogue model {entry['name']}"), entry["name"])
    path = Path(name_or_path)
    if not path.exists():
        raise ConfigError(_unknown(name_or_path))
    if path.is_dir():
        path /= "config.json"
    return model_from_config(HfConfig(_read(path), str(path)), path.parent.name or str(path))


@cache
def catalogue() -> Mapping[str, Mapping[str, Any]]:
    """The shipped entries of models.json under their lower-case name and, where they have one, Hugging Face id."""
    entries = model_entries()
    by_id = {entry["hf_id"].lower(): entry for entry in entries if entry["hf_id"]}
    return by_id | {entry["name"].lower(): entry for entry in entries}


def model_entries() -> Sequence[Mapping[str, Any]]:
    """The entries of models.json as they stand: name, hf_id, config and the sources of both."""
    entries: Sequence[Mapping[str, Any]] = read_data("models.json")["models"]
    return entries


def model_names() -> list[str]:
    """The catalogue's names, in its order."""
    return [entry["name"] for entry in model_entries()]


@cache
def read_data(name: str) -> Any:
    """The content of a JSON file in llmload/vram/data."""
    return json.loads(files("llmload.vram").joinpath("data", name).read_text(encoding="utf-8"))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, not the object that a model config is")
    return values


def _unknown(name: str) -> str:
    from difflib import get_close_matches  # only an error needs it

    near = [catalogue()[key]["name"] for key in get_close_matches(name.lower(), catalogue(), n=3)]
    hint = f"; near it: {', '.join(dict.fromkeys(near))}" if near else ""
    return f"model {name!r} is neither in the catalogue (`llmload vram models`) nor a file or directory{hint}"
