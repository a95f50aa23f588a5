"""The ports on the command line, in the environment and in `[tool.locust]`: each is one, or is refused by name."""

import argparse
from typing import Final

from llmload.access.address import HIGHEST_PORT
from llmload.errors import ConfigError

UNSET: Final = None
_LOCUSTS: Final = ("web_port", "master_port", "master_bind_port")


def check_ports(parsed: argparse.Namespace) -> None:
    """Raise ConfigError, naming the option and its value, for a port that nothing can listen on."""
    for name in _LOCUSTS:
        port: int | None = getattr(parsed, name)
        if port is not UNSET and not 1 <= port <= HIGHEST_PORT:
            raise ConfigError(f"--{name.replace('_', '-')} {port}: is not a port number; 1 to {HIGHEST_PORT}")
    metrics_port(parsed.metrics_port)


def metrics_port(text: str) -> int | None:
    """Return the port of `--metrics-port`; None for `off` and 0; ConfigError for anything else."""
    if text.strip().lower() in {"off", "0", ""}:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(HIGHEST_PORT))
    if not is_number or not 1 <= int(text) <= HIGHEST_PORT:
        raise ConfigError(f"--metrics-port {text[:80]}: is not a port number; 1 to {HIGHEST_PORT}, or off")
    return int(text)
