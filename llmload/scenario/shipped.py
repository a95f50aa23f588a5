"""The scenarios, suites and locustfiles that come with llmload, in a checkout beside the package, else inside it."""

from pathlib import Path
from typing import Final

from llmload.errors import ConfigError

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_SUITE: Final = "-suite"
_HOMES: Final = (_PACKAGE, _PACKAGE.parent)


def _folder(name: str) -> Path:
    for home in _HOMES:
        if (home / name).is_dir():
            return home / name
    raise ConfigError(f"llmload's installation is broken: it has no {name} folder; install it again")


def scenario_folder() -> Path:
    """Return the folder of the scenarios that come with llmload."""
    return _folder("scenarios")


def shipped_locustfile(name: str) -> Path:
    """Return a locustfile that comes with llmload; ConfigError if there is none of that name."""
    file = _folder("locustfiles") / name
    if not file.is_file():
        raise ConfigError(f"tool.locust.locustfile: there is no {name} here, and none comes with llmload")
    return file


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
    raise ConfigError(f"{name}: no such suite file, and no shipped suite of that name; shipped: {', '.join(shipped)}")


def find_scenario(name: str) -> Path:
    """Return the file of a scenario given by path or by a shipped one's name; ConfigError if there is none."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_scenarios()
    if name in shipped:
        return shipped[name]
    known = ", ".join(shipped)
    raise ConfigError(f"{name}: no such scenario file, and no shipped scenario of that name; shipped are {known}, ...")
