"""Salts: text before a prompt that no other request has, so that no prefix cache can answer it."""

import hashlib
from collections.abc import Callable
from typing import Final, Literal

SaltMode = Literal["request", "run"]
SALT_CHARS: Final = 13
"""Base 32 in lower case: 64 bits."""
ADDED_CHARS: Final = SALT_CHARS + 1
"""The salt and a line break."""
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_MASK: Final = (1 << 64) - 1


class Salts:
    """
    One worker's salts, fixed by seed and key; no two requests of a run have the same.

    `key` distinguishes runs of the same seed. In mode `run`, all requests of the run have one salt; without a mode,
    none. With `repeats`, a request that repeats another has its own salt, whatever the mode. `text` writes a number of
    64 bits as a salt: as 13 letters and digits where absent.
    """

    def __init__(
        self,
        mode: SaltMode | None,
        *,
        seed: int,
        key: str,
        worker_index: int,
        worker_count: int,
        repeats: bool = False,
        text: Callable[[int], str] | None = None,
    ) -> None:
        self._mode, self._repeats, self._text = mode, repeats, text or salt_text
        self._next = worker_index + (0 if mode == "request" else worker_count)  # the run's own salt is number 0
        self._step = worker_count
        digest = hashlib.blake2b(f"salt {seed} {key}".encode(), digest_size=8).digest()
        self._offset = int.from_bytes(digest, "little")

    def next(self, *, repeated: bool = False) -> str | None:
        """Return the next request's salt; None where it has none."""
        if self._mode == "request" or (repeated and self._repeats):
            number = self._next
            self._next += self._step
        elif self._mode == "run":
            number = 0
        else:
            return None
        return self._text(_mixed(number + self._offset & _MASK))


def salt_text(number: int) -> str:
    """Return 64 bits as `SALT_CHARS` letters and digits, the lowest bits first."""
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(0, 5 * SALT_CHARS, 5))


def _mixed(number: int) -> int:
    """
    Return a number of 64 bits, different for each input; neighbours differ in about half of their bits.

    Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014), which is invertible.
    """
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
