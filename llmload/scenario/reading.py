"""From a name or file to a `Scenario`, or to errors that name file, key and value; what ships; the Locust command."""

import json
import re
import shlex
import socket
import sys
import tomllib
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ValidationError

from llmload.access.address import shown as shown_address
from llmload.access.secrecy import UnshownValueError
from llmload.errors import ConfigError, did_you_mean, on_one_line, shown
from llmload.portable import faults_of
from llmload.prompts.files import refuse_other_than_utf8
from llmload.scenario.headers import checked_headers, mistake_in_variable
from llmload.scenario.loads import LOADS
from llmload.scenario.model import Scenario
from llmload.scenario.sections import Table
from llmload.shipped import shipped_folder

# The scenarios, suites and locustfiles that come with llmload.

_SUITE: Final = "-suite"


def scenario_folder() -> Path:
    """Return the folder of the scenarios that come with llmload."""
    return shipped_folder("scenarios")


SCHEMA_LINE: Final = "#:schema "
"""How the first line of a file names its schema to an editor."""


def schema_of(kind: Literal["scenario", "suite"]) -> Path:
    """Return the file with the JSON Schema of scenario files, or of suite files."""
    return scenario_folder() / f"{kind}.schema.json"


def shipped_locustfile(name: str) -> Path:
    """Return a locustfile that comes with llmload; ConfigError if there is none of that name."""
    file = shipped_folder("locustfiles") / name
    if not file.is_file():
        raise ConfigError(f"tool.locust.locustfile: there is no {name} here, and none comes with llmload")
    return file


def scenario_without_a_file() -> Path:
    """Return the file of the shipped scenario that is run where none is given."""
    return scenario_folder() / "chat.toml"


def shipped_scenarios() -> dict[str, Path]:
    """Return the files of the scenarios that come with llmload, by name; cells of shipped suites are not among them."""
    return {name: file for name, file in _shipped_files().items() if not name.endswith(_SUITE)}


def shipped_suites() -> dict[str, Path]:
    """Return the files of the suites that come with llmload, by name: those that end in `-suite.toml`."""
    return {name: file for name, file in _shipped_files().items() if name.endswith(_SUITE)}


def _shipped_files() -> dict[str, Path]:
    return {file.stem: file for file in sorted(scenario_folder().glob("*.toml"))}


def find_suite(name: str) -> Path:
    """Return the file of a suite given by path or by a shipped one's name; ConfigError if there is none."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_suites()
    if name in shipped:
        return shipped[name]
    advice = did_you_mean(name, shipped) or f"shipped: {', '.join(shipped)}"
    raise ConfigError(f"{name}: no such suite file, and no shipped suite of that name; {advice}")


def find_scenario(name: str) -> Path:
    """Return the file of a scenario given by path or by a shipped one's name; ConfigError if there is none."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_scenarios()
    if name in shipped:
        return shipped[name]
    advice = did_you_mean(name, shipped) or f"shipped are {', '.join(shipped)}, ..."
    raise ConfigError(f"{name}: no such scenario file, and no shipped scenario of that name; {advice}")


def load_scenario(path: Path, overrides: Mapping[str, Any] | None = None, *, is_whole: bool = True) -> Scenario:
    """
    Return the scenario that the file describes, with `overrides` (`"load.users": 8`) laid over it.

    ConfigError has a line for each fault, naming the file, the key and the value. Without `is_whole` more overrides are
    to come, so a load that is over before its window opens is not yet a fault.
    """
    tables = read_toml(path)
    tables.pop("tool", None)  # Locust's own settings, which Locust reads
    for key, value in (overrides or {}).items():
        _lay_over(tables, key, value)
    if faults := [
        f"{_source(path, key, overrides)}: {key}: {fault}" for key, fault in islice(faults_of(tables), _MAX_FAULTS)
    ]:
        raise ConfigError("\n".join(faults))
    try:
        scenario = Scenario.model_validate(tables)
        if is_whole:
            scenario.load.check_window()
    except ValidationError as error:
        raise ConfigError(explain(path, error, overrides or {}, Scenario)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: load: {error}") from None
    return scenario


def locustfile_named_by(path: Path) -> str | None:
    """Return the locustfile that `[tool.locust]` of a scenario file names; None where it names none."""
    locust = read_toml(path).get("tool", {}).get("locust", {})
    named = locust.get("locustfile") if isinstance(locust, dict) else None
    return named if isinstance(named, str) else None


def read_setting(text: str) -> tuple[str, Any]:
    """Return key and value of `KEY=VALUE`, the value in TOML or else a bare word; ConfigError for another text."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"command line: --set {text}: is not KEY=VALUE, such as load.warmup_s=5")
    return key.strip(), read_value(value)


def read_value(text: str) -> Any:
    """Return the text as a TOML value; a bare word is a string, as users write it in a shell."""
    try:
        return _parsed(f"value = {text}", "command line: --set")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


MAX_TOML_BYTES: Final = 256 << 10
"""A longer scenario or suite is refused."""
MAX_TOML_DEPTH: Final = 32
"""No table or list of a scenario is nested more deeply than a few levels."""
# A text that does not end reaches to the end, so that no byte is looked at twice.
_TOML_TEXTS: Final = re.compile(
    r'"{3}(?:[^"\\]|\\.|"(?!""))*+(?:"{3}|\Z)|'
    r"'{3}(?:[^']|'(?!''))*+(?:'{3}|\Z)|"
    r'"(?:[^"\\\n]|\\.)*+"?|'
    r"'[^'\n]*+'?|#[^\n]*+",
    re.DOTALL,
)
_TOML_KEYS: Final = re.compile(r"(?:\A|[,\[\]{}\n])([^=,\[\]{}\n]*+)(?=([=\]])?)")
_MOST_DOTS: Final = 1_000
"""Of what may be a key without a value, or a sentence."""


def read_toml(path: Path, kind: str = "scenario") -> dict[str, Any]:
    """Return the tables of a TOML file, which may begin with a byte order mark; `kind` is its name in a ConfigError."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: is {'a directory' if path.is_dir() else 'no regular file'}, not a {kind} file")
        with path.open("rb") as stream:
            content = stream.read(MAX_TOML_BYTES + 1)
        if len(content) > MAX_TOML_BYTES:
            raise ConfigError(f"{path}: is larger than {MAX_TOML_BYTES >> 10} KiB, so it is not a {kind} file")
        refuse_other_than_utf8(content[:8], str(path))
        return _parsed(content.decode("utf-8-sig").replace("\r\n", "\n"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {kind} file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: is not UTF-8 text (line {line}, byte 0x{error.object[error.start]:02x})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def _parsed(text: str, name: str) -> dict[str, Any]:
    """Return TOML's tables; ConfigError, beginning with `name`, where they are nested too deeply."""
    # The parser takes minutes for a key of a hundred thousand parts, and recurses into lists.
    bare = _TOML_TEXTS.sub("", text)
    is_deep = any(
        found[1].count(".") > (MAX_TOML_DEPTH if found[2] else _MOST_DOTS) for found in _TOML_KEYS.finditer(bare)
    )
    try:
        tables = {} if is_deep else tomllib.loads(text)
    except RecursionError:
        is_deep = True
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python reads no integer of more digits
        raise ConfigError(f"{name}: has an integer of more than {sys.get_int_max_str_digits()} digits") from None
    if is_deep or _is_deeper(tables, MAX_TOML_DEPTH):
        raise ConfigError(f"{name}: has tables or lists nested more than {MAX_TOML_DEPTH} deep")
    return tables


def _is_deeper(value: object, depth: int) -> bool:
    """Return whether tables and lists are nested more deeply than this, level by level."""
    level = [value]
    for _ in range(depth + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def toml_value(value: object) -> str:
    """Return a value in TOML, on one line: JSON has the same texts, numbers, booleans and lists of them."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(key)} = {toml_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool | int | float) else str(value)


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables of values as the text of a TOML file."""
    blocks = (
        "\n".join([f"[{name}]", *(f"{_toml_key(key)} = {toml_value(value)}" for key, value in table.items())])
        for name, table in tables.items()
    )
    return "\n\n".join(blocks) + "\n"


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def _lay_over(tables: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    table: Any = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            return  # the file has a value instead of a table; validation reports it
    table[last] = value


def _source(path: Path, key: str, overrides: Mapping[str, Any] | None) -> str:
    """Return where a key's value comes from; what is laid over the file may be a table with the key in it."""
    names = key.split(".")
    parents = {".".join(names[:length]) for length in range(1, len(names) + 1)}
    return "command line" if parents & set(overrides or ()) else str(path)


_MAX_FAULTS: Final = 20
_MAX_KEY_CHARS: Final = 200


def explain(path: Path, error: ValidationError, overrides: Mapping[str, Any], root: type[BaseModel]) -> str:
    """Return a line for each fault of a file that should be a `root`: the file or the command line, key and value."""
    lines = []
    faults = error.errors(include_url=False)
    for fault in faults[:_MAX_FAULTS]:
        raised = fault.get("ctx", {}).get("error")
        loc = (*(str(part) for part in fault["loc"]), *getattr(raised, "below", ()))
        if fault["type"].startswith("union_tag"):
            loc = (*loc, "kind")
        key = ".".join(part for part in loc if part not in LOADS)
        where = _source(path, key, overrides)
        key = on_one_line(key if len(key) <= _MAX_KEY_CHARS else f"{key[:_MAX_KEY_CHARS]}...")
        lines.append(
            f"{where}: {key}: {_complaint(fault, loc, root)}" if key else f"{where}: {_complaint(fault, loc, root)}"
        )
    if len(faults) > _MAX_FAULTS:
        lines.append(f"{path}: and {len(faults) - _MAX_FAULTS:,} more faults")
    return "\n".join(lines)


def _complaint(fault: Any, loc: tuple[str, ...], root: type[BaseModel]) -> str:
    if fault["type"] in {"missing", "union_tag_not_found"}:
        return "is missing"
    if fault["type"] == "union_tag_invalid":
        tag, tags = fault["ctx"]["tag"], fault["ctx"]["expected_tags"]
        return f"input should be {tags}, got {tag!r}{_nearest(tag, tags)}"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1], root)
        advice = did_you_mean(loc[-1], known) or f"known: {', '.join(known)}"
        return f"unknown key (value {shown(fault['input'])}); {advice}"
    text = re.sub(r"^(Value error|Assertion failed), ", "", fault["msg"])
    text = text[0].lower() + text[1:]
    if isinstance(fault.get("ctx", {}).get("error"), UnshownValueError) or isinstance(fault["input"], dict | BaseModel):
        return text  # a secret must not be shown, and a whole table does not help
    nearest = _nearest(fault["input"], fault["ctx"]["expected"]) if fault["type"] == "literal_error" else ""
    return f"{text}, got {shown(fault['input'])}{nearest}"


def _nearest(value: object, expected: str) -> str:
    """Return which of the expected texts is spelt most like a value, as the end of a sentence."""
    advice = did_you_mean(value, re.findall("'([^']*)'", expected)) if isinstance(value, str) else None
    return f"; {advice}" if advice else ""


def _known_keys(path: tuple[str, ...], table: type[BaseModel]) -> list[str]:
    for part in path:
        if part in LOADS:
            table = LOADS[part]
        elif part in table.model_fields:
            annotation = table.model_fields[part].annotation
            candidates = [annotation, *get_args(annotation)]
            table = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), Table)
    return sorted(table.model_fields)


# The Locust command that runs a scenario: what `llmload run` prints and becomes, and what others start.


def locust_arguments(
    scenario: Path,
    changes: Mapping[str, str | float | None],
    settings: Sequence[str] = (),
    *,
    web: bool = False,
) -> list[str]:
    """
    Return the arguments of the Locust command that runs the scenario with the changes.

    `changes` are options by their name in Python (`host`, `run_time`), None where nothing is changed; `settings` are
    `KEY=VALUE`, any key of the scenario.
    """
    arguments = ["--config", str(scenario)]
    named = locustfile_named_by(scenario)
    if named is None or not Path(named).is_file():
        arguments += ["-f", str(shipped_locustfile(Path(named or "chat.py").name))]
    for name, value in changes.items():
        if value is not None:
            arguments += ["--" + name.replace("_", "-"), str(value)]
    if not web:
        arguments += ["--headless", "--loglevel", "WARNING"]
    for setting in settings:
        arguments += ["--set", setting]
    return arguments


def shown_command(arguments: Sequence[str]) -> str:
    """Return the Locust command as a line for people, without secrets that were typed into it by mistake."""
    words = [_shown_word(option, word) for option, word in zip(["", *arguments], arguments, strict=False)]
    return shlex.join(["locust", *words])


def _shown_word(option: str, word: str) -> str:
    if option == "--host":
        return shown_address(word)
    key, equals, text = word.partition("=")
    name = key.strip()
    if option != "--set" or not equals or not (name.startswith("engine") or name.endswith("_url")):
        return word
    tables: dict[str, Any] = {}
    try:
        value = read_value(text)
        _lay_over(tables, name, value)
        engine = tables.get("engine", {})
        checked_headers(engine.get("headers", {}))
        is_secret = mistake_in_variable(engine.get("api_key_env", "NAME")) is not None
    except (ConfigError, ValueError, AttributeError, TypeError):
        is_secret = True
    else:
        urls = value if isinstance(value, list) else [value] * (name == "engine" or name.endswith("_url"))
        is_secret = is_secret or any(shown_address(str(url)) != str(url) for url in urls)
    return f"{key}=***" if is_secret else word


def locust_command(arguments: Sequence[str]) -> list[str]:
    """Return the command that starts Locust with the arguments, by this Python."""
    return [sys.executable, "-m", "llmload.loadgen", *arguments]


def free_port() -> int:
    """Return a port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
