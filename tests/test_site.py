"""The documentation site is built without network, strictly, and its pages load nothing from elsewhere."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?([^"'\s>]+)|<link[^>]*\shref=["']?([^"'\s>]+)""")
BUILD = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]


def copied(folder: Path) -> Path:
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copied(tmp_path_factory.mktemp("site"))
    ended = subprocess.run(["unshare", "--net", *BUILD], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "site"


def pages_of(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for page in entry.values():
            yield from [page] if isinstance(page, str) else pages_of(page)


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(pages_of(CONFIG["nav"])) == sorted(PAGES)


def test_every_page_is_built_and_loads_only_files_of_the_site(site: Path) -> None:
    built = {str(file.relative_to(site)): file.read_text(encoding="utf-8") for file in site.rglob("*.html")}

    assert {page.replace(".md", ".html") for page in PAGES} == built.keys() - {"404.html"}
    for name, text in built.items():
        loaded = [target for found in LOADED.findall(text) for target in found if target]
        assert any(target.endswith(".css") for target in loaded)
        assert not [target for target in loaded if not ((site / name).parent / target.lstrip("/")).is_file()], name


def test_the_search_index_is_local_and_has_every_page(site: Path) -> None:
    items = json.loads((site / "search.json").read_text(encoding="utf-8"))["items"]

    assert {page.replace(".md", ".html") for page in PAGES} <= {item["location"].partition("#")[0] for item in items}


@pytest.mark.parametrize("link", ["[x](nowhere.md)", "[x](start.md#nowhere)"])
def test_a_link_that_leads_nowhere_fails_the_build(link: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "zensical.toml").write_text('[project]\nsite_name = "x"\n')
    (tmp_path / "docs" / "start.md").write_text("# Start\n")
    (tmp_path / "docs" / "index.md").write_text(f"# Home\n\n{link}\n")

    ended = subprocess.run(BUILD, cwd=tmp_path, capture_output=True, check=False)

    assert ended.returncode != 0
