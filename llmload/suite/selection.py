"""Which cells of a suite are meant: `engine/model/protocol` with * for any."""

import fnmatch
from collections.abc import Sequence

from llmload.errors import ConfigError


class Selection:
    """Patterns of cells, `engine/model/protocol` with * for any; what a pattern leaves out at its end is any."""

    def __init__(self, patterns: Sequence[str], key: str) -> None:
        self._patterns, self._key = list(patterns), key
        self._unmatched = set(patterns)

    def has(self, name: str) -> bool:
        """Say whether a pattern matches the cell's name."""
        matching = {pattern for pattern in self._patterns if _matches(pattern, name)}
        self._unmatched -= matching
        return bool(matching)

    def check_all_matched(self) -> None:
        """Raise ConfigError for a pattern that has matched nothing: it is misspelt."""
        for pattern in self._patterns:
            if pattern in self._unmatched:
                raise ConfigError(f"{self._key}: {pattern!r} matches no engine/model/protocol of this suite")


def _matches(pattern: str, name: str) -> bool:
    parts = pattern.split("/")
    return len(parts) <= 3 and all(
        fnmatch.fnmatchcase(given, asked) for asked, given in zip(parts, name.split("/"), strict=False)
    )
