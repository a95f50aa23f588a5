"""
The forms of chat data, recognised by their columns and read into messages; and why a file cannot be read.

LIMA       {"conversations": ["a question", "an answer", ...]}
ShareGPT   {"conversations": [{"from": "human", "value": "a question"}, ...]}
OpenAI     {"messages": [{"role": "user", "content": "a question"}, ...]}
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmload.errors import DataError
from llmload.portable import faults_of
from llmload.prompts.conversation import Dialogue, Message, Role, as_message

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
_ROLES_NOT_REPLAYED = frozenset({"developer", "tool", "function", "function_call", "tool_call", "observation"})
_MAX_SHOWN_CHARS = 60
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A well-formed row that cannot become a request."""

    row: int
    reason: str


class _BrokenRowError(Exception):
    """A row does not have its form: the key in the row, and what is wrong with it."""


class _UnusableRowError(Exception):
    """A row is well formed but cannot become a request: the reason."""


TurnReader = Callable[[int, object], Message]


def read_dialogues(
    columns: Sequence[str], values: Callable[[str], Iterable[object]], file: str
) -> tuple[tuple[Dialogue, ...], tuple[Skipped, ...]]:
    """
    Return a file's rows as dialogues, and the skipped rows with the reason.

    Raises DataError, naming file, row, key and value, where the file has none of the forms or a row does not have its.
    """
    column = _column(columns, file)
    reader: TurnReader | None = None
    dialogues: list[Dialogue] = []
    skipped: list[Skipped] = []
    for row, turns in enumerate(values(column)):
        try:
            listed = _listed(column, turns)
            if reader is None and listed:
                reader = _reader_of(column, listed[0])
            dialogues.append(Dialogue(row, _read_row(column, listed, reader)))
        except _BrokenRowError as broken:
            raise DataError(f"{file}: row {row} (the first is 0): {broken}") from None
        except _UnusableRowError as unusable:
            skipped.append(Skipped(row, str(unusable)))
    return tuple(dialogues), tuple(skipped)


def _column(columns: Sequence[str], file: str) -> str:
    found = [column for column in ("conversations", "messages") if column in columns]
    if len(found) == 1:
        return found[0]
    has = ", ".join(f"`{column}`" for column in columns) or "none"
    what = "both `conversations` and `messages`" if found else "neither `conversations` nor `messages`"
    raise DataError(f"{file}: has {what}, so its form is not known (its columns: {has})")


def _listed(column: str, turns: object) -> list[object]:
    if not isinstance(turns, list):
        raise _BrokenRowError(f"key `{column}` is {_shown(turns)}, not a list of turns")
    return turns


def _reader_of(column: str, first: object) -> TurnReader:
    """Return the reader for the form that a file's first turn is in."""
    if column == "conversations" and isinstance(first, str):
        return _read_plain
    if isinstance(first, dict):
        if column == "conversations" and {"from", "value"} <= first.keys():
            return _keyed("from", "value")
        if {"role", "content"} <= first.keys():
            return _keyed("role", "content")
    expected = "`role` and `content`"
    if column == "conversations":
        expected = f"text, or with keys `from` and `value`, or {expected}"
    raise _BrokenRowError(f"key `{column}[0]` is {_shown(first)}: a turn is {expected}")


def _read_row(column: str, turns: Sequence[object], reader: TurnReader | None) -> tuple[Message, ...]:
    messages: list[Message] = []
    unusable: _UnusableRowError | None = None
    for index, turn in enumerate(turns):
        try:
            messages.append(reader(index, turn) if reader else as_message("user", ""))
        except _BrokenRowError as broken:
            raise _BrokenRowError(f"key `{column}[{index}]` {broken}") from None
        except _UnusableRowError as found:
            # The rest of the row is still read: a broken turn is an error in any row.
            unusable = unusable or found
    if unusable is not None:
        raise unusable
    first = next((message["role"] for message in messages if message["role"] != "system"), None)
    if "user" not in {message["role"] for message in messages}:
        raise _UnusableRowError("no turn by the user")
    if first != "user":
        raise _UnusableRowError("begins with the assistant's turn")
    return tuple(messages)


def _read_plain(index: int, turn: object) -> Message:
    if not isinstance(turn, str):
        raise _BrokenRowError(f"is {_shown(turn)}, not text as the file's first turn")
    return _with_text("assistant" if index % 2 else "user", turn)


def _keyed(role_key: str, text_key: str) -> TurnReader:
    def read(_index: int, turn: object) -> Message:
        if not isinstance(turn, dict):
            raise _BrokenRowError(
                f"is {_shown(turn)}, without the keys `{role_key}` and `{text_key}` of the first turn"
            )
        role = turn.get(role_key)
        if role in _ROLES_NOT_REPLAYED:
            raise _UnusableRowError(f"has a turn by '{role}', which is not replayed")
        if not isinstance(role, str) or role not in _ROLES:
            raise _BrokenRowError(f"has {_shown(role)} as `{role_key}`; known are {', '.join(_ROLES)}")
        text = turn.get(text_key)
        if text_key not in turn or not isinstance(text, str | list | None):
            raise _BrokenRowError(f"has {_shown(text)} as `{text_key}`, not text")
        return _with_text(_ROLES[role], text)

    return read


def _with_text(role: Role, text: str | list[object] | None) -> Message:
    if isinstance(text, list):
        raise _UnusableRowError("has a turn with parts other than one text")
    if text is None or not text.strip():
        raise _UnusableRowError("has a turn without text")
    return as_message(role, text)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def describe_read_error(files: tuple[Path, ...]) -> str:
    """Return one line: the first file that cannot be read, the line in it, and what is wrong there."""
    for file in files:
        reason = _parquet_reason(file) if file.suffix == ".parquet" else _json_reason(file)
        if reason is not None:
            return f"{file}: {reason}"
    return f"{files[0]}: cannot be read as rows of one form: the values of a key differ in type from row to row"


def _parquet_reason(file: Path) -> str | None:
    with file.open("rb") as stream:
        return None if stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC else "is not a Parquet file"


def _json_reason(file: Path) -> str | None:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        return f"is not UTF-8: byte {error.start} cannot be decoded"
    if text.lstrip().startswith("["):
        return _array_reason(text)
    return _lines_reason(text)


def _array_reason(text: str) -> str | None:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        return f"line {error.lineno} is not JSON: {error.msg}"
    if not rows:
        return "has no rows"
    row = next((row for row, value in enumerate(rows) if not isinstance(value, dict)), None)
    if row is not None:
        return f"row {row} (the first is 0) is not an object"
    faults = (f"row {row} (the first is 0): {fault}" for row, value in enumerate(rows) for fault in _faults(value))
    return next(faults, None)


def _lines_reason(text: str) -> str | None:
    # Not splitlines(): JSON text may hold other line separators than these.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        return "has no rows"
    for number, line in lines:
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            return f"line {number} is not JSON: {error.msg}"
        if not isinstance(value, dict):
            return f"line {number} is not an object"
        for fault in _faults(value):
            return f"line {number}: {fault}"
    return None


def _faults(row: object) -> Iterator[str]:
    return (f"key `{key}`: {fault}" for key, fault in faults_of(row))
