"""
What can go wrong before a run, as a tree of errors, and what each exit code means.

What goes wrong with a request is not here: it is a record with an error.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from enum import IntEnum
from typing import Final

# What a command's exit code says: one meaning each, for runs, suites and comparisons.


class ExitCode(IntEnum):
    """The exit codes of `llmload` and of Locust with llmload's users."""

    GOOD = 0
    FAILED = 1
    """Requests failed, a gate failed, a cell was not measured, a build is worse, or a model does not fit."""
    WRONG_USE = 2
    """Nothing was measured: an option, a file or a run folder cannot be used."""
    INVALID = 3
    """Measured, but the figures cannot be trusted; the verdict says why."""
    INCONCLUSIVE = 4
    """A comparison that can say neither better nor worse, or a model that may fit."""
    INTERRUPTED = 130
    """SIGINT, as shells say it: 128 + 2."""


MEASURED: Final = frozenset({ExitCode.GOOD, ExitCode.FAILED, ExitCode.INVALID})
"""Exit codes of a run that came to its end, so that its folder has a summary."""
_BY_SEVERITY: Final[tuple[int, ...]] = (ExitCode.GOOD, ExitCode.FAILED, ExitCode.INVALID, ExitCode.WRONG_USE)


def worst(codes: Iterable[int]) -> int:
    """Return the worst of several runs' exit codes; a code that llmload does not use is the worst."""
    return max(codes, key=lambda code: _BY_SEVERITY.index(code) if code in _BY_SEVERITY else len(_BY_SEVERITY))


# What a message shows of a text that others wrote.

_NOT_PLAIN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def plain(text: str) -> str:
    """Return a text with what controls a terminal, turns its direction or is not in XML written out, as `\\x1b`."""
    return _NOT_PLAIN.sub(lambda found: ascii(found[0])[1:-1], text)


def on_one_line(text: str) -> str:
    """Return a text plain and on one line."""
    return plain(text).replace("\n", "\\n").replace("\t", "\\t")


MAX_SHOWN_CHARS: Final = 60


def shown(value: object) -> str:
    """Return a value for a message, cut where it is long."""
    try:
        text = repr(value[: MAX_SHOWN_CHARS + 1] if isinstance(value, str | bytes) else value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that is nested too deeply, or too large"
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a question that names what is spelt most like a word that is not known; None where nothing is."""
    near = get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else None


class LlmloadError(Exception):
    """An error that the user can fix; its text is one line that says what to do, plain whatever it quotes."""

    def __str__(self) -> str:
        return plain(super().__str__())


class ConfigError(LlmloadError):
    """What the user wrote cannot be used; the text names the file, the key and the value."""


class DataError(ConfigError):
    """The prompts cannot be loaded; the text names the source and what to do about it."""


class EngineError(LlmloadError):
    """The engine under test cannot be reached, or does not serve the model."""


class RunFolderError(LlmloadError):
    """A run folder lacks what the question needs."""


class NotComparableError(LlmloadError):
    """Runs did not measure the same thing; the text has a line for everything that differs."""
