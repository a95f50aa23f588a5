"""A few characters before the first message that no other request has, so that no prefix cache can answer it."""

import hashlib
from typing import Final, Literal

SaltMode = Literal["request", "run"]
SALT_CHARS: Final = 13
"""Base 32 in lower case: 64 bits."""
ADDED_CHARS: Final = SALT_CHARS + 1
"""A line break comes between the salt and the message."""
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_MASK: Final = (1 << 64) - 1


class Salts:
    """
    One worker's salts; seed and key fix all of a run's, and no two requests of a run have the same.

    `key` is what tells runs of the same seed apart. In mode `run` all requests of the run have one salt.
    """

    def __init__(self, mode: SaltMode, *, seed: int, key: str, worker_index: int, worker_count: int) -> None:
        self._each = mode == "request"
        self._next = worker_index if self._each else 0
        self._step = worker_count
        digest = hashlib.blake2b(f"salt {seed} {key}".encode(), digest_size=8).digest()
        self._offset = int.from_bytes(digest, "little")

    def next(self) -> str:
        """Return the next request's salt."""
        number = self._next
        if self._each:
            self._next += self._step
        return salt_text(_mixed(number + self._offset & _MASK))


def salt_text(number: int) -> str:
    """Return 64 bits as `SALT_CHARS` letters and digits, the lowest bits first."""
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(0, 5 * SALT_CHARS, 5))


def _mixed(number: int) -> int:
    """
    Return another number of 64 bits for each: neighbours differ in every place, and no two become one.

    The finaliser of splitmix64 (Steele, Lea, Flood 2014), which can be undone step by step.
    """
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
