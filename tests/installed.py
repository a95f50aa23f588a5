"""The wheel as `pip install` puts it into a separate environment: the core, and nothing that an extra brings."""

import subprocess
import sys
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout into the folder."""
    subprocess.run([*_PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def install_core(wheel: Path, folder: Path) -> Path:
    """Return the programs of a new environment with the wheel; its packages are links to this environment's own."""
    venv.create(folder, symlinks=True, with_pip=False)
    programs, (packages,) = folder / "bin", folder.glob("lib/python*/site-packages")
    install = [*_PIP, "--python", str(programs / "python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    needed = _needed(Requirement("llmload"), {}).values()
    places = {
        str(each.locate_file(file.parts[0])) for each in needed for file in each.files or () if file.parts[0] != ".."
    }
    for place in map(Path, places):
        if place.name != "__pycache__":
            (packages / place.name).symlink_to(place)
    (programs / "locust").write_text(f"#!{programs / 'python'}\nfrom locust.main import main\n\nmain()\n")
    (programs / "locust").chmod(0o755)
    return programs


def _needed(project: Requirement, found: dict[str, Distribution]) -> dict[str, Distribution]:
    """Add the installed packages that the project needs, with the extras in its name, and what they need."""
    for needed in map(Requirement, distribution(project.name).requires or ()):
        key = canonicalize_name(needed.name)
        if key not in found and (
            needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *project.extras})
        ):
            found[key] = distribution(key)
            _needed(needed, found)
    return found
