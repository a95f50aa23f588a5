"""A few characters before the first message that no other request has, so that no prefix cache can answer it."""

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from llmload.errors import DataError
from llmload.prompts.conversation import Conversation

# Which prompts, in which order, and who sends which: drawn once with a seed, dealt to workers without overlap.


def draw(rows: int, count: int | None, seed: int) -> tuple[int, ...]:
    """
    Return `count` different places among `rows`, or all of them, in an order that the seed fixes on every machine.

    A smaller draw is the beginning of a larger one. Raises DataError when there are fewer rows than are asked for.
    """
    if count is not None and count > rows:
        raise DataError(f"prompts: count = {count}, but the data set has only {rows} rows that can be sent")
    return tuple(_shuffled(rows, f"draw {seed}")[:count])


class PromptQueue:
    """
    One worker's share of the conversations: places i, i + n, i + 2n ... of the drawn order for worker i of n.

    Repeating goes on counting through reshuffled rounds, so no two workers ever deal the same place of the same round.
    """

    def __init__(
        self, conversations: Sequence[Conversation], *, seed: int, repeat: bool, worker_index: int, worker_count: int
    ) -> None:
        """Take this worker's share; raises ValueError for a worker that is not among the workers."""
        if not 0 <= worker_index < worker_count:
            raise ValueError(f"worker {worker_index} is not one of {worker_count}")
        self._conversations = conversations
        self._seed = seed
        self._repeat = repeat
        self._step = worker_count
        self._place = worker_index
        self._round = 0
        self._order: Sequence[int] = range(len(conversations))
        self.dealt = 0
        """Requests dealt so far, reused ones included."""
        self.reused = 0
        """Requests dealt a second time or more, to whichever worker the first went."""

    def next(self) -> Conversation | None:
        """Return the next conversation; None once all are dealt and none are to be repeated, or there are none."""
        size = len(self._conversations)
        round_number, index = divmod(self._place, size) if size else (0, 0)
        if not size or (round_number and not self._repeat):
            return None
        if round_number != self._round:
            self._round = round_number
            self._order = _shuffled(size, f"round {self._seed} {round_number}")
        self._place += self._step
        conversation = self._conversations[self._order[index]]
        self.dealt += len(conversation.prompts)
        self.reused += len(conversation.prompts) if round_number else 0
        return conversation


def _shuffled(size: int, purpose: str) -> list[int]:
    """Return the places in the order that a purpose's own generator gives: Random hashes text alike everywhere."""
    return Random(purpose).sample(range(size), size)  # noqa: S311 # repeatable on purpose; nothing secret hangs on it


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
