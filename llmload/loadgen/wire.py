"""
Bytes from another node, made into values within limits: how many values, how deep, how many bytes.

msgpack builds whatever its bytes say: a megabyte of empty tables becomes a hundred, and a length of four billion is
allocated before it is read. So the bytes are walked through first, which builds nothing.
"""

from typing import Any, Final

import msgpack
from pydantic import ValidationError

MAX_FRAME_BYTES: Final = 16 << 20
"""Of a message; the last report of a hundred stages takes a quarter of it."""
MAX_VALUES: Final = 300_000
"""The last report of a hundred stages has 40,000."""
MAX_DEPTH: Final = 16

_PLAIN: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}  # nil, false, true, floats
_PLAIN_INTEGERS: Final = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_BODY_BYTES: Final = _PLAIN | _PLAIN_INTEGERS
"""How many bytes follow the first one of a value."""
_LENGTH_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Of bytes and texts: how many bytes their length has."""
_COUNT_BYTES: Final = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
"""Of lists and tables: how many bytes their length has."""
_TABLES: Final = {0xDE, 0xDF}


def check_packed(packed: bytes) -> None:
    """Raise ValueError where msgpack's bytes hold too many values, nested too deep, or other kinds than we send."""
    position, values, left = 0, 0, [1]
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        values += 1
        size, inside = _value_at(packed, position)
        position += size
        if position > len(packed) or inside > len(packed) - position:
            raise ValueError("the message is cut short")
        if values + inside > MAX_VALUES:
            raise ValueError(f"the message has more than {MAX_VALUES} values")
        if inside:
            left.append(inside)
            if len(left) > MAX_DEPTH:
                raise ValueError(f"the message is nested more than {MAX_DEPTH} deep")
    if position < len(packed):
        raise ValueError("the message has an end that belongs to nothing")


def _value_at(packed: bytes, position: int) -> tuple[int, int]:
    """Return how many bytes a value has, or its head if it is a list or a table, and how many values are inside."""
    head = packed[position] if position < len(packed) else 0xC1
    if head < 0x80 or head >= 0xE0 or head in _BODY_BYTES:
        return 1 + _BODY_BYTES.get(head, 0), 0
    if head < 0xA0:
        return 1, (head & 0x0F) * (2 if head < 0x90 else 1)
    if head < 0xC0:
        return 1 + (head & 0x1F), 0
    if head in _LENGTH_BYTES:
        after = 1 + _LENGTH_BYTES[head]
        return after + int.from_bytes(packed[position + 1 : position + after], "big"), 0
    if head in _COUNT_BYTES:
        after = 1 + _COUNT_BYTES[head]
        count = int.from_bytes(packed[position + 1 : position + after], "big")
        return after, count * (2 if head in _TABLES else 1)
    raise ValueError("the message is not msgpack, or has values of a kind that is not sent")


def unpacked(packed: bytes) -> Any:
    """Return what msgpack's bytes hold; ValueError where they hold too much, or nothing that can be read."""
    check_packed(packed)
    try:
        return msgpack.loads(packed, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"the message cannot be read: {type(error).__name__}") from None


def printable(text: str) -> str:
    """Return a text from another node as a terminal can show it."""
    return "".join(each if each.isprintable() else " " for each in text)


def first_fault(error: ValidationError) -> str:
    """Return the first of what is wrong with a message, with its key, and without what the message says."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc']))[:100] or 'message'}: {fault['msg'][:200]}"
