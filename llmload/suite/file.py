"""A suite file as types: engines with their start commands, models, protocols, and patterns that select cells."""

import fnmatch
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from llmload.access.address import HIGHEST_PORT, checked_base_url
from llmload.access.secrecy import UnshownValueError, described, holds_secret, is_secret
from llmload.errors import MAX_SHOWN_CHARS, ConfigError, shown
from llmload.scenario.headers import Headers, VariableName
from llmload.scenario.model import EngineName, Precision
from llmload.scenario.reading import explain, read_toml
from llmload.scenario.sections import Count, Positive, Table

# The start command of each engine, with names in braces for the values of a suite file.

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
_VALUE_NAME: Final = re.compile(r"\{(\w+)\}")


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
    found: list[str] = _VALUE_NAME.findall(word)
    for name in found:
        if name not in NAMES:
            raise ConfigError(f"{{{name[:MAX_SHOWN_CHARS]}}} is not a known name; known: {', '.join(NAMES)}")
    return found


def _fill(word: str, values: Mapping[str, object]) -> str:
    for name in names_in(word):
        if values.get(name) is None:
            raise ConfigError(f"{shown(word)} needs {name}, {NAMES[name]}, which is not given")
    return _VALUE_NAME.sub(lambda match: str(values[match.group(1)]), word)


SCENARIO_COMMAND: Final = "{scenario_command}"
"""A word that is replaced by the words of the scenario's `deployment.command`."""
_NAME: Final = re.compile(r"[A-Za-z0-9_][\w.-]*", re.ASCII)
MAX_NAME: Final = 80
"""Characters of a name, and of a variant's options in its own: both, with a number, are one part of a path."""


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a name here has ASCII letters, digits, '.', '-' and '_' only, since it becomes part of a path, and does "
            "not begin with '.' or '-'"
        )
    if len(name) > MAX_NAME:
        raise ValueError(f"it has {len(name)} characters, and becomes part of a path: {MAX_NAME} at most")
    return name


def _checked_words(words: object) -> object:
    if not isinstance(words, list):
        raise ValueError("input should be a list of words")  # noqa: TRY004 - pydantic takes ValueErrors
    for index, word in enumerate(words, start=1):
        for part in word if isinstance(word, list) else [word]:
            if not isinstance(part, str):
                raise ValueError(f"word {index} is not a text: put quotes around {shown(part)}")  # noqa: TRY004 - the same
            _refuse_unseen(part, "\n\t")
            _check_word(part)
    return words


def _check_word(word: str) -> None:
    if word != SCENARIO_COMMAND:
        try:
            names_in(word)
        except ConfigError as error:
            raise ValueError(str(error)) from None
    if holds_secret(word):
        raise UnshownValueError(
            "a password or key in a command would appear in logs: name its variable in pass_env, for the engine to read"
        )


def _refuse_unseen(text: str, but: str = "") -> None:
    wrong = next((char for char in text if not char.isprintable() and char not in but), None)
    if wrong is not None:
        raise ValueError(f"it has {described(wrong)}, which cannot be shown: remove it")


def _checked_text(text: str) -> str:
    _refuse_unseen(text)
    return text


def _checked_word(text: str) -> str:
    if text.startswith("-"):
        raise ValueError("it begins with '-', so that a command would take it for an option")
    if holds_secret(text):
        raise UnshownValueError("a password or key does not belong in a file: it would appear in logs and tables")
    return text


def _checked_setting(text: str) -> str:
    if holds_secret(text.partition("=")[2]):
        raise UnshownValueError("a password or key does not belong in a file: it would appear in logs and manifests")
    return text


def _checked_env(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        _refuse_unseen(value, "\n\t")
        if is_secret(name) or holds_secret(value):
            raise UnshownValueError(f"a password or key such as {name} does not belong in a file: name it in pass_env")
    return env


Name = Annotated[str, AfterValidator(_checked_name)]
Shown = Annotated[str, AfterValidator(_checked_text)]
"""A text for people: on one line."""
Text = Annotated[str, Field(min_length=1), AfterValidator(_checked_text), AfterValidator(_checked_word)]
"""A text that becomes a word of a command, or part of one."""
Setting = Annotated[str, AfterValidator(_checked_text), AfterValidator(_checked_setting)]
Words = Annotated[list[Any], BeforeValidator(_checked_words, json_schema_input_type=list[str | list[str]])]
"""Words of a command; an inner list is left out as a whole if a name in it has no value."""
Port = Annotated[int, Field(ge=1, le=HIGHEST_PORT)]


class EngineEntry(Table):
    """An engine of the matrix: its type, its start command, its timeouts."""

    kind: Literal["process", "docker", "running"] = "process"
    """How it runs: started as a process or as a container, or already, at its `url`."""
    engine: EngineName | None = None
    """The type of engine, where its name in the file is not one."""
    label: Text | None = None
    """Its name in tables."""
    api: Literal["openai-chat", "tgi-generate"] | None = None
    """The protocol, as in a scenario's `[engine]`."""
    api_key_env: VariableName | None = None
    """The environment variable with the API key."""
    headers: Headers | None = None
    """Further headers of every request: a text, or `{ env = "NAME" }`."""
    command: Words | None = None
    """The whole command, in a container what follows the image; it replaces the template's."""
    program: Words | None = None
    """The beginning of the template's command, where the engine is not on the PATH."""
    options: Words = Field(default_factory=list)
    """Words appended to the command."""
    env: Annotated[dict[VariableName, str], AfterValidator(_checked_env)] = Field(default_factory=dict)
    """Environment variables of the engine with their values; never a password or key."""
    pass_env: list[VariableName] = Field(default_factory=list)
    """Variables that must be set in the environment of the suite and are passed to the engine."""
    image: Text | None = None
    """The container's image, in place of the template's."""
    docker_options: Words | None = None
    """Words between `docker run` and the image, in place of the template's: `--gpus all` and the cache's volume."""
    container_port: Port = 8000
    """The port on which the engine listens in its container."""
    url: Annotated[str, AfterValidator(checked_base_url)] | None = None
    """The address of an engine that is running already."""
    port: Port | None = None
    """The port on which it listens; a free one if absent."""
    version: Text | None = None
    """The version that the engine must report, if it reports any."""
    set: list[Setting] = Field(default_factory=list)
    """KEY=VALUE, any key of the scenario, for this engine's cells."""
    ready_timeout_s: Positive = 900.0
    """How long it may take to be ready."""
    stop_grace_s: Positive = 30.0
    """How long it may take to stop before it gets SIGKILL."""

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> Self:
        if self.kind == "running":
            started = sorted({"command", "program", "options", "env", "image", "port"} & self.model_fields_set)
            if self.url is None:
                raise ValueError("kind = 'running' needs url")
            if started:
                raise ValueError(f"kind = 'running' is not started by the suite, so it cannot have {started[0]}")
        elif self.url is not None:
            raise ValueError(f"url belongs to kind = 'running', not {self.kind!r}")
        if self.kind != "docker" and (self.image is not None or self.docker_options is not None):
            raise ValueError("image and docker_options belong to kind = 'docker'")
        if self.command is not None and self.program is not None:
            raise ValueError("command replaces the whole command and program its beginning: give one of them")
        return self


class ModelEntry(Table):
    """A model of the matrix: its id for each engine, its name in requests, its name in the sizing catalogue."""

    id: Text | None = None
    """A hub id or a path, for every engine that is not in `ids`."""
    ids: dict[str, Text] = Field(default_factory=dict)
    """Ids by the engine's name in the file."""
    served_as: Text | None = None
    """Its name in requests, if the engine does not serve it by its name in the file."""
    catalogue: Text | None = None
    """Its name in `llmload vram models`, or the path of its config."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """How many GPUs it is deployed on, for the command, the sizing and figures per GPU."""
    tensor_parallel: Count | None = None
    """Its tensor parallelism, for the command and the sizing."""
    precision: Precision | None = None
    """The type of its weights, for the command and the sizing."""
    options: dict[str, Words] = Field(default_factory=dict)
    """Words appended to the command, by the engine's name in the file."""
    set: list[Setting] = Field(default_factory=list)
    """KEY=VALUE, any key of the scenario, for this model's cells."""


class ProtocolEntry(Table):
    """A protocol of the matrix: a scenario with changed settings."""

    scenario: Text
    """A shipped scenario's name or a file, beside the suite file or in the working directory; {engine} and {model} are
    replaced by the cell's."""
    set: list[Setting] = Field(default_factory=list)
    """KEY=VALUE, as for `llmload run --set`."""
    processes: int | None = None
    """How many processes send, as `llmload run --processes`."""
    engines: list[str] | None = None
    """Only these engines; all if absent."""
    models: list[str] | None = None
    """Only these models; all if absent."""


class SuiteHead(Table):
    """The suite's name and its settings for all cells."""

    name: Name
    """The suite's name, a part of its folder's."""
    description: Shown | None = None
    """What the suite measures, in a sentence."""
    folder: Text | None = None
    """The folder of all results; `suites/NAME` if absent."""
    gpu: Text | None = None
    """The GPU by its name in `llmload vram gpus`, for the MBU."""
    warmup_requests: Annotated[int, Field(ge=0)] = 4
    """Sent to each deployment before the first measurement, one at a time."""
    skip: list[Shown] = Field(default_factory=list)
    """Patterns of cells to leave out: engine/model/protocol, with * for any."""
    vary: Annotated[
        dict[str, Annotated[list[Words], Field(min_length=1)]],
        Field(json_schema_extra={"propertyNames": {"pattern": r"^engines\..+\.options$"}}),
    ] = Field(default_factory=dict)
    """By `engines.NAME.options`: lists of words, each of which makes a variant of that engine with them appended."""


class SuiteFile(Table):
    """A whole suite file."""

    suite: SuiteHead
    """The suite's name and its settings for all cells."""
    engines: Annotated[dict[Name, EngineEntry], Field(min_length=1)]
    """The engines by name; one called `vllm` or the like has llmload's command for it."""
    models: Annotated[dict[Name, ModelEntry], Field(min_length=1)]
    """The models by name."""
    protocols: Annotated[dict[Name, ProtocolEntry], Field(min_length=1)]
    """What is measured, by name: scenarios with changed settings."""

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for kind, entries in (("models", self.models), ("protocols", self.protocols)):
            for name, entry in entries.items():
                for key in ("ids", "options") if kind == "models" else ("engines",):
                    _known(f"{kind}.{name}.{key}", getattr(entry, key), self.engines)
        for name, protocol in self.protocols.items():
            _known(f"protocols.{name}.models", protocol.models, self.models)
        for key in self.suite.vary:
            self._check_varied(key)
        self._check_variants()
        for name, engine in self.engines.items():
            template = TEMPLATES.get(self.engine_of(name))
            needs = engine.kind == "docker" and not engine.image and not (template and template.image)
            if engine.kind != "running" and engine.command is None and (template is None or needs):
                raise ValueError(f"engines.{name}: llmload has no template for this engine; give {_instead(engine)}")
            if needs:
                raise ValueError(f"engines.{name}: llmload has no image for this engine; give image")
        return self

    def _check_varied(self, key: str) -> None:
        found = _VARIED.fullmatch(key)
        if found is None:
            raise ValueError(f"suite.vary: {key!r} is not engines.NAME.options, which is all that can be varied")
        _known("suite.vary", [found[1]], self.engines)
        if self.engines[found[1]].kind == "running":
            raise ValueError(f"suite.vary: engines.{found[1]} is running already, so its options cannot be varied")

    def _check_variants(self) -> None:
        """Refuse two engines of one name, which are one cell."""
        called = [(variant, name) for name in self.engines for variant in self._variants_of(name)]
        for index, (variant, name) in enumerate(called):
            other = dict(called[:index]).get(variant)
            if other is not None:
                whose = f"engines.{name}" if other == name else f"engines.{other} and engines.{name}"
                raise ValueError(
                    f"suite.vary: {whose} would have two variants called {variant}: change their options, or an "
                    "engine's name"
                )

    def _variants_of(self, name: str) -> list[str]:
        return [_variant(name, words) for words in self.suite.vary.get(f"engines.{name}.options", [[]])]

    def with_variants(self) -> Self:
        """Return the suite with each varied engine replaced by its variants, named after their options."""
        variants: dict[str, list[str]] = {}
        engines: dict[str, EngineEntry] = {}
        for name, entry in self.engines.items():
            lists = self.suite.vary.get(f"engines.{name}.options", [[]])
            variants[name] = self._variants_of(name)
            for variant, words in zip(variants[name], lists, strict=True):
                engines[variant] = entry if not words else self._variant_of(name, words)

        def by_variant(keys: Mapping[str, Any]) -> dict[str, Any]:
            return {variant: value for name, value in keys.items() for variant in variants[name]}

        models = {
            name: model.model_copy(update={"ids": by_variant(model.ids), "options": by_variant(model.options)})
            for name, model in self.models.items()
        }
        protocols = {
            name: protocol
            if protocol.engines is None
            else protocol.model_copy(update={"engines": [v for each in protocol.engines for v in variants[each]]})
            for name, protocol in self.protocols.items()
        }
        return self.model_copy(update={"engines": engines, "models": models, "protocols": protocols})

    def _variant_of(self, name: str, words: Sequence[Any]) -> EngineEntry:
        entry = self.engines[name]
        label = f"{entry.label or name} {' '.join(_flat(words))}"
        options = [*entry.options, *words]
        return entry.model_copy(update={"options": options, "engine": self.engine_of(name), "label": label})

    def engine_of(self, name: str) -> EngineName:
        """Return the type of an engine: its `engine`, or else its name if that is a type."""
        given = self.engines[name].engine
        if given is not None:
            return given
        known: dict[str, EngineName] = {each: each for each in _ENGINE_NAMES}
        return known.get(name, "other")


_VARIED: Final = re.compile(r"engines\.(.+)\.options")


def _flat(words: Sequence[Any]) -> list[str]:
    return [part for word in words for part in ([word] if isinstance(word, str) else word)]


def _variant(name: str, words: Sequence[Any]) -> str:
    """
    Return the name of an engine with these options: `vllm.max-num-seqs-128`; its own without any.

    Options too long for a part of a path are cut, and end in their checksum.
    """
    options = " ".join(_flat(words))
    slug = re.sub(r"[^A-Za-z0-9_.]+", "-", options).strip("-.")
    if len(slug) > MAX_NAME:
        slug = f"{slug[:MAX_NAME]}-{zlib.crc32(options.encode()):08x}"
    return f"{name}.{slug}" if slug else name


_ENGINE_NAMES: Final[tuple[EngineName, ...]] = (
    "transformers",
    "vllm",
    "tgi",
    "sglang",
    "llama.cpp",
    "lmdeploy",
    "tensorrt-llm",
    "simulated",
)


def load_suite(path: Path) -> SuiteFile:
    """Read a suite file; ConfigError has a line for every fault, naming file, key and value."""
    tables = read_toml(path, "suite")
    _check_quotes(path, tables)
    try:
        return SuiteFile.model_validate(tables).with_variants()
    except ValidationError as error:
        raise ConfigError(explain(path, error, {}, SuiteFile)) from None


def _check_quotes(path: Path, tables: dict[str, Any]) -> None:
    """Name the missing quotes where TOML has read [models.llama-3.1-8b] as a table in a table."""
    for kind, entry in (("engines", EngineEntry), ("models", ModelEntry), ("protocols", ProtocolEntry)):
        named = tables.get(kind)
        for name, keys in named.items() if isinstance(named, dict) else ():
            for key in keys if isinstance(keys, dict) else ():
                if isinstance(keys[key], dict) and key not in entry.model_fields:
                    log_excerpt = f'[{kind}."{name}.{key}"]'
                    raise ConfigError(
                        f"{path}: {kind}.{name}.{key}: a name with a dot in it needs quotes: {log_excerpt}"
                    )


def _known(key: str, names: Any, entries: dict[str, Any]) -> None:
    for name in names or ():
        if name not in entries:
            raise ValueError(f"{key}: no {name!r} in this file; it has {', '.join(entries)}")


def _instead(engine: EngineEntry) -> str:
    return "image and command" if engine.kind == "docker" else "command, or engine = 'vllm' or the like"


class Selection:
    """Patterns of cells, `engine/model/protocol` with * for any; parts missing at the end match any."""

    def __init__(self, patterns: Sequence[str], key: str) -> None:
        self._patterns, self._key = list(patterns), key
        self._unmatched = set(patterns)

    def has(self, name: str) -> bool:
        """Return whether a pattern matches the cell's name."""
        matching = {pattern for pattern in self._patterns if _matches(pattern, name)}
        self._unmatched -= matching
        return bool(matching)

    def check_all_matched(self) -> None:
        """Raise ConfigError for a pattern that has matched no cell, since it is misspelt."""
        for pattern in self._patterns:
            if pattern in self._unmatched:
                raise ConfigError(f"{self._key}: {pattern!r} matches no engine/model/protocol of this suite")


def _matches(pattern: str, name: str) -> bool:
    parts = pattern.split("/")
    return len(parts) <= 3 and all(
        fnmatch.fnmatchcase(part, pattern_part) for pattern_part, part in zip(parts, name.split("/"), strict=False)
    )
