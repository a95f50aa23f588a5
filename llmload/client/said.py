"""What an engine says of itself, as files and messages carry it: bounded, and without keys."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final

MAX_VALUES: Final = 10_000
"""Values of one answer in a manifest: an engine of 500 models has about as many."""
MAX_TEXT: Final = 1_000
MAX_NAME: Final = 200
MAX_MODELS: Final = 1_000
_MAX_NAMED: Final = 10
_MAX_NUMBER: Final = 1e18
"""A file with a greater number that is not whole is not read again."""
_CUT: Final = "..."
Hide = Callable[[str], str]
"""Replaces keys in a text, and cuts it."""


def cut(text: str, hide: Hide, chars: int = MAX_NAME) -> str:
    """Return the text without keys, and not longer than that."""
    text = hide(text)  # before it is cut: a part of a key is harder to find
    return text if len(text) <= chars else f"{text[:chars]}{_CUT}"


def listed(names: Sequence[str], hide: Hide) -> str:
    """Return the names for a message; of many, the first ones and how many more there are."""
    shown = ", ".join(cut(name, hide) for name in names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else f"{shown} and {len(names) - _MAX_NAMED:,} more"


def bounded(answer: Any, hide: Hide) -> Any:
    """Return a JSON value without keys; what is beyond 10,000 values or 1,000 characters of a text becomes `...`."""
    return _Bounded(hide).of(answer)


class _Bounded:
    """One answer; counts its values."""

    def __init__(self, hide: Hide) -> None:
        self._hide, self._left = hide, MAX_VALUES

    def of(self, value: Any) -> Any:
        """Return a value of it; it is nested no deeper than JSON is read."""
        self._left -= 1
        match value:
            case str():
                return cut(value, self._hide, MAX_TEXT)
            case float() if abs(value) > _MAX_NUMBER:
                return str(value)
            case dict():
                taken = {
                    cut(name, self._hide): self.of(each)
                    for name, each in islice(value.items(), max(0, self._left))
                    if self._left > 0
                }
                return taken if len(taken) == len(value) else {**taken, _CUT: _CUT}
            case list():
                rows = [self.of(each) for each in value if self._left > 0]
                return rows if len(rows) == len(value) else [*rows, _CUT]
            case _:
                return value
