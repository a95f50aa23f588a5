"""Rooms import only from floors below their own, and each heavy library enters by its door."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "llmload"
FLOORS = {
    "access": 0,
    "errors": 0,
    "extras": 1,
    "interrupts": 0,
    "portable": 0,
    "units": 0,
    "fetch": 1,
    "parent": 1,
    "record": 1,
    "shipped": 1,
    "stats": 1,
    "timerfd": 1,
    "metrics": 2,
    "prompts": 2,
    "sizing": 2,
    "scenario": 3,
    "runs": 4,
    "capacity": 5,
    "sweep": 5,
    "compare": 7,
    "definitions": 7,
    "client": 5,
    "prometheus": 5,
    "simulator": 5,
    "report": 6,
    "notebook": 6,
    "loadgen": 8,
    "suite": 9,
    "cli": 10,
}
DOORS = {
    "locust": {"loadgen"},
    "gevent": {"client", "loadgen"},
    "httptools": {"client", "simulator"},
    "openai": {"client"},
    "datasets": {"prompts"},
    "huggingface_hub": {"fetch"},
    "pydantic": {"metrics", "scenario", "runs", "compare", "suite", "loadgen"},
    "pandas": {"notebook"},
    "prometheus_client": {"prometheus", "simulator"},
    "numpy": {"record", "notebook", "stats", "metrics", "compare", "definitions", "client", "runs", "report"},
    "jinja2": {"report"},
    "pyarrow": {"prompts", "runs"},
    "click": {"cli"},
    "flask": {"loadgen"},
    "flask_login": {"loadgen"},
    "junitparser": {"report"},
    "pynvml": {"sizing"},
    "grafana_foundation_sdk": {"prometheus"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(module: Path) -> str:
    parts = module.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = set(map(name_of, MODULES))


def room_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


@cache
def imports_of(module: Path) -> tuple[str, ...]:
    found: list[str] = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def own_imports(module: Path, names: set[str]) -> set[str]:
    found = set()
    for imported in imports_of(module):
        while imported and imported not in names:
            imported = imported.rpartition(".")[0]
        if imported:
            found.add(imported)
    return found - {name_of(module)}


def test_every_room_has_a_floor() -> None:
    assert {room for room in map(room_of, NAMES) if room} <= FLOORS.keys()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_imports_only_from_its_room_and_from_floors_below(module: Path) -> None:
    room = room_of(name_of(module))
    for imported in own_imports(module, NAMES):
        other = room_of(imported)
        if room is not None and other is not None and other != room:
            assert FLOORS[other] < FLOORS[room], f"{name_of(module)} imports {imported}"


def test_modules_import_each_other_in_no_circle() -> None:
    graph = {name_of(module): own_imports(module, NAMES) for module in MODULES}
    packages = {name for name in NAMES if any(other.startswith(f"{name}.") for other in NAMES)}

    TopologicalSorter({n: i - {p for p in packages if n.startswith(f"{p}.")} for n, i in graph.items()}).prepare()


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_heavy_library_enters_by_its_door(module: Path) -> None:
    for imported in imports_of(module):
        rooms = DOORS.get(imported.partition(".")[0])
        assert rooms is None or room_of(name_of(module)) in rooms, f"{name_of(module)} imports {imported}"


def test_the_package_itself_imports_nothing_at_import_time() -> None:
    program = "import sys, typing; before = set(sys.modules); import llmload; print(*set(sys.modules) - before)"
    new = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()

    assert new == ["llmload"]


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not {module.stem for module in MODULES} & {"utils", "util", "common", "helpers", "manager", "misc"}


def part_of(name: str) -> str:
    """The part of `benchmarks` a module is in (`tools`, `trials`, `comparisons`); empty for the package itself."""
    return name.split(".")[1] if name.count(".") else ""


@pytest.mark.parametrize("module", sorted((PACKAGE.parent / "benchmarks").rglob("*.py")), ids=lambda path: path.stem)
def test_trials_and_comparisons_import_tools_but_not_each_other(module: Path) -> None:
    name = name_of(module)
    for imported in imports_of(module):
        if imported.startswith("benchmarks.") and part_of(name):
            assert part_of(imported) in {part_of(name), "tools", "ROOT"}, f"{name} imports {imported}"
