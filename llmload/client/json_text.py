"""JSON as engines write it, which is not always JSON."""

import json
from typing import Any, Final

import orjson

_MOST_DIGITS: Final = 40
"""A longer whole number becomes a float, maybe infinite: Python refuses those of 4,300 digits."""
UNREADABLE: Final = (ValueError, RecursionError)
"""What `loads` raises for text that is not JSON."""


def loads(data: bytes) -> Any:
    """
    Return the value of JSON text; raises `ValueError` or `RecursionError` if it is none.

    What the strict decoder refuses is read again as the `openai` SDK reads it: with NaN and Infinity, half a surrogate
    pair, and U+FFFD in place of bytes that are not UTF-8 (an engine may cut a character between two events); and
    without a byte order mark.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data.decode("utf-8-sig", "replace"), parse_int=_number)


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def dumps(value: Any) -> str:
    """Return a value that came from JSON as JSON text."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
