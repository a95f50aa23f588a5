"""Bytes from another node: what is sent is read, and what would fill the memory is refused before it is built."""

import tracemalloc
from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from llmload.loadgen.wire import MAX_DEPTH, MAX_VALUES, check_packed, printable, unpacked

SCALARS = (
    some.none()
    | some.booleans()
    | some.integers(-(2**63), 2**64 - 1)
    | some.floats(allow_nan=False)
    | some.text()
    | some.binary()
)
VALUES = some.recursive(
    SCALARS,
    lambda inner: some.lists(inner) | some.dictionaries(some.text() | some.integers(0, 9), inner),
    max_leaves=30,
)


@given(VALUES)
@settings(max_examples=60)
def test_what_msgpack_writes_is_read(value: Any) -> None:
    assert unpacked(msgpack.dumps(value)) == value


@given(VALUES, some.data())
@settings(max_examples=60)
def test_what_is_cut_or_changed_is_read_or_refused(value: Any, data: some.DataObject) -> None:
    packed = bytearray(msgpack.dumps(value))
    packed[data.draw(some.integers(0, len(packed) - 1))] = data.draw(some.integers(0, 255))
    packed = packed[: data.draw(some.integers(0, len(packed)))]

    with suppress(ValueError):
        unpacked(bytes(packed))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff\x01\x02",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\x7f\xff\xff\xff",
        b"\x91" * 100_000 + b"\x01",
        b"\xdd\x00\x0f\xff\xff" + b"\x80" * 0x0FFFFF,
        (b"\xdc\xff\xff" + b"\x90" * 0xFFFE) * 5 + b"\xc0",
        b"\xc7\x08\x05abcdefgh",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\x01\x02",
        b"\xa4\xff\xff\xff\xff",
        b"\x81\x90\x01",
    ],
    ids=lambda packed: packed[:5].hex(),
)
def test_what_cannot_be_read_or_would_be_large_is_refused_before_it_is_built(packed: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match="message"):
        unpacked(packed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000


def test_as_many_values_and_as_deep_as_may_be_is_let_through() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]

    check_packed(msgpack.dumps(deep))
    check_packed(msgpack.dumps([0] * (MAX_VALUES - 1)))
    with pytest.raises(ValueError, match="deep"):
        check_packed(msgpack.dumps([deep]))
    with pytest.raises(ValueError, match="values"):
        check_packed(msgpack.dumps([0] * MAX_VALUES))


def test_a_text_from_another_node_moves_no_cursor() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed") == "a [2Jb c d"
