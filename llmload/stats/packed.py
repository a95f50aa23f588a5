"""Numbers as they travel between processes: packed into bytes, and checked when they arrive."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

_BYTES_PER_COUNT: Final = 8
_ZLIB_LEVEL: Final = 6

Integers = npt.NDArray[np.int64]


def pack(counts: Integers) -> bytes:
    """
    Return numbers from 0 on as bytes: one to two a number where they are below 65,536.

    The upper bytes of all numbers are written side by side: most are 0, which zlib removes.
    """
    planes = np.ascontiguousarray(counts.astype("<u8").view(np.uint8).reshape(-1, _BYTES_PER_COUNT).T)
    return zlib.compress(planes.tobytes(), _ZLIB_LEVEL)


MOST_PACKED: Final = 2**50
"""The largest packed number that another process may send: the sum of thousands fits into 64 bits."""
MOST_SENT: Final = 2**62
"""The largest plain number that another process may send."""


def unpack(packed: bytes, most: int) -> Integers:
    """Return the numbers that `pack` took; ValueError for more than `most`, or for what it cannot have made."""
    if not isinstance(packed, bytes):
        raise ValueError(f"counts are bytes, not {type(packed).__name__}")  # noqa: TRY004 - all of it is one error
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(packed, most * _BYTES_PER_COUNT + 1)
    except zlib.error as error:
        raise ValueError(f"counts: {error}") from None
    if not inflater.eof or len(plain) > most * _BYTES_PER_COUNT:
        raise ValueError(f"counts are cut short, or more than {most}")
    planes = np.frombuffer(plain, dtype=np.uint8).reshape(_BYTES_PER_COUNT, -1)
    numbers = np.ascontiguousarray(planes.T).view("<u8").reshape(-1)
    if len(numbers) and int(numbers.max()) > MOST_PACKED:
        raise ValueError(f"a count is more than {MOST_PACKED}")
    return numbers.astype(np.int64)


def pack_sparse(counts: Mapping[int, int]) -> list[bytes]:
    """Return counts by index (from 0) as bytes: the gaps between indices, and the counts."""
    indices = sorted(counts)
    gaps = [index - before for before, index in zip([0, *indices], indices, strict=False)]
    return [pack(np.array(gaps, dtype=np.int64)), pack(np.array([counts[index] for index in indices], dtype=np.int64))]


def unpack_sparse(packed: Sequence[bytes], most: int) -> dict[int, int]:
    """Return the counts that `pack_sparse` took; ValueError as for `unpack`."""
    gaps, counts = (unpack(each, most) for each in packed)
    return dict(zip(np.cumsum(gaps).tolist(), counts.tolist(), strict=True))


def whole(number: object, most: int = MOST_SENT) -> int:
    """Return a number from another process; ValueError unless it is a whole one from 0 to `most`."""
    if type(number) is not int or not 0 <= number <= most:
        raise ValueError(f"{str(number)[:40]!r} is not a whole number from 0 to {most}")
    return number


def finite(number: object, most: float = MOST_SENT) -> float:
    """Return a number from another process; ValueError unless it is one from 0 to `most`."""
    if type(number) not in (int, float) or not 0 <= number <= most:  # type: ignore[operator]  # it is a number
        raise ValueError(f"{str(number)[:40]!r} is not a number from 0 to {most}")
    return float(number)  # type: ignore[arg-type]  # it is a number
