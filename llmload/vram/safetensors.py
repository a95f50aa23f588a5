"""The headers of safetensors files: what is stored, as what, and how large; no weight is read."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmload.errors import ConfigError
from llmload.vram.model import Checkpoint

INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 100 * 2**20  # the format's own limit
_BESIDE_LANGUAGE = ("vision", "visual", "multi_modal", "mm_projector", "audio", "image_newline", "patch_merger")


def folder_checkpoint(folder: Path) -> Checkpoint | None:
    """
    The weight files of a model directory; None where it holds none.

    Files that an index names and that are not there are taken from the index's sum. Raises ConfigError for a file whose
    header cannot be read.
    """
    index = folder / INDEX
    if index.is_file():
        return index_checkpoint(index)
    files = sorted(folder.glob("*.safetensors"))
    return _checkpoint(files) if files else None


def index_checkpoint(index: Path) -> Checkpoint:
    """The files that an index names, or its sum where they are not there; raises ConfigError where neither is told."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(content["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index}: is not a safetensors index: {error}") from error
    files = [index.parent / name for name in names]
    if all(path.is_file() for path in files):
        return _checkpoint(files)
    total = content.get("metadata", {}).get("total_size")
    if not isinstance(total, int | float):
        raise ConfigError(f"{index}: has no metadata.total_size, and its files are not beside it")
    return Checkpoint(tensor_bytes=int(total))


def file_checkpoint(path: Path) -> Checkpoint:
    """The tensors of one file; raises ConfigError for a header that cannot be read."""
    return _checkpoint([path])


def _checkpoint(files: list[Path]) -> Checkpoint:
    sizes: Counter[str] = Counter()
    beside = 0
    for path in files:
        for name, tensor in _header(path).items():
            if name == "__metadata__":
                continue
            start, end = tensor["data_offsets"]
            sizes[tensor["dtype"]] += end - start
            if any(part.startswith(_BESIDE_LANGUAGE) for part in name.split(".")[:2]):
                beside += end - start
    return Checkpoint(
        tensor_bytes=sum(sizes.values()), bytes_by_type=tuple(sorted(sizes.items())), beside_language_bytes=beside
    )


def _header(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_LARGEST_HEADER, path.stat().st_size):
                raise ConfigError(f"{path}: is not a safetensors file: its header would be {length} bytes long")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ConfigError(f"{path}: is not a safetensors file: its header is no object")
    return header
