"""What the JSON of requests and of a run's files can carry: integers of 64 bits, finite numbers, whole Unicode text."""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

_LEAST, _GREATEST = -(2**63), 2**64 - 1
HALF_OF_A_PAIR: Final = re.compile("[\ud800-\udfff]")
_DEEPEST: Final = 16
"""How deep a value may be nested that is only kept to be read by people; files that hold it are read to 32 levels."""


def faults_of(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield the key, with its parents before dots, and the fault of everything in a value that JSON cannot carry."""
    match value:
        case dict():
            for name, each in value.items():
                yield from faults_of(each, f"{key}.{name}" if key else str(name))
        case list():
            for each in value:
                yield from faults_of(each, key)
        case str() if HALF_OF_A_PAIR.search(value):
            yield key, f"{value!r} has half of a surrogate pair, which is not UTF-8: write it again"
        case int() if not _LEAST <= value <= _GREATEST:
            yield key, f"an integer of {len(str(abs(value)))} digits is more than JSON carries: give a smaller number"
        case float() if not math.isfinite(value):
            yield key, f"{value} is not a finite number: give one, or leave the key out"


def carried(value: object, depth: int = _DEEPEST) -> Any:
    """Return a value as JSON can carry it: what it cannot becomes text, with a replacement for half a pair."""
    match value:
        case str():
            return HALF_OF_A_PAIR.sub("\ufffd", value)
        case bool() | None:
            return value
        case int():
            return value if _LEAST <= value <= _GREATEST else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case dict() | list() if not depth:
            return "..."
        case dict():
            return {str(carried(str(name))): carried(each, depth - 1) for name, each in value.items()}
        case list() | tuple():
            return [carried(each, depth - 1) for each in value]
        case _:
            return str(value)
