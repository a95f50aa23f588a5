"""
Which conversation a worker sends next, and the salt before its first message.

Conversations are drawn once with a seed and divided among the workers; a salt is text that no other request has, so
that no prefix cache can answer it.
"""

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from llmload.errors import DataError
from llmload.prompts.conversation import Conversation

SaltMode = Literal["request", "run"]
SALT_CHARS: Final = 13
"""Base 32 in lower case: 64 bits."""
ADDED_CHARS: Final = SALT_CHARS + 1
"""The salt and a line break."""
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_MASK: Final = (1 << 64) - 1


def draw(rows: int, count: int | None, seed: int) -> tuple[int, ...]:
    """
    Return `count` different indices below `rows`, or all of them, in an order that the seed fixes on every machine.

    A smaller draw is the beginning of a larger one. Raises DataError where there are fewer rows.
    """
    if count is not None and count > rows:
        raise DataError(f"prompts: count = {count}, but the data set has only {rows} rows that can be sent")
    return tuple(_shuffled(rows, f"draw {seed}")[:count])


class PromptQueue:
    """
    The conversations of worker i of n: indices i, i + n, i + 2n ... of the drawn order.

    With `repeat`, the indices continue through reshuffled rounds, so no two workers take the same index of a round.
    """

    def __init__(
        self, conversations: Sequence[Conversation], *, seed: int, repeat: bool, worker_index: int, worker_count: int
    ) -> None:
        """Raises ValueError for a worker index outside of the workers."""
        if not 0 <= worker_index < worker_count:
            raise ValueError(f"worker {worker_index} is not one of {worker_count}")
        self._conversations = conversations
        self._seed = seed
        self._repeat = repeat
        self._step = worker_count
        self._index = worker_index
        self._round = 0
        self._order: Sequence[int] = range(len(conversations))
        self.taken = 0
        """Requests taken so far, reused ones included."""
        self.reused = 0
        """Requests taken again, by this worker or another."""

    def next(self) -> Conversation | None:
        """Return the next conversation; None after the last one without `repeat`, and where there are none."""
        size = len(self._conversations)
        round_number, position = divmod(self._index, size) if size else (0, 0)
        if not size or (round_number and not self._repeat):
            return None
        if round_number != self._round:
            self._round = round_number
            self._order = _shuffled(size, f"round {self._seed} {round_number}")
        self._index += self._step
        conversation = self._conversations[self._order[position]]
        self.taken += len(conversation.prompts)
        self.reused += len(conversation.prompts) if round_number else 0
        return conversation


def _shuffled(size: int, purpose: str) -> list[int]:
    """Return the indices in the order of a generator seeded by text: Random hashes text alike everywhere."""
    return Random(purpose).sample(range(size), size)  # noqa: S311 # repeatable on purpose; nothing secret hangs on it


class Salts:
    """
    One worker's salts, fixed by seed and key; no two requests of a run have the same.

    `key` distinguishes runs of the same seed. In mode `run`, all requests of the run have one salt.
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
    Return a number of 64 bits, different for each input; neighbours differ in about half of their bits.

    Source: the finaliser of splitmix64 (Steele, Lea, Flood 2014), which is invertible.
    """
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31
