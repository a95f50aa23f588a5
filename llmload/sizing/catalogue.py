"""Models by name or file: shipped configs, files on disk and their headers (GGUF, safetensors), the hub's."""

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from llmload.errors import ConfigError, shown
from llmload.sizing.architecture import Checkpoint, ModelSpec
from llmload.sizing.families import model_from_config
from llmload.sizing.hf_config import HfConfig
from llmload.sizing.tensor_names import placed

# The headers of weight files: a GGUF file's config and tensors, the tensors of safetensors; no weight is read.

# ggml.h: name, elements of a block, bytes of a block.
_TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
_SCALARS: Mapping[int, str] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_FAMILIES: Mapping[str, str] = {
    "llama": "llama", "qwen2": "qwen2", "qwen2moe": "qwen2_moe", "qwen3": "qwen3", "qwen3moe": "qwen3_moe",
    "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3_text", "phi3": "phi3", "gpt2": "gpt2",
    "starcoder2": "starcoder2", "gpt-oss": "gpt_oss", "granite": "granite", "olmo2": "olmo2", "exaone4": "exaone4",
    "command-r": "cohere", "glm4": "glm4", "seed_oss": "seed_oss", "smollm3": "smollm3", "minimax-m2": "minimax_m2",
    "hunyuan-moe": "hunyuan_v1_moe",
}  # fmt: skip
_BIASED_BY_FILE = ("llama", "seed_oss", "glm4")  # families whose configs say whether they have biases
_KEYS: Mapping[str, str] = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "sliding_window": "attention.sliding_window",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """A GGUF file's model as a Hugging Face config, and its tensors' bytes by ggml type."""

    config: Mapping[str, Any]
    checkpoint: Checkpoint


def read_gguf(path: Path) -> GgufHeader:
    """
    Return the header of a GGUF file, version 2 or 3.

    Raises ConfigError for another file, and for an architecture whose ggml name llmload does not know.
    Source: ggml/docs/gguf.md.
    """
    try:
        with path.open("rb") as file:
            return _read_gguf_header(file, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (struct.error, MemoryError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path}: its GGUF header ends early or is damaged") from error


def _read_gguf_header(file: BinaryIO, path: Path) -> GgufHeader:
    magic, version = file.read(4), _scalar(file, "<I")
    if magic != b"GGUF" or version not in (2, 3):
        raise ConfigError(f"{path}: is not a GGUF file of version 2 or 3")
    tensors, pairs = _scalar(file, "<Q"), _scalar(file, "<Q")
    metadata = {}
    for _ in range(pairs):
        key = _string(file)
        metadata[key] = _value(file, _scalar(file, "<I"), path)
    sizes: Counter[str] = Counter()
    shapes: dict[str, list[int]] = {}
    by_name: dict[str, int] = {}
    for _ in range(tensors):
        name = _string(file)
        shapes[name] = [_scalar(file, "<Q") for _ in range(_scalar(file, "<I"))]
        kind, _offset = _scalar(file, "<I"), _scalar(file, "<Q")
        if kind not in _TENSOR_TYPES:
            raise ConfigError(f"{path}: tensor {name} has the unknown type {kind}")
        label, block, size = _TENSOR_TYPES[kind]
        by_name[name] = prod(shapes[name]) // block * size
        sizes[label] += by_name[name]
    return GgufHeader(config=_config(metadata, shapes, path), checkpoint=_weights(path, by_name, sizes, None))


def _weights(path: Path, by_name: Mapping[str, int], by_type: Mapping[str, int], layers: int | None) -> Checkpoint:
    """The weights of a file or folder; ConfigError where it has none, so that nothing fits because it is nothing."""
    if not any(by_type.values()):
        raise ConfigError(f"{path}: has no weights: give a config.json to size the model without them")
    return placed(by_name, by_type, layers)


def _config(metadata: Mapping[str, Any], shapes: Mapping[str, list[int]], path: Path) -> dict[str, Any]:
    """The config in Hugging Face's names; a list by layer must have one value throughout."""
    name = metadata.get("general.architecture")
    family = _FAMILIES.get(str(name))
    if family is None:
        known = ", ".join(sorted(_FAMILIES))
        raise ConfigError(f"{path}: general.architecture = {shown(name)} is not one llmload can size; known: {known}")
    config: dict[str, Any] = {"tie_word_embeddings": "output.weight" not in shapes}
    for key, gguf_key in _KEYS.items():
        value = metadata.get(f"{name}.{gguf_key}")
        if isinstance(value, list):
            if not value or any(each != value[0] for each in value):
                raise ConfigError(f"{path}: {name}.{gguf_key} differs from layer to layer, which is not known")
            value = value[0]
        if value:
            config[key] = value
    if family == "llama" and "num_local_experts" in config:
        family = "mixtral"
    shape = shapes.get("token_embd.weight", [])
    if len(shape) > 1:
        config["vocab_size"] = shape[1]
    biased = any(key.endswith(("attn_q.bias", "attn_qkv.bias")) for key in shapes)
    return config | {"model_type": family} | ({"attention_bias": biased} if family in _BIASED_BY_FILE else {})


def _value(file: BinaryIO, kind: int, path: Path) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        if kind not in _SCALARS:
            raise ConfigError(f"{path}: has a value of type {kind}, which GGUF does not define")
        return _scalar(file, _SCALARS[kind])
    element, count = _scalar(file, "<I"), _scalar(file, "<Q")
    if element in _SCALARS:
        form = _SCALARS[element]
        data = file.read(count * struct.calcsize(form))
        return [each[0] for each in struct.iter_unpack(form, data)]
    return [_value(file, element, path) for _ in range(count)]


def _scalar(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _string(file: BinaryIO) -> str:
    return file.read(_scalar(file, "<Q")).decode("utf-8", "replace")


INDEX = "model.safetensors.index.json"
_MAX_JSON_BYTES = 64 * 2**20  # of an index and a header: the largest are of some megabytes
_MAX_TENSOR_BYTES = 2**60


def folder_checkpoint(folder: Path, layers: int | None = None) -> Checkpoint | None:
    """
    Return the bytes of a model directory's safetensors files; None where it has none.

    Layers from `layers` on are drafts. Where a file that the index names is missing, the index's sum is taken. Raises
    ConfigError for a file whose header cannot be read.
    """
    index = folder / INDEX
    if index.is_file():
        return index_checkpoint(index, layers)
    files = sorted(folder.glob("*.safetensors"))
    _refuse_missing(files)
    return _checkpoint(files, layers) if files else None


_SHARD = re.compile(r".+-\d+-of-0*(\d+)\.(safetensors|gguf)")


def _shards(path: Path) -> int:
    """Return of how many files a weight file is one, by its name."""
    named = _SHARD.fullmatch(path.name)
    return 1 if named is None else int(named[1])


def _refuse_missing(files: Sequence[Path]) -> None:
    """Raise ConfigError where the files' names say that there are more of them."""
    for path in files:
        count = _shards(path)
        here = sum(_shards(other) == count for other in files)
        if count > 1 and here < count:
            raise ConfigError(
                f"{path}: is one of {count} files, of which {here} are here: get the others, or put {INDEX}, which has "
                f"their sum, beside it"
            )


def index_checkpoint(index: Path, layers: int | None = None) -> Checkpoint:
    """Return the bytes of the files that an index names, else its sum; raises ConfigError where it has neither."""
    content = _read(index, "a safetensors index")
    named = content.get("weight_map")
    names = list(named.values()) if isinstance(named, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{index}: is not a safetensors index: it has no weight_map of file names")
    files = [index.parent / Path(name).name for name in sorted(set(names))]
    with suppress(OSError):  # of a name that no file can have
        if all(path.is_file() for path in files):
            return _checkpoint(files, layers)
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(total, int | float) or not 0 < total < _MAX_TENSOR_BYTES:
        raise ConfigError(f"{index}: has no metadata.total_size, and its files are not beside it")
    return Checkpoint(tensor_bytes=int(total))


def file_checkpoint(path: Path, layers: int | None = None) -> Checkpoint:
    """Return the bytes of one file's tensors; raises ConfigError for a header that cannot be read."""
    return _checkpoint([path], layers)


def _checkpoint(files: list[Path], layers: int | None) -> Checkpoint:
    sizes: Counter[str] = Counter()
    by_name: dict[str, int] = {}
    for path in files:
        for name, tensor in _header(path).items():
            if name == "__metadata__":
                continue
            match tensor:
                case {"dtype": str(dtype), "data_offsets": [int(start), int(end)]} if (
                    0 <= start <= end < _MAX_TENSOR_BYTES
                ):
                    sizes[dtype] += end - start
                    by_name[name] = end - start
                case _:
                    raise ConfigError(
                        f"{path}: is not a safetensors file: tensor {name[:80]!r} has no dtype and offsets"
                    )
    return _weights(files[0] if len(files) == 1 else files[0].parent, by_name, sizes, layers)


def _header(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(_MAX_JSON_BYTES, path.stat().st_size):
                raise ConfigError(f"{path}: is not a safetensors file: its header would be {length} bytes long")
            header = _parsed(path, file.read(length), "a safetensors file")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(header, dict):
        raise ConfigError(f"{path}: is not a safetensors file: its header is not an object")
    return header


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


_MODELOPT_CONFIG = "hf_quant_config.json"  # where ModelOptimizer says what config.json may leave out


def _load_file(path: Path) -> ModelSpec:
    if (path.is_file() and path.suffix in (".gguf", ".safetensors")) and (count := _shards(path)) > 1:
        instead = "join them with llama-gguf-split --merge" if path.suffix == ".gguf" else "give their folder"
        raise ConfigError(f"{path}: is one of {count} files, and its header has its own tensors alone: {instead}")
    if path.suffix == ".gguf":
        header = read_gguf(path)
        model = model_from_config(HfConfig(header.config, str(path)), path.stem)
        return replace(model, weight_format=None, quantisation="gguf", checkpoint=header.checkpoint)
    beside = path.name.endswith((".safetensors.index.json", ".safetensors"))
    config = path / "config.json" if path.is_dir() else path.with_name("config.json") if beside else path
    checkpoint = _files(path, _stated_layers(config))
    values = {**_read(config)}
    own = config.with_name(_MODELOPT_CONFIG)
    if "quantization_config" not in values and own.is_file():
        values["quantization_config"] = _read(own)
    model = model_from_config(HfConfig(values, str(config)), config.parent.name or str(config))
    return replace(model, checkpoint=checkpoint)


def _stated_layers(config: Path) -> int | None:
    """The layers that a config states, None where it does not or cannot be read: its own reader says so."""
    with suppress(ConfigError):
        values = _read(config)
        inner = values.get("text_config")
        layers = (inner if isinstance(inner, dict) else values).get("num_hidden_layers")
        return layers if isinstance(layers, int) else None
    return None


def _files(path: Path, layers: int | None) -> Checkpoint | None:
    if path.is_dir():
        return folder_checkpoint(path, layers)
    if path.name.endswith(".safetensors.index.json"):
        return index_checkpoint(path, layers)
    return file_checkpoint(path, layers) if path.suffix == ".safetensors" else None


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


def _read(path: Path, kind: str = "JSON") -> Mapping[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is not a file")
        with path.open("rb") as file:
            text = file.read(_MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > _MAX_JSON_BYTES:
        raise ConfigError(f"{path}: is not {kind}: it has more than {_MAX_JSON_BYTES >> 20} MiB")
    values = _parsed(path, text, kind)
    if not isinstance(values, dict):
        what = f"is a JSON {type(values).__name__}, not an object as a model config is"
        raise ConfigError(f"{path}: {what if kind == 'JSON' else f'is not {kind}'}")
    return values


def _parsed(path: Path, text: bytes, kind: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: is not {kind}: it is nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not {kind}: {error}") from error


def _hub_config(model_id: str) -> Mapping[str, Any]:
    # Imported here: HTTP and TLS take 0.1 s, and only the hub needs them.
    from llmload.extras import need
    from llmload.fetch import NoSuchFileError, fetch

    need("hub", f"hub model '{model_id}'")
    try:
        values = {**_read(fetch(model_id, "config.json", "model"))}
        if "quantization_config" not in values:
            with suppress(NoSuchFileError):  # most models have none
                values["quantization_config"] = _read(fetch(model_id, _MODELOPT_CONFIG, "model"))
    except ConfigError as error:
        raise ConfigError(f"hub model '{model_id}': {error}") from None
    return values


def _unknown(name: str) -> str:
    from difflib import get_close_matches  # only an error needs it

    near = [catalogue()[key]["name"] for key in get_close_matches(name.lower(), catalogue(), n=3)]
    hint = f"; near it: {', '.join(dict.fromkeys(near))}" if near else ""
    return f"model {name!r} is neither in the catalogue (`llmload vram models`) nor a file or directory{hint}"
