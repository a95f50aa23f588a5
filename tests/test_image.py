"""The image is made of what the lock file names, the lock file fits pyproject.toml, and the SBOM lists both."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deployed import kustomization

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
LOCK = DEPLOY / "requirements.txt"
BUILD_LOCK = DEPLOY / "build-requirements.txt"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENTRY = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>\S+) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
ASKED = [
    *PROJECT["project"]["dependencies"],
    *(text for extra in re.findall(r"[\w-]+", EXTRAS["all"][0])[1:] for text in EXTRAS[extra]),
]
"""What the image has: llmload with the extra `all`."""
PYTHON = "3.12"
"""The image's."""


def pinned(lock: Path) -> dict[str, str]:
    return {each["name"]: each["version"] for each in ENTRY.finditer(lock.read_text(encoding="utf-8"))}


def unmet(lock: dict[str, str], asked: list[str]) -> list[str]:
    """The requirements that no pinned version satisfies."""
    environment = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.0"}
    wanted = [Requirement(text) for text in asked]
    return [
        str(each)
        for each in wanted
        if (each.marker is None or each.marker.evaluate(environment))
        and not each.specifier.contains(lock.get(canonicalize_name(each.name), "0"), prereleases=True)
    ]


@pytest.mark.parametrize(
    ("lock", "asked"),
    [
        (LOCK, ASKED),
        (BUILD_LOCK, PROJECT["build-system"]["requires"]),
    ],
    ids=["image", "build"],
)
def test_the_lock_file_satisfies_pyproject(lock: Path, asked: list[str]) -> None:
    assert not unmet(pinned(lock), asked), "make lock"


@pytest.mark.parametrize("asked", ["pandas>=99", "left-out>=1", "locust>=2.47,<2.47"])
def test_a_requirement_that_the_lock_file_does_not_satisfy_is_seen(asked: str) -> None:
    assert unmet(pinned(LOCK), [asked, "click>=8.1"]) == [str(Requirement(asked))]


def test_the_lock_file_has_what_the_project_asks_for_and_nothing_that_it_once_did() -> None:
    direct = re.findall(
        r"^([\w.-]+)==(?:.*\n)(?:    .*\n)*?.*llmload \(pyproject\.toml\)", LOCK.read_text(), re.MULTILINE
    )

    assert set(direct) == {canonicalize_name(Requirement(text).name) for text in ASKED}, "make lock"


@pytest.mark.parametrize("lock", [LOCK, BUILD_LOCK], ids=["image", "build"])
def test_every_line_of_a_lock_file_is_a_version_with_hashes_or_a_comment(lock: Path) -> None:
    rest = ENTRY.sub("", lock.read_text(encoding="utf-8")).splitlines()

    assert not [line for line in rest if not line.lstrip().startswith("#")]
    assert not [line for line in rest if "://" in line or "--" in line], "of no index or host"


def test_the_image_is_installed_from_the_lock_files_alone() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    installs = [shlex.split(each) for each in re.findall(r"pip [^&\n]*\b(?:install|wheel) [^&\n]+", text)]

    assert len(installs) == 4
    for words in installs:
        assert "--no-deps" in words
        assert "--no-index" in words or {"--require-hashes", "--only-binary=:all:", "-r"} <= set(words)
    assert {words[words.index("-r") + 1] for words in installs if "-r" in words} == {
        path.relative_to(ROOT).as_posix() for path in (LOCK, BUILD_LOCK)
    }


def test_every_image_has_a_patch_version_and_the_lock_file_is_for_its_python() -> None:
    bases = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    services = yaml.safe_load((ROOT / "grafana" / "compose.yaml").read_text())["services"].values()
    images = [
        *bases,
        *(service["image"] for service in services if "image" in service),
        *(f"{image['newName']}:{image['newTag']}" for image in kustomization()["images"]),
    ]

    assert len(images) == 7
    images.remove("llmload")  # built here
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+", image)] == []
    assert {re.sub(r"^python:(\d+\.\d+)\..*", r"\1", base) for base in bases} == {PYTHON}
    assert f"--python-version {PYTHON} " in (ROOT / "Makefile").read_text()


def test_the_version_in_kubernetes_is_the_projects() -> None:

    assert kustomization()["images"][0]["newTag"] == PROJECT["project"]["version"]


def test_the_sbom_lists_every_package_of_the_image_with_its_hashes(tmp_path: Path) -> None:
    written = tmp_path / "sbom.json"
    make = ["make", "--old-file=.venv/.ready", f"BIN={Path(sys.executable).parent}", f"SBOM={written}", "sbom"]

    subprocess.run(make, cwd=ROOT, check=True, capture_output=True)

    bom = json.loads(written.read_text())
    assert (bom["bomFormat"], bom["metadata"]["component"]["name"]) == ("CycloneDX", "llmload")
    assert {each["name"]: each["version"] for each in bom["components"]} == pinned(LOCK)
    assert all(each["externalReferences"][0]["hashes"] for each in bom["components"])


def test_the_linter_of_dockerfiles_has_no_word_to_say() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():  # there is none for this processor
        return

    ended = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout) == (0, "")
