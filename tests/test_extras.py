"""The core works without what the extras bring; what needs an extra names it and the command that installs it."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import llmload
from llmload.cli.main import main
from llmload.client import make_client
from llmload.client.settings import ClientSettings
from llmload.errors import ConfigError, ExitCode
from llmload.extras import LIBRARIES
from llmload.prompts.sources import load_prompt_set
from llmload.sizing.catalogue import load_model

ROOT = Path(__file__).parents[1]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
DOORS = (
    *("llmload.client.sdk", "llmload.client.sdk_answer"),
    *("llmload.notebook", "llmload.prometheus.grafana", "llmload.runs.parquet"),
)
"""Modules that import an extra's library as they are imported; their importers ask for the extra first."""
WITHOUT_EXTRAS = """
import sys
from importlib import import_module

libraries, *modules = sys.argv[1:]
sys.modules.update(dict.fromkeys(libraries.split(",")))
import locust.main

for module in modules:
    import_module(module)
"""


def test_all_but_the_doors_can_be_imported_without_any_extra() -> None:
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in (ROOT / "llmload").rglob("*.py")
        if not file.name.startswith("__")
    ]
    modules = sorted(set(names) - set(DOORS))
    libraries = ",".join(library for extra in LIBRARIES.values() for library in extra)

    assert set(DOORS) <= set(names)
    subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, libraries, *modules], cwd=ROOT, check=True)


def parquet_prompts(folder: Path) -> None:
    (folder / "p.parquet").touch()
    load_prompt_set("p.parquet", None, folder)


CALLS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "client": ("openai", "httpx2", lambda _: make_client(ClientSettings(base_urls=("http://h",), model="m"), "openai")),
    "lima": ("hub", "datasets", lambda folder: load_prompt_set("lima", None, folder)),
    "config": ("hub", "huggingface_hub", lambda _: load_model("owner/name", hub=True)),
    "prompts": ("parquet", "pyarrow", parquet_prompts),
    "notebook": ("notebook", "pandas", llmload.open_run),
}


@pytest.mark.parametrize(("extra", "library", "call"), CALLS.values(), ids=CALLS)
def test_a_missing_library_is_named_with_the_extra_and_the_command(
    extra: str, library: str, call: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(
        ConfigError, match=rf'needs {library}, which is not installed: pip install "llmload\[{extra}\]"'
    ):
        call(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "extra", "library"),
    [
        (["report", "RUN", "--parquet", "r.parquet"], "parquet", "pyarrow"),
        (["dashboards", "build"], "dashboards", "grafana_foundation_sdk"),
        (["prompts", "show", "lima"], "hub", "datasets"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_verb_without_its_extra_is_wrong_use(
    arguments: list[str], extra: str, library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / "manifest.json").touch()

    ended = CliRunner().invoke(main, [str(tmp_path) if word == "RUN" else word for word in arguments])

    assert ended.exit_code == ExitCode.WRONG_USE
    assert f'pip install "llmload[{extra}]"' in ended.output


def test_the_extras_are_those_of_the_package() -> None:
    packages = {
        extra: {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in EXTRAS[extra]} for extra in LIBRARIES
    }

    assert packages == {extra: set(libraries) for extra, libraries in LIBRARIES.items()}
    assert set(re.findall(r"[\w-]+", EXTRAS["all"][0])) == {"llmload", *LIBRARIES, "gpu"} - {"dashboards"}
