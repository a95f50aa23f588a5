"""Models by name or file: the configs that ship with llmload, files on disk, and on request the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from llmload.errors import ConfigError
from llmload.hub import fetch
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.checkpoint_files import file_checkpoint, folder_checkpoint, index_checkpoint, read_gguf
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig


def load_model(name_or_path: str, *, hub: bool = False) -> ModelSpec:
    """
    Return the model of a catalogue name or Hugging Face id in it, or of a file: config.json, a model directory, a
    safetensors file or index with its config.json beside it, a GGUF file. With `hub`, other ids are read from there.

    Raises ConfigError for an unknown name, a file that cannot be read, or an unknown architecture.
    """
    entry = catalogue().get(name_or_path.lower())
    if entry is not None:
        return model_from_config(HfConfig(entry["config"], f"catalogue model {entry['name']}"), entry["name"])
    path = Path(name_or_path)
    if path.exists():
        return _load_file(path)
    if hub:
        return model_from_config(HfConfig(_hub_config(name_or_path), f"hub model {name_or_path}"), name_or_path)
    raise ConfigError(_unknown(name_or_path))


def load_served(name: str | None, *, hub: bool = False) -> ModelSpec:
    """
    Return the model that an engine serves: by that name or path, else by the last part of it.

    Raises ConfigError where the engine names none, or an unknown one.
    """
    if name is None:
        raise ConfigError("the engine does not name its model: give --model")
    last = name.rstrip("/").rpartition("/")[2]
    if name.lower() not in catalogue() and not Path(name).exists() and last.lower() in catalogue():
        return load_model(last)
    return load_model(name, hub=hub)


def _load_file(path: Path) -> ModelSpec:
    if path.suffix == ".gguf":
        header = read_gguf(path)
        model = model_from_config(HfConfig(header.config, str(path)), path.stem)
        return replace(model, weight_format=None, quantisation="gguf", checkpoint=header.checkpoint)
    config = path / "config.json" if path.is_dir() else path
    checkpoint = None
    if path.is_dir():
        checkpoint = folder_checkpoint(path)
    elif path.name.endswith(".safetensors.index.json"):
        checkpoint, config = index_checkpoint(path), path.with_name("config.json")
    elif path.suffix == ".safetensors":
        checkpoint, config = file_checkpoint(path), path.with_name("config.json")
    model = model_from_config(HfConfig(_read(config), str(config)), config.parent.name or str(config))
    return replace(model, checkpoint=checkpoint)


@cache
def catalogue() -> Mapping[str, Mapping[str, Any]]:
    """Return the entries of models.json by lower-case name and, where they have one, by Hugging Face id."""
    entries = model_entries()
    by_id = {entry["hf_id"].lower(): entry for entry in entries if entry["hf_id"]}
    return by_id | {entry["name"].lower(): entry for entry in entries}


def model_entries() -> Sequence[Mapping[str, Any]]:
    """Return the entries of models.json: name, hf_id, config and the sources of both."""
    entries: Sequence[Mapping[str, Any]] = read_data("models.json")["models"]
    return entries


def hub_id(name: str) -> str:
    """Return the Hugging Face id of a model in the catalogue; the name itself where it has none or is not in it."""
    entry = catalogue().get(name.lower())
    return str(entry["hf_id"]) if entry and entry["hf_id"] else name


@cache
def read_data(name: str) -> Any:
    """Return the content of a JSON file in llmload/sizing/data."""
    return json.loads(files("llmload.sizing").joinpath("data", name).read_text(encoding="utf-8"))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: is a JSON {type(values).__name__}, not an object as a model config is")
    return values


def _hub_config(model_id: str) -> Mapping[str, Any]:
    try:
        return _read(fetch(model_id, "config.json", "model"))
    except ConfigError as error:
        raise ConfigError(f"hub model '{model_id}': {error}") from None


def _unknown(name: str) -> str:
    from difflib import get_close_matches  # only an error needs it

    near = [catalogue()[key]["name"] for key in get_close_matches(name.lower(), catalogue(), n=3)]
    hint = f"; near it: {', '.join(dict.fromkeys(near))}" if near else ""
    return f"model {name!r} is neither in the catalogue (`llmload vram models`) nor a file or directory{hint}"
