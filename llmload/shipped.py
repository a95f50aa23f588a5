"""Files that come with llmload and are used as they are: scenarios, locustfiles, dashboards."""

from pathlib import Path
from typing import Final

from llmload.errors import ConfigError

_PACKAGE: Final = Path(__file__).resolve().parent
_HOMES: Final = (_PACKAGE, _PACKAGE.parent)
"""A wheel has the folders inside the package, a checkout beside it."""


def shipped_folder(name: str) -> Path:
    """Return the folder of that name that comes with llmload; ConfigError if the installation lacks it."""
    for home in _HOMES:
        if (home / name).is_dir():
            return home / name
    raise ConfigError(f"llmload's installation is broken: it has no {name} folder; install it again")
