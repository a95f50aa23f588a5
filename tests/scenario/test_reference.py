"""docs/scenario.md and the JSON Schema for editors have every key of a scenario, and say what a scenario takes."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ConfigDict, TypeAdapter

from benchmarks import ROOT
from benchmarks.tools.generated import SCENARIO_PAGE, SCENARIO_SCHEMA, SUITE_SCHEMA, json_text
from benchmarks.tools.scenario_reference import Section, file_schema, scenario_schema, sections
from llmload.cli.scenarios import shipped_cells
from llmload.scenario.model import Scenario
from llmload.scenario.reading import SCHEMA_LINE, read_toml, shipped_scenarios, shipped_suites
from llmload.scenario.sections import Table
from llmload.suite.file import SuiteFile

SECTIONS = list(sections())
SCHEMA = Draft202012Validator(scenario_schema())
VALID = read_toml(shipped_scenarios()["demo"])
OF_SUITES = Draft202012Validator(file_schema(SuiteFile))
SUITES = [*shipped_suites().values(), *sorted((ROOT / "benchmarks").glob("*-suite.toml"))]


def test_the_shipped_schema_is_the_models() -> None:
    """`python -m benchmarks.tools.generated` writes it."""
    Draft202012Validator.check_schema(scenario_schema())
    assert SCENARIO_SCHEMA.read_text(encoding="utf-8") == json_text(scenario_schema())


def test_the_shipped_schema_of_suites_is_the_models_and_says_what_each_key_means() -> None:
    schema = file_schema(SuiteFile)
    Draft202012Validator.check_schema(schema)
    assert SUITE_SCHEMA.read_text(encoding="utf-8") == json_text(schema)
    for name, part in {"SuiteFile": schema, **schema["$defs"]}.items():
        assert [key for key, each in part["properties"].items() if not each.get("description")] == [], name


@pytest.mark.parametrize("file", SUITES, ids=lambda file: file.stem)
def test_a_suite_names_its_schema_and_fits_it(file: Path) -> None:
    first = file.read_text(encoding="utf-8").partition("\n")[0]

    assert (file.parent / first.removeprefix(SCHEMA_LINE)).resolve() == SUITE_SCHEMA
    OF_SUITES.validate(read_toml(file, "suite"))


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("engines", {"vllm": {"option": ["--max-num-seqs"]}}),
        ("engines", {"vllm": {"options": ["--max-num-seqs", 8]}}),
        ("engines", {"vllm": {"kind": "container"}}),
        ("engines", {}),
        ("suite", {"vary": {}}),
        ("suite", {"name": "s", "vary": {"vllm.options": [["-x"]]}}),
        ("suite", {"name": "s", "vary": {"engines.vllm.options": ["-x"]}}),
        ("protocols", {"speed": {"set": ["load.users=8"]}}),
    ],
)
def test_the_schema_of_suites_marks_mistakes(table: str, value: Any) -> None:
    assert not OF_SUITES.is_valid(read_toml(SUITES[0], "suite") | {table: value})


def subclasses(model: type[Table]) -> set[type[Table]]:
    return {model}.union(*map(subclasses, model.__subclasses__()))


def test_the_page_has_the_keys_of_the_models_and_no_others() -> None:
    text = SCENARIO_PAGE.read_text(encoding="utf-8")
    page = {
        part.partition("\n")[0]: re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) for part in text.split("\n## ")[1:]
    }

    assert page == {f"`{each.heading}`": [*each.model.model_fields] for each in SECTIONS}
    of_scenarios = {each for each in subclasses(Table) if each.__module__.startswith("llmload.scenario.")}
    without_own_table = {"Table", "Scenario", "Load", "Bounded", "Arrivals", "Stepped"}
    assert {each.model for each in SECTIONS} == {
        each for each in of_scenarios if each.__name__ not in without_own_table
    }


@pytest.mark.parametrize("section", SECTIONS, ids=lambda each: each.heading)
def test_every_key_says_what_it_means_and_has_an_example_that_is_valid(section: Section) -> None:
    assert {*section.examples} == {*section.model.model_fields}
    for key, field in section.model.model_fields.items():
        assert section.keys[key].get("description"), key
        config = None if "$ref" in section.keys[key] else ConfigDict(strict=True)  # a table has its own
        value: Any = Annotated[field.annotation, field]
        TypeAdapter(value, config=config).validate_python(section.examples[key])
        schema = {**section.keys[key], "$defs": scenario_schema()["$defs"]}
        Draft202012Validator(schema).validate(section.examples[key])


@pytest.mark.parametrize("name", shipped_scenarios())
def test_a_shipped_scenario_names_its_schema_and_fits_it(name: str) -> None:
    file = shipped_scenarios()[name]
    first = file.read_text(encoding="utf-8").partition("\n")[0]

    assert first.startswith(SCHEMA_LINE)
    assert file.parent / first.removeprefix(SCHEMA_LINE) == SCENARIO_SCHEMA
    SCHEMA.validate(read_toml(file))


def test_a_cell_of_a_suite_fits_the_schema() -> None:
    for cell in list(shipped_cells().values())[:3]:
        SCHEMA.validate(tomllib.loads(cell.toml()))


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("load", "userz", 8),
        ("load", "users", 2_000_000),
        ("load", "rate_per_s", 8),
        ("load", "users", "8"),
        ("load", "users", 0),
        ("load", "kind", "closed"),
        ("request", "max_tokens", 1.5),
        ("request", "temperature", -1),
        ("prompts", "repeat", "often"),
        ("engine", "base_url", 8000),
        ("client", "timeouts", {"connect": 3}),
    ],
)
def test_the_schema_marks_mistakes(table: str, key: str, value: Any) -> None:
    assert SCHEMA.is_valid(VALID)
    wrong = VALID | {table: VALID.get(table, {}) | {key: value}}

    assert not SCHEMA.is_valid(wrong)


def test_the_schema_has_no_null_which_toml_lacks() -> None:
    assert '"null"' not in Path(SCENARIO_SCHEMA).read_text(encoding="utf-8")


def scenario_blocks() -> list[tuple[str, dict[str, Any]]]:
    """Each block of TOML in the docs that has tables of a scenario, with its page."""
    pages = {page.name: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md"))}
    blocks = [
        (name, tomllib.loads(block))
        for name, text in pages.items()
        for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]
    return [(name, block) for name, block in blocks if block.keys() & Scenario.model_fields]


def test_what_the_docs_write_into_a_scenario_is_taken() -> None:
    measured = {"monitor": {"dcgm_url": "http://127.0.0.1:9400/metrics"}, "prompts": {"repeat": True}}
    blocks = scenario_blocks()
    for _, block in blocks:
        tables = {**VALID, **measured, **block}
        tables.pop("tool", None)
        if "kind" not in tables["load"]:
            tables["load"] = {**VALID["load"], **tables["load"]}
        Scenario.model_validate(tables)

    assert {"reasoning.md", "lengths.md", "sweep.md", "cost.md"} <= {page for page, _ in blocks}
