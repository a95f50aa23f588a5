"""The start command of each engine, with names in braces for the values of a suite file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from llmload.errors import ConfigError

Word = str | Sequence[str]
"""A word of a command, or several that are left out together if a name in them has no value."""

NAMES: Final[Mapping[str, str]] = {
    "engine": "the engine's name in the suite file",
    "model": "the model's name in the suite file",
    "id": "the model that the engine loads: a hub id or a path",
    "served_as": "the model's name in requests",
    "host": "the address to listen on: 127.0.0.1, inside a container 0.0.0.0",
    "port": "the port to listen on",
    "dtype": "the precision as most engines write it: float16, bfloat16, float32",
    "gpus": "the model's number of GPUs",
    "tensor_parallel": "its tensor parallelism",
    "version": "the engine's version in the suite file",
    "hf_home": "the Hugging Face cache of this machine",
    "python": "the Python that runs llmload",
}
_NAME: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTemplate:
    """One engine's command: `program` and `arguments`, in docker `image`, `image_program` and `arguments`."""

    program: tuple[str, ...]
    arguments: tuple[Word, ...]
    image: str | None = None
    image_program: tuple[str, ...] = ()
    """Words between the image and the arguments, if the image's entry point needs them."""
    docker_options: tuple[str, ...] = ("--gpus", "all", "--ipc", "host", "-v", "{hf_home}:/root/.cache/huggingface")
    request_name_is: Literal["name", "id"] = "name"
    """Whether requests name the model by the suite's name for it or by its id."""


_OPENAI: Final = ("--served-model-name", "{served_as}", "--host", "{host}", "--port", "{port}", ("--dtype", "{dtype}"))
TEMPLATES: Final[Mapping[str, EngineTemplate]] = {
    "vllm": EngineTemplate(
        program=("vllm", "serve"),
        arguments=("{id}", *_OPENAI, ("--tensor-parallel-size", "{tensor_parallel}")),
        image="vllm/vllm-openai:v{version}",
        image_program=("--model",),
    ),
    "tgi": EngineTemplate(
        program=("text-generation-launcher",),
        arguments=(
            *("--model-id", "{id}", "--hostname", "{host}", "--port", "{port}"),
            *(("--dtype", "{dtype}"), ("--num-shard", "{tensor_parallel}")),
        ),
        image="ghcr.io/huggingface/text-generation-inference:{version}",
        docker_options=("--gpus", "all", "--shm-size", "1g", "-v", "{hf_home}/hub:/data"),
        request_name_is="id",
    ),
    "transformers": EngineTemplate(
        program=("transformers", "serve"),
        arguments=("{id}", "--host", "{host}", "--port", "{port}", ("--dtype", "{dtype}")),
        request_name_is="id",
    ),
    "sglang": EngineTemplate(
        program=("{python}", "-m", "sglang.launch_server"),
        arguments=("--model-path", "{id}", *_OPENAI, ("--tp", "{tensor_parallel}")),
        image="lmsysorg/sglang:v{version}",
        image_program=("python3", "-m", "sglang.launch_server"),
    ),
    "llama.cpp": EngineTemplate(
        program=("llama-server",),
        arguments=("--model", "{id}", "--alias", "{served_as}", "--host", "{host}", "--port", "{port}", "--metrics"),
        image="ghcr.io/ggml-org/llama.cpp:server-cuda-{version}",
        docker_options=("--gpus", "all", "-v", "{hf_home}:/root/.cache/huggingface"),
    ),
    "simulated": EngineTemplate(
        program=("{python}", "-m", "llmload.cli.main", "engine", "simulate"),
        arguments=("--model", "{served_as}", "--host", "{host}", "--port", "{port}"),
    ),
}
DTYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def dtype_of(precision: str | None) -> str | None:
    """Return the engines' name of a precision; None for a quantised one, which the model's config defines."""
    return None if precision is None else DTYPES.get(precision)


def fill(words: Sequence[Word], values: Mapping[str, object]) -> list[str]:
    """Return the command with names replaced by values; ConfigError for a name that is unknown or has no value."""
    filled: list[str] = []
    for word in words:
        if isinstance(word, str):
            filled.append(_fill(word, values))
        elif all(values.get(name) is not None for part in word for name in names_in(part)):
            filled += [_fill(part, values) for part in word]
    return filled


def names_in(word: str) -> list[str]:
    """Return the names in braces of a word; ConfigError for one that does not exist."""
    found: list[str] = _NAME.findall(word)
    for name in found:
        if name not in NAMES:
            raise ConfigError(f"{{{name}}} is not a known name; known: {', '.join(NAMES)}")
    return found


def _fill(word: str, values: Mapping[str, object]) -> str:
    for name in names_in(word):
        if values.get(name) is None:
            raise ConfigError(f"{word!r} needs {name}, {NAMES[name]}, which is not given")
    return _NAME.sub(lambda match: str(values[match.group(1)]), word)
