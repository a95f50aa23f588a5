"""`[engine.headers]`: headers of every request to the engine, literal or by the name of an environment variable."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

from llmload.access.secrecy import UnshownValueError, described, is_secret, mistake_in_value
from llmload.errors import ConfigError
from llmload.scenario.sections import Table

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]")
_OWN: Final = frozenset(
    {
        *("host", "content-length", "content-type", "content-encoding", "transfer-encoding", "accept"),
        *("accept-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"),
    }
)
"""Headers that llmload sets itself, or that change how a message is read."""
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXPANDED: Final = re.compile(r"\$\w+|\$?\{\w+\}")
"""How a shell or a template names a variable."""
_LOGIN: Final = re.compile(r"(bearer|basic|digest|token|apikey|api-key)\s+\S", re.IGNORECASE)


class FromEnvironment(Table):
    """A header's value that an environment variable has."""

    env: str
    """The variable's name."""


class HeaderError(UnshownValueError):
    """A header that cannot be sent; its value is not shown, and `below` is the rest of its key."""

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(fault)
        self.below = (name,)


def mistake_in_name(name: str) -> str | None:
    """Return why a header of that name cannot be sent; None if it can."""
    wrong = next((char for char in name if not _TOKEN.fullmatch(char)), None)
    if not name or wrong is not None:
        return f"has {described(wrong)} in its name, which no header's name has" if wrong else "has no name"
    if name.lower() in _OWN or name.lower().startswith("proxy-"):
        return "is a header that llmload sets itself: remove it"
    return None


def checked_headers(headers: object) -> object:
    """Return the table as it is; raises `HeaderError`."""
    if not isinstance(headers, dict):
        raise UnshownValueError('is a table, such as "api-key" = { env = "AZURE_KEY" }')
    seen: set[str] = set()
    for name, value in headers.items():
        fault = mistake_in_name(name) or _mistake_in_entry(name, value)
        if fault is None and name.lower() in seen:
            fault = "is given twice: the case of a header's name does not matter"
        if fault is not None:
            raise HeaderError(name, fault)
        seen.add(name.lower())
    return headers


def _mistake_in_entry(name: str, value: object) -> str | None:
    by_name = '{ env = "NAME" }'
    match value:
        case FromEnvironment():
            return None
        case {"env": str(variable), **rest} if not rest:
            return mistake_in_variable(variable)
        case str():
            if name.lower() in {"authorization", "cookie"} or is_secret(name) or _LOGIN.match(value):
                return f"a key does not belong in a file or command: export it as a variable and write {by_name}"
            if _EXPANDED.fullmatch(value):
                return f"variables in a text are not replaced: write {by_name}"
            return mistake_in_value(value)
        case _:
            return f"its value is a text in quotes, or {by_name}"


def mistake_in_variable(name: str) -> str | None:
    """Return why an environment variable cannot have that name, without showing it, since it may be the key."""
    if _VARIABLE.fullmatch(name):
        return None
    return (
        "is not the name of an environment variable (letters, digits and _): "
        "name the variable that has the key, neither the key nor $NAME"
    )


def _checked_variable(name: str) -> str:
    if mistake := mistake_in_variable(name):
        raise UnshownValueError(mistake)
    return name


VariableName = Annotated[str, AfterValidator(_checked_variable)]
"""The name of an environment variable."""
Headers = Annotated[dict[str, str | FromEnvironment], BeforeValidator(checked_headers)]
"""Headers by name: their values, or the variables that have them."""


def from_environment(headers: Mapping[str, str | FromEnvironment], where: str) -> dict[str, str]:
    """
    Return the headers with values from the environment.

    ConfigError, beginning with `where`, if a variable is not set or has a value that no header can carry.
    """
    return {
        name: variable(value.env, f"{where}.{name}")
        for name, value in headers.items()
        if isinstance(value, FromEnvironment)
    }


def variable(name: str, where: str) -> str:
    """Return a secret from the environment; ConfigError if it is not set or cannot be sent, without showing it."""
    value = os.environ.get(name)
    if not value:
        state = "is not set" if value is None else "is empty"
        raise ConfigError(f"{where}: the environment variable {name} {state}: export it and try again")
    if mistake := mistake_in_value(value):
        raise ConfigError(f"{where}: the key in the environment variable {name} {mistake}")
    return value
