"""
The forms of chat data, recognised by their keys and read into messages.

LIMA       {"conversations": ["a question", "an answer", ...]}
ShareGPT   {"conversations": [{"from": "human", "value": "a question"}, ...]}
OpenAI     {"messages": [{"role": "user", "content": "a question"}, ...]}
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from llmload.errors import DataError, on_one_line, shown
from llmload.prompts.conversation import Dialogues, Message, Role, as_message
from llmload.prompts.files import Row

KEYS: Final = ("conversations", "messages")
"""Where a row has its turns; other keys are not read."""
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "ai": "assistant",
}
_ROLES_NOT_REPLAYED = frozenset({"developer", "tool", "function", "function_call", "tool_call", "observation"})
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text"})


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRead:
    """What a data set's rows became."""

    usable: Dialogues
    skipped: tuple[Skipped, ...]
    mended: int
    """Usable rows in which half of a surrogate pair became U+FFFD."""


def read_dialogues(rows: Iterable[Row]) -> RowsRead:
    """
    Return the rows as dialogues, and the skipped rows with the reason.

    Raises DataError, naming file, row, key and value, where a row has none of the forms or not that of the first.
    """
    readers: dict[str, TurnReader] = {}
    usable = Dialogues()
    skipped: list[Skipped] = []
    mended = 0
    for row in rows:
        try:
            usable.append(row.number, _messages(row.value, readers))
            mended += row.mended
        except _BrokenRowError as broken:
            raise DataError(f"{row.place}: {broken}; mend the row, or take it out") from None
        except _UnusableRowError as unusable:
            skipped.append(Skipped(row.number, sys.intern(str(unusable))))
    return RowsRead(usable=usable, skipped=tuple(skipped), mended=mended)


def _messages(row: dict[str, Any], readers: dict[str, TurnReader]) -> tuple[Message, ...]:
    key = _key(row)
    turns = row[key]
    if not isinstance(turns, list):
        raise _BrokenRowError(f"key `{key}` is {shown(turns)}, not a list of turns")
    if turns and key not in readers:
        readers[key] = _reader_of(key, turns[0])
    return _read_row(key, turns, readers.get(key))


def _key(row: dict[str, Any]) -> str:
    found = [key for key in KEYS if row.get(key) is not None]
    if len(found) == 1:
        return found[0]
    if not found and any(key in row for key in KEYS):
        raise _UnusableRowError("has null instead of turns")
    has = ", ".join(f"`{on_one_line(str(key)[:60])}`" for key in list(row)[:20]) or "none"
    what = "both `conversations` and `messages`" if found else "neither `conversations` nor `messages`"
    raise _BrokenRowError(f"has {what}, so its form is not known (its columns: {has})")


def _reader_of(key: str, first: object) -> TurnReader:
    """Return the reader for the form that a file's first turn is in."""
    if key == "conversations" and isinstance(first, str):
        return _read_plain
    if isinstance(first, dict):
        for role_key, text_key in (("from", "value"), ("role", "content")):
            if {role_key, text_key} <= first.keys():
                return _keyed(role_key, text_key)
    expected = "has keys `role` and `content`, or `from` and `value`"
    if key == "conversations":
        expected = f"is text, or {expected}"
    raise _BrokenRowError(f"key `{key}[0]` is {shown(first)}: a turn {expected}")


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
        raise _BrokenRowError(f"is {shown(turn)}, not text as the file's first turn")
    return _with_text("assistant" if index % 2 else "user", turn)


def _keyed(role_key: str, text_key: str) -> TurnReader:
    def read(_index: int, turn: object) -> Message:
        if not isinstance(turn, dict):
            raise _BrokenRowError(f"is {shown(turn)}, without the keys `{role_key}` and `{text_key}` of the first turn")
        role = turn.get(role_key)
        if isinstance(role, str) and role in _ROLES_NOT_REPLAYED:
            raise _UnusableRowError(f"has a turn by '{role}', which is not replayed")
        if not isinstance(role, str) or role not in _ROLES:
            raise _BrokenRowError(f"has {shown(role)} as `{role_key}`; known are {', '.join(_ROLES)}")
        text = turn.get(text_key)
        if text_key not in turn or not isinstance(text, str | list | None):
            raise _BrokenRowError(f"has {shown(text)} as `{text_key}`, not text")
        return _with_text(_ROLES[role], text)

    return read


def _with_text(role: Role, text: str | list[object] | None) -> Message:
    if isinstance(text, list):
        text = "\n".join(filter(None, map(_part_text, text)))
    if text is None or not text.strip():
        raise _UnusableRowError("has a turn without text")
    return as_message(role, text)


def _part_text(part: object) -> str | None:
    """Return the text of one of a turn's parts, which are joined by line breaks as vLLM joins them."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise _BrokenRowError(f"has {shown(part)} as a part of its text")
    kind = part.get("type", "text")
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise _UnusableRowError("has a turn with a part that is not text")
    text = part.get("text")
    if text is not None and not isinstance(text, str):
        raise _BrokenRowError(f"has {shown(text)} as the `text` of a part, not text")
    return text
