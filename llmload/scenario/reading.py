"""From a TOML file to a `Scenario`, or to errors that name the file, the key and the value; and back to TOML."""

import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from llmload.errors import ConfigError
from llmload.scenario.loads import LOADS
from llmload.scenario.model import Scenario
from llmload.scenario.sections import Table


def load_scenario(path: Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """
    Return the scenario that the file describes, with `overrides` (`"load.users": 8`) laid over it.

    ConfigError has a line for each fault, naming the file, the key and the value.
    """
    tables = read_toml(path)
    tables.pop("tool", None)  # Locust's own settings, which Locust reads
    for key, value in (overrides or {}).items():
        _lay_over(tables, key, value)
    try:
        return Scenario.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(explain(path, error, overrides or {}, Scenario)) from None


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
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def read_toml(path: Path, kind: str = "scenario") -> dict[str, Any]:
    """Return the tables of a TOML file; `kind` is its name in a ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {kind} file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, not a {kind} file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


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


def explain(path: Path, error: ValidationError, overrides: Mapping[str, Any], root: type[BaseModel]) -> str:
    """Return a line for each fault of a file that should be a `root`: the file or the command line, key and value."""
    lines = []
    for fault in error.errors(include_url=False):
        loc = tuple(str(part) for part in fault["loc"])
        if fault["type"].startswith("union_tag"):
            loc = (*loc, "kind")
        key = ".".join(part for part in loc if part not in LOADS)
        where = "command line" if key in overrides else str(path)
        lines.append(
            f"{where}: {key}: {_complaint(fault, loc, root)}" if key else f"{where}: {_complaint(fault, loc, root)}"
        )
    return "\n".join(lines)


def _complaint(fault: Any, loc: tuple[str, ...], root: type[BaseModel]) -> str:
    if fault["type"] in {"missing", "union_tag_not_found"}:
        return "is missing"
    if fault["type"] == "union_tag_invalid":
        return f"input should be {fault['ctx']['expected_tags']}, got {fault['ctx']['tag']!r}"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1], root)
        close = difflib.get_close_matches(loc[-1], known, n=1)
        advice = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        return f"unknown key (value {fault['input']!r}); {advice}"
    text = re.sub(r"^(Value error|Assertion failed), ", "", fault["msg"])
    text = text[0].lower() + text[1:]
    if "password" in text or isinstance(fault["input"], dict | BaseModel):
        return text  # a secret must not be shown, and a whole table does not help
    return f"{text}, got {fault['input']!r}"


def _known_keys(path: tuple[str, ...], table: type[BaseModel]) -> list[str]:
    for part in path:
        if part in LOADS:
            table = LOADS[part]
        elif part in table.model_fields:
            annotation = table.model_fields[part].annotation
            candidates = [annotation, *get_args(annotation)]
            table = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), Table)
    return sorted(table.model_fields)
