"""A model's config from the Hugging Face Hub: the only door of this room to the network, opened on request."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError

from llmload.errors import ConfigError
from llmload.http_get import http_get
from llmload.sizing.architecture import ModelSpec
from llmload.sizing.checkpoint_files import file_checkpoint, folder_checkpoint, index_checkpoint, read_gguf
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig

# Models by name: the configs that ship with llmload, and config files on disk.


def load_model(name_or_path: str, *, hub: bool = False) -> ModelSpec:
    """
    The model under a catalogue name or Hugging Face id in it, or in a file: config.json, a model directory, a
    safetensors file or index with its config.json beside it, a GGUF file. With hub, an unknown id is asked for there.

    Raises ConfigError for a name that is not known, a file that cannot be read, or an unknown architecture.
    """
    entry = catalogue().get(name_or_path.lower())
    if entry is not None:
        return model_from_config(HfConfig(entry["config"], f"catalogue model {entry['name']}"), entry["name"])
    path = Path(name_or_path)
    if path.exists():
        return _load_file(path)
    if hub:
        return model_from_config(HfConfig(hub_config(name_or_path), f"Hub model {name_or_path}"), name_or_path)
    raise ConfigError(_unknown(name_or_path))


def load_served(name: str | None, *, hub: bool = False) -> ModelSpec:
    """
    The model that an engine says it serves: by that name or path, else by the last part of it.

    Raises ConfigError where the engine names none, or one that is not known.
    """
    if name is None:
        raise ConfigError("the engine does not say which model it serves: give --model")
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
    """The shipped entries of models.json under their lower-case name and, where they have one, Hugging Face id."""
    entries = model_entries()
    by_id = {entry["hf_id"].lower(): entry for entry in entries if entry["hf_id"]}
    return by_id | {entry["name"].lower(): entry for entry in entries}


def model_entries() -> Sequence[Mapping[str, Any]]:
    """The entries of models.json as they stand: name, hf_id, config and the sources of both."""
    entries: Sequence[Mapping[str, Any]] = read_data("models.json")["models"]
    return entries


def hub_id(name: str) -> str:
    """The Hugging Face id of a model in the catalogue; the name itself where it has none or is not in it."""
    entry = catalogue().get(name.lower())
    return str(entry["hf_id"]) if entry and entry["hf_id"] else name


def model_names() -> list[str]:
    """The catalogue's names, in its order."""
    return [entry["name"] for entry in model_entries()]


@cache
def read_data(name: str) -> Any:
    """The content of a JSON file in llmload/sizing/data."""
    return json.loads(files("llmload.sizing").joinpath("data", name).read_text(encoding="utf-8"))


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


_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 10_000_000


def hub_config(model_id: str) -> Mapping[str, Any]:
    """
    The config.json of a model on the Hub, from HF_ENDPOINT with HF_TOKEN where these are set.

    Raises ConfigError for an id that is none, for no answer within 10 s, and for a model that the token may not read.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model_id):
        raise ConfigError(f"{model_id!r} is not a Hub id such as Qwen/Qwen3-32B")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    url = f"{endpoint}/{model_id}/resolve/main/config.json"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"HF_ENDPOINT = {endpoint!r} is not an http address")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        values = json.loads(http_get(url, headers=headers, timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES).body)
    except HTTPError as error:
        hint = "; set HF_TOKEN to one that may read it" if error.code in (401, 403) else ""
        raise ConfigError(f"{url}: HTTP {error.code}{hint}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise ConfigError(f"{url}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{url}: holds no config")
    return values
