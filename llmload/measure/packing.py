"""Counts as few bytes: most are small, so the upper bytes of all of them stand together and vanish."""

import zlib
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

_WIDTH: Final = 8
_LEVEL: Final = 6

Integers = npt.NDArray[np.int64]


def pack(counts: Integers) -> bytes:
    """Return numbers from 0 on as bytes, one to two a number where they are below 65,536."""
    planes = np.ascontiguousarray(counts.astype("<u8").view(np.uint8).reshape(-1, _WIDTH).T)
    return zlib.compress(planes.tobytes(), _LEVEL)


def unpack(packed: bytes) -> Integers:
    """Return the numbers that `pack` took."""
    planes = np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(_WIDTH, -1)
    return np.ascontiguousarray(planes.T).view("<u8").reshape(-1).astype(np.int64)


def pack_sparse(counts: Mapping[int, int]) -> list[bytes]:
    """Return counts by their place, a number from 0 on, as bytes."""
    places = sorted(counts)
    gaps = [place - before for before, place in zip([0, *places], places, strict=False)]
    return [pack(np.array(gaps, dtype=np.int64)), pack(np.array([counts[place] for place in places], dtype=np.int64))]


def unpack_sparse(packed: list[bytes]) -> dict[int, int]:
    """Return the counts that `pack_sparse` took."""
    gaps, counts = map(unpack, packed)
    return dict(zip(np.cumsum(gaps).tolist(), counts.tolist(), strict=True))
