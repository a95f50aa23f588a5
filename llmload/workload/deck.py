"""Which prompts, in which order, and who sends which: drawn once with a seed, dealt to workers without overlap."""

from collections.abc import Sequence
from random import Random

from llmload.errors import DataError
from llmload.workload.conversation import Conversation


def draw(rows: int, count: int | None, seed: int) -> tuple[int, ...]:
    """
    Return `count` different places among `rows`, or all of them, in an order that the seed fixes on every machine.

    A smaller draw is the beginning of a larger one. Raises DataError when there are fewer rows than are asked for.
    """
    if count is not None and count > rows:
        raise DataError(f"prompts: count = {count}, but the data set has only {rows} rows that can be sent")
    return tuple(_shuffled(rows, f"draw {seed}")[:count])


class Deck:
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
        round_number, place = divmod(self._place, size) if size else (0, 0)
        if not size or (round_number and not self._repeat):
            return None
        if round_number != self._round:
            self._round = round_number
            self._order = _shuffled(size, f"round {self._seed} {round_number}")
        self._place += self._step
        conversation = self._conversations[self._order[place]]
        self.dealt += len(conversation.prompts)
        self.reused += len(conversation.prompts) if round_number else 0
        return conversation


def _shuffled(size: int, purpose: str) -> list[int]:
    """Return the places in the order that a purpose's own generator gives: Random hashes text alike everywhere."""
    return Random(purpose).sample(range(size), size)  # noqa: S311 # repeatable on purpose; nothing secret hangs on it
