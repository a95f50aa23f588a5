"""The Locust command that runs a scenario: what `llmload run` prints and becomes, and what others start."""

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmload.scenario.reading import locustfile_named_by
from llmload.scenario.shipped import shipped_locustfile


def locust_arguments(
    scenario: Path,
    changes: Mapping[str, str | float | None],
    settings: Sequence[str] = (),
    *,
    as_json: bool = False,
    web: bool = False,
) -> list[str]:
    """
    Return the arguments of the Locust command that runs the scenario with the changes.

    `changes` are options by their name in Python (`base_url`, `run_time`), None where nothing is changed; `settings`
    are `KEY=VALUE`, any key of the scenario.
    """
    names = {"base_url": "--host"}
    arguments = ["--config", str(scenario)]
    named = locustfile_named_by(scenario)
    if named is None or not Path(named).is_file():
        arguments += ["-f", str(shipped_locustfile(Path(named or "chat.py").name))]
    for name, value in changes.items():
        if value is not None:
            arguments += [names.get(name, "--" + name.replace("_", "-")), str(value)]
    if changes.get("processes") is not None:
        port = str(free_port())  # so that two runs on one machine do not meet on Locust's own
        arguments += ["--master-bind-port", port, "--master-port", port]
    if not web:
        arguments += ["--headless", "--loglevel", "WARNING"]
    if as_json:
        arguments += ["--summary", "json"]
    for setting in settings:
        arguments += ["--set", setting]
    return arguments


def free_port() -> int:
    """Return a port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
