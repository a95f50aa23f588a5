"""The wheel's core is installed and runs on each other supported Python that the machine has."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmload.errors import ExitCode
from llmload.simulator import SimulationSettings, spawn
from tests.installed import build_wheel

UV = (str(Path(sys.executable).with_name("uv")), "--quiet", "--no-progress")
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
THIS = ".".join(map(str, sys.version_info[:2]))


def interpreter(version: str) -> Path | None:
    """The machine's Python of that version, on the path or pyenv's; its shims end with an error for most versions."""
    found = shutil.which(f"python{version}")
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for python in [*installed, *([Path(found)] if found else [])]:
        if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            return python
    return None


OTHERS = {version: python for version in SUPPORTED if version != THIS and (python := interpreter(version))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("version", OTHERS or [THIS])
def test_the_core_is_installed_and_runs(version: str, wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([*UV, "venv", "--python", OTHERS.get(version, sys.executable), tmp_path / "env"], check=True)
    subprocess.run([*UV, "pip", "install", "--python", python, wheel], check=True)

    with spawn(SimulationSettings(model="m", ttft_s=0.05, itl_s=0.01, output_tokens=4)) as engine:
        run = ["run", "chat", "--base-url", engine.url, "--requests", "20", "--out", str(tmp_path / "runs")]
        ended = subprocess.run([python, "-m", "llmload.cli.main", *run], capture_output=True, text=True, check=False)

    assert ended.returncode in {ExitCode.GOOD, ExitCode.INVALID}, ended.stderr  # INVALID where others take the CPU
    assert "20 completed" in ended.stdout
