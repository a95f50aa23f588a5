"""What is installed only with an extra of the package, and the one line that says so where it is missing."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

from llmload.errors import ConfigError

LIBRARIES: Final[Mapping[str, tuple[str, ...]]] = {
    "openai": ("openai", "httpx2", "httpcore2"),
    "hub": ("datasets", "huggingface_hub"),
    "parquet": ("pyarrow",),
    "notebook": ("pandas",),
    "dashboards": ("grafana_foundation_sdk",),
}
"""The extras, as in pyproject.toml, and the modules that each brings."""


def need(extra: str, what: str) -> None:
    """Raise ConfigError with the command that installs the extra, where `what` needs it and it is not there."""
    for library in LIBRARIES[extra]:
        if find_spec(library) is None:
            raise ConfigError(f'{what} needs {library}, which is not installed: pip install "llmload[{extra}]"')
