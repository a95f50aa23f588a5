"""The workload of a run: which conversations, which one a worker sends next, with which salt, and when."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, NamedTuple, Self

from llmload.errors import DataError
from llmload.prompts.conversation import (
    CHAIN_OF_THOUGHT,
    Conversation,
    Dialogue,
    ExamplePool,
    Prompt,
    Techniques,
    apply,
)
from llmload.prompts.sources import PromptSet, load_prompt_set

# When requests of an open loop are due: drawn arrival processes.
#
# A process is drawn in units of its mean gap, so that its rate can change during a run: the next request is due when
# the integral of the rate over time has grown by the next gap (time rescaling; Cinlar, Introduction to Stochastic
# Processes, 1975, 4.7). Each worker draws its own arrivals of the whole process, with no coordination.

Kind = Literal["constant", "poisson", "gamma"]


def unit_gaps(kind: Kind, *, cv: float, seed: int, worker_index: int, worker_count: int) -> Iterator[float]:
    """
    Yield one worker's gaps without end, in mean gaps of the whole process.

    `constant`: worker i of n takes every n-th arrival, beginning with the i-th. `poisson` and `gamma` (gaps with
    coefficient of variation `cv`; below 1 steadier, above 1 burstier than Poisson): every worker draws the same whole
    process, and each arrival goes to a worker at random, so that workers that start some milliseconds apart still
    add up to it.
    """
    if kind == "constant":
        yield float(worker_index)
        while True:
            yield float(worker_count)
    draw = _gap(kind, cv, Random(f"arrivals {seed}"))  # noqa: S311 - repeatable, not secret
    owner = Random(f"owner {seed}")  # noqa: S311 - the same
    gap = 0.0
    while True:
        gap += draw()
        if owner.randrange(worker_count) == worker_index:
            yield gap
            gap = 0.0


def _gap(kind: Kind, cv: float, random: Random) -> Callable[[], float]:
    if kind == "poisson" or cv == 1.0:
        return lambda: random.expovariate(1.0)
    shape = 1.0 / cv**2
    return lambda: random.gammavariate(shape, 1.0 / shape)


# Which conversation a worker sends next, and the salt before its first message.
#
# Conversations are drawn once with a seed and divided among the workers; a salt is text that no other request has, so
# that no prefix cache can answer it.

SaltMode = Literal["request", "run"]
RepeatMode = Literal["salted", "same"]
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
        if not round_number:
            return conversation
        self.reused += len(conversation.prompts)
        return replace(conversation, repeated=True)


def _shuffled(size: int, purpose: str) -> list[int]:
    """Return the indices in the order of a generator seeded by text: Random hashes text alike everywhere."""
    return Random(purpose).sample(range(size), size)  # noqa: S311 # repeatable on purpose; nothing secret hangs on it


class Salts:
    """
    One worker's salts, fixed by seed and key; no two requests of a run have the same.

    `key` distinguishes runs of the same seed. In mode `run`, all requests of the run have one salt; without a mode,
    none. With `repeats`, a request that repeats another has its own salt, whatever the mode.
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
    ) -> None:
        self._mode, self._repeats = mode, repeats
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


Turns = Literal["first", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """Which prompts a run sends; the same plan and data give the same requests in the same order on every machine."""

    source: str = "builtin"
    """`builtin`, `lima`, `hf:OWNER/NAME/FILE`, or a file or folder."""
    split: str | None = None
    """Which split of a source that has several; None is train."""
    count: int | None = None
    """Rows to draw, without replacement; None is all."""
    seed: int = 0
    turns: Turns = "first"
    """`first`: each row's first question; `all`: every question of a row, after the data set's own answers."""
    repeat: bool | RepeatMode = False
    """Whether the drawn rows start over, reshuffled, when they run out; `salted`: with salts, `same`: without."""
    n_shot: int = 0
    """Example pairs from the same data before each question."""
    chain_of_thought: bool | str = False
    """True for the usual instruction, or another instruction."""

    def __post_init__(self) -> None:
        """Raise DataError for a value that is out of range."""
        if self.count is not None and self.count < 1:
            raise DataError(f"prompts: count = {self.count}: draw at least one row, or leave it out for all rows")
        if self.n_shot < 0:
            raise DataError(f"prompts: n_shot = {self.n_shot}: the number of examples is 0 or more")
        if isinstance(self.chain_of_thought, str) and not self.chain_of_thought.strip():
            raise DataError("prompts: chain_of_thought is an empty text: write the instruction, or true or false")

    @property
    def techniques(self) -> Techniques:
        """Return what is done to each prompt before it is sent."""
        thought = self.chain_of_thought
        instruction = thought if isinstance(thought, str) else CHAIN_OF_THOUGHT if thought else None
        return Techniques(n_shot=self.n_shot, chain_of_thought=instruction)


class MixedIn(NamedTuple):
    """A kind of request among several: its name, its weight, and its fields in place of the scenario's."""

    name: str
    weight: float
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The conversations of a run in drawn order, techniques applied, and where they come from."""

    plan: PromptPlan
    prompt_set: PromptSet
    conversations: tuple[Conversation, ...]

    @property
    def request_count(self) -> int:
        """Return the number of requests when each conversation is sent once."""
        return sum(len(conversation.prompts) for conversation in self.conversations)

    def named(self, name: str) -> Self:
        """Return the same with this name for each request."""
        return self.mixed([MixedIn(name, 1.0, {})])

    def mixed(self, entries: Sequence[MixedIn]) -> Self:
        """Return the same with each conversation's requests as one of the entries has them, drawn by their weights."""
        random = Random(f"mix {self.plan.seed}")  # noqa: S311 - repeatable, not secret
        drawn = random.choices(entries, [each.weight for each in entries], k=len(self.conversations))
        conversations = (
            replace(
                conversation,
                prompts=tuple(replace(each, name=entry.name, fields=entry.fields) for each in conversation.prompts),
            )
            for conversation, entry in zip(self.conversations, drawn, strict=True)
        )
        return replace(self, conversations=tuple(conversations))

    def queue(self, worker_index: int, worker_count: int) -> PromptQueue:
        """Return a new queue of one worker's conversations; ValueError for an index outside of the workers."""
        return PromptQueue(
            self.conversations,
            seed=self.plan.seed,
            repeat=bool(self.plan.repeat),
            worker_index=worker_index,
            worker_count=worker_count,
        )

    def manifest(self) -> dict[str, Any]:
        """Return what is needed to send the same requests again, in JSON's types."""
        return {
            "dataset": self.prompt_set.name,
            "source": self.prompt_set.source,
            "split": self.prompt_set.split,
            "sha256": self.prompt_set.sha256,
            "licence": self.prompt_set.licence,
            "rows": self.prompt_set.row_count,
            "skipped": self.prompt_set.skipped_by_reason(),
            "changed": self.prompt_set.changed_by_reason(),
            "seed": self.plan.seed,
            "turns": self.plan.turns,
            "repeat": self.plan.repeat,
            "drawn": [conversation.row for conversation in self.conversations],
            "requests": self.request_count,
            "techniques": {
                "n_shot": self.plan.techniques.n_shot,
                "chain_of_thought": self.plan.techniques.chain_of_thought,
            },
        }


def load(plan: PromptPlan, base_dir: Path) -> Workload:
    """
    Return the plan's conversations; a relative source is looked for in `base_dir`, then in the working directory.

    Raises DataError where the source cannot be read; no other prompts are ever used instead.
    """
    prompt_set = load_prompt_set(plan.source, plan.split, base_dir)
    dialogues = prompt_set.dialogues
    pool = ExamplePool(dialogues if plan.n_shot else ())
    drawn = (_conversation(dialogues[index], plan.turns) for index in draw(len(dialogues), plan.count, plan.seed))
    conversations = tuple(apply(conversation, plan.techniques, pool, plan.seed) for conversation in drawn)
    return Workload(plan=plan, prompt_set=prompt_set, conversations=conversations)


def _conversation(dialogue: Dialogue, turns: Turns) -> Conversation:
    """Split a dialogue into requests: each ends with a user's turn and has all turns before it."""
    messages = dialogue.messages
    questions = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if turns == "first" or len(questions) == 1:
        return Conversation(dialogue.row, (Prompt(str(dialogue.row), messages[: questions[0] + 1]),))
    prompts = (Prompt(f"{dialogue.row}.{turn}", messages[: index + 1]) for turn, index in enumerate(questions, start=1))
    return Conversation(dialogue.row, tuple(prompts))
