"""The reference of scenario and suite files, from their models: JSON Schemas, and tables of docs/scenario.md."""

import ast
import inspect
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Final, get_args

from pydantic import BaseModel

from benchmarks import ROOT
from llmload.scenario.lengths import TokenLengths
from llmload.scenario.loads import LOADS
from llmload.scenario.model import Scenario
from llmload.scenario.reading import toml_value
from llmload.scenario.sections import Table
from llmload.units import Markdown, code, markdown_table

EXAMPLES: Final = ROOT / "docs" / "data" / "scenario-examples.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table of a scenario file."""

    heading: str
    """As the file has it: `[engine]`, `[[load.stages]]`."""
    model: type[Table]
    examples: Mapping[str, Any]

    @property
    def keys(self) -> Mapping[str, Any]:
        """Its keys, each with its JSON Schema."""
        properties: Mapping[str, Any] = scenario_schema()["$defs"][self.model.__name__]["properties"]
        return properties


@cache
def scenario_schema() -> dict[str, Any]:
    """Return the JSON Schema of a scenario file."""
    schema = file_schema(Scenario)
    locust = {"type": "object", "description": "`[tool.locust]` has Locust's own settings, the locustfile among them."}
    schema["properties"]["tool"] = locust
    return schema


def file_schema(root: type[Table]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a file, as what a user may write."""
    schema = _without_null(root.model_json_schema())
    for model in _models(root):
        part = schema if model is root else schema["$defs"][model.__name__]
        texts = _docstrings(model)
        for key, each in part["properties"].items():
            each.pop("title", None)
            if key in texts:
                each["description"] = texts[key]
            if "$ref" in each or "oneOf" in each:
                each.pop("default", None)  # a table's default is that of its keys
                each.pop("discriminator", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def scenario_tables() -> str:
    """Return a Markdown table of the keys of each table of a scenario file."""
    parts = [f"## {code(each.heading)}\n\n{_sentence(each)}\n\n{_key_table(each)}" for each in sections()]
    return "\n\n".join(parts) + "\n"


def sections() -> Iterator[Section]:
    """Yield the tables of a scenario file in their order, a load for each kind."""
    yield from _sections_in(Scenario, "", tomllib.loads(EXAMPLES.read_text(encoding="utf-8")), set())


def _sections_in(
    model: type[Table], path: str, examples: Mapping[str, Any], shown: set[type[Table]]
) -> Iterator[Section]:
    kinds = {load: kind for kind, load in LOADS.items()}
    for key, field in model.model_fields.items():
        for table in _tables_in(field.annotation):
            heading, example = f"[{path}{key}]", examples[key]
            several = example if isinstance(example, list) else []
            if table in shown:
                continue  # several keys may have one kind of table
            shown.add(table)
            if table is TokenLengths:
                example = _merged([examples["input_tokens"], examples["output_tokens"]])
            if table in kinds:
                heading, example = f'{heading} kind = "{kinds[table]}"', example[kinds[table]]
            elif several:
                heading, example = f"[{heading}]", _merged(several)
            elif not table.model_fields.keys() & example.keys():  # such tables by names that the user chooses
                heading, example = f"[{path}{key}.NAME]", _merged([*example.values()])
            yield Section(heading=heading, model=table, examples=example)
            yield from _sections_in(table, f"{path}{key}.", _merged_tables(several) or example, shown)


def _merged(tables: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for table in reversed(tables) for key, value in table.items()}


def _merged_tables(tables: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the tables in all of the tables, each with the keys that it has in any of them."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for key, value in (pair for table in tables for pair in table.items()):
        found.setdefault(key, []).extend([value] if isinstance(value, Mapping) else [])
    return {key: _merged(each) for key, each in found.items()}


def _tables_in(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables_in(argument)


def _models(model: type[Table]) -> set[type[Table]]:
    inner = {each for field in model.model_fields.values() for each in _tables_in(field.annotation)}
    return {model}.union(*map(_models, inner))


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field; one of the class itself is taken before one that it inherits."""
    texts: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, Table):
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
            lines = [line for part in tree.body if isinstance(part, ast.ClassDef) for line in part.body]
            for field, below in pairwise(lines):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    texts[ast.unparse(field.target)] = " ".join(inspect.cleandoc(ast.literal_eval(below.value)).split())
    return texts


def _without_null(schema: Any) -> Any:
    """Return a schema without null, which TOML does not have: such a key is left out."""
    if isinstance(schema, list):
        return [_without_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _without_null(each) for key, each in schema.items() if not (key == "default" and each is None)}
    choices = [each for each in kept.get("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == 1:
        del kept["anyOf"]
        return choices[0] | kept
    return kept | ({"anyOf": choices} if choices else {})


def _key_table(section: Section) -> str:
    required = scenario_schema()["$defs"][section.model.__name__].get("required", ())
    rows = [
        [
            code(key),
            Markdown(_type_of(each)),
            Markdown("**required**" if key in required else _default_of(each)),
            Markdown(each.get("description", "").replace("|", "\\|")),
            code(f"{key} = {toml_value(section.examples[key])}"),
        ]
        for key, each in section.keys.items()
    ]
    return markdown_table(["key", "type", "default", "meaning", "example"], rows)


def _default_of(schema: Mapping[str, Any]) -> str:
    return code(toml_value(schema["default"]).removesuffix(".0")) if "default" in schema else ""


def _type_of(schema: Mapping[str, Any]) -> str:
    """Return what a value may be, in words."""
    if "anyOf" in schema:
        return " or ".join(map(_type_of, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(code(toml_value(each)) for each in schema["enum"])
    if "const" in schema:
        return code(toml_value(schema["const"]))
    match schema.get("type"):
        case "array":
            items = _type_of(schema["items"])
            return f"list of lists{items.removeprefix('list')}" if items.startswith("list ") else f"list of {items}s"
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number":
            return " ".join([str(schema["type"]), *_bounds(schema)])
        case "string":
            return "text"
        case _:
            return "table"


_MOST: Final = 1e9
"""A bound that only guards sums of nanoseconds says nothing to a reader."""


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if schema.get(name, _MOST) != _MOST]
    yield from [", ".join(bounds)] if bounds else []


def _sentence(section: Section) -> str:
    return " ".join(inspect.cleandoc(section.model.__doc__ or "").split())
