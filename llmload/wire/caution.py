"""How long to look often at the sockets, once chunks were found that had waited together."""

from collections.abc import Iterable
from typing import Final

_LEAST_NS: Final = 100_000_000
_MOST_NS: Final = 4_000_000_000
_CALM_NS: Final = 200_000_000
"""Chunks that wait together after so long a calm were held up once, by a busy machine perhaps."""


class Caution:
    """
    Lasts 0.1 s from a find on, and twice as long each time that the next comes soon after it, 4 s at most.

    Chunks that are read together share one stamp, so an engine whose chunks follow each other faster than the reader
    looks must be looked at more often nearly all the time; one late moment of a machine is no such engine.
    """

    __slots__ = ("_length_ns", "_until_ns")

    def __init__(self) -> None:
        self._length_ns = _LEAST_NS
        self._until_ns = 0

    def found(self, stamps_ns: Iterable[int], now_ns: int) -> None:
        """
        Take note of chunks that arrived together at these monotonic ns, in their order.

        What came before the last caution ended is no news. How long the calm was, the first news says: a stream tells
        of what happened to it only once it is understood.
        """
        news_ns = next((stamp_ns for stamp_ns in stamps_ns if stamp_ns >= self._until_ns), None)
        if news_ns is not None:
            calm = news_ns - self._until_ns >= _CALM_NS
            self._length_ns = _LEAST_NS if calm else min(2 * self._length_ns, _MOST_NS)
            self._until_ns = now_ns + self._length_ns

    def lasts(self, now_ns: int) -> bool:
        """Return whether to look often at this monotonic ns."""
        return now_ns < self._until_ns
