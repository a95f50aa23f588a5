"""The workload of a run: which conversations, which one a worker sends next, with which salt, and when."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, Self

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
from llmload.prompts.lengths import Asked, LengthPlan, Shape
from llmload.prompts.sources import PromptSet, load_prompt_set, text_of_builtin
from llmload.prompts.synthetic import SYNTHETIC, TextCalibration, conversations_of, nominal

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


# Which conversation a worker sends next: they are drawn once with a seed and divided among the workers.


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


RepeatMode = Literal["salted", "same"]
Turns = Literal["first", "all"]


@dataclass(frozen=True, slots=True)
class MixedIn:
    """A kind of request among several: its name, its weight, and what it has in place of the scenario's."""

    name: str
    weight: float = 1.0
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of its request."""
    lengths: LengthPlan | None = None
    """How long its prompts and answers are to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """Which prompts a run sends; the same plan and data give the same requests in the same order on every machine."""

    source: str = "builtin"
    """`builtin`, `synthetic`, `lima`, `hf:OWNER/NAME/FILE`, or a file or folder."""
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
    lengths: LengthPlan = field(default_factory=LengthPlan)
    """How long prompts and answers are to be."""
    holds_outputs: bool = True
    """Whether answers are to have these lengths, not only to be no longer."""
    salted: bool = False
    """Whether the length of a synthetic prompt includes a salt's."""
    template_counts: bool = True
    """Whether it includes the chat template's."""
    mix: tuple[MixedIn, ...] = ()
    """Kinds of requests that each conversation becomes one of, some with their own lengths; empty: one kind."""

    def __post_init__(self) -> None:
        """Raise DataError for a value that is out of range."""
        if self.count is not None and self.count < 1:
            raise DataError(f"prompts: count = {self.count}: draw at least one row, or leave it out for all rows")
        if self.n_shot < 0:
            raise DataError(f"prompts: n_shot = {self.n_shot}: the number of examples is 0 or more")
        if isinstance(self.chain_of_thought, str) and not self.chain_of_thought.strip():
            raise DataError("prompts: chain_of_thought is an empty text: write the instruction, or true or false")

    @property
    def is_synthetic(self) -> bool:
        """Return whether prompts are made to a length."""
        return self.source == SYNTHETIC

    @property
    def length_plans(self) -> tuple[LengthPlan, ...]:
        """Return the lengths of each kind of request."""
        return tuple(entry.lengths or self.lengths for entry in self.mix) or (self.lengths,)

    @property
    def asks_outputs(self) -> bool:
        """Return whether answers are to have a length, those of one kind at least."""
        return any(each.asks_outputs for each in self.length_plans)

    @property
    def synthetic_count(self) -> int:
        """Return how many prompts are made where `count` does not say so: fewer of long ones, for their memory."""
        typical = max(each.typical_input for each in self.length_plans)
        return self.count or max(_FEWEST_MADE, min(_MOST_MADE, round(_TOKENS_MADE / typical)))

    def entries(self, rows: int) -> list[MixedIn]:
        """Return which kind of request each of the rows becomes; none where there is one kind."""
        random = Random(f"mix {self.seed}")  # noqa: S311 - repeatable, not secret
        return random.choices(self.mix, [each.weight for each in self.mix], k=rows) if self.mix else []

    def asked(self, rows: int) -> list[Asked]:
        """Return the lengths of the prompts and answers of that many rows."""
        plans = [entry.lengths or self.lengths for entry in self.entries(rows)] or [self.lengths] * rows
        drawn = {plan: plan.draw(self.seed) for plan in set(plans)}
        return [next(drawn[plan]) for plan in plans]

    @property
    def techniques(self) -> Techniques:
        """Return what is done to each prompt before it is sent."""
        thought = self.chain_of_thought
        instruction = thought if isinstance(thought, str) else CHAIN_OF_THOUGHT if thought else None
        return Techniques(n_shot=self.n_shot, chain_of_thought=instruction)


_TOKENS_MADE: Final = 4_000_000
_FEWEST_MADE, _MOST_MADE = 64, 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was learned of an engine before the load, so that lengths can be kept."""

    text: TextCalibration | None = None
    """What it counts of synthetic prompts; None where there are none."""
    counted_by: str = "usage"
    """Who counted: `usage` of answers of one token, or the path that tokenises, such as `/tokenize`."""
    output_fields: tuple[str, ...] = ()
    """The fields of a request that make an answer exactly as long as asked; empty: it takes none of them."""

    def output(self, tokens: int) -> dict[str, Any]:
        """Return the fields of a request whose answer is to have this many tokens."""
        return {"max_tokens": tokens, **{name: _EXACT_OUTPUT[name](tokens) for name in self.output_fields}}


_EXACT_OUTPUT: Final[Mapping[str, Callable[[int], Any]]] = {
    "ignore_eos": lambda _: True,
    "min_tokens": lambda tokens: tokens,
}
EXACT_OUTPUT: Final = tuple(_EXACT_OUTPUT)
"""The fields with which engines write no fewer tokens than `max_tokens`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The conversations of a run in drawn order, techniques applied, and where they come from."""

    plan: PromptPlan
    prompt_set: PromptSet
    conversations: tuple[Conversation, ...]
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def request_count(self) -> int:
        """Return the number of requests when each conversation is sent once."""
        return sum(len(conversation.prompts) for conversation in self.conversations)

    def of_shape(self, shape: Shape) -> Self:
        """Return the conversations that are to have these lengths; DataError where there is none."""
        drawn = self.plan.asked(len(self.conversations))
        asked = Asked(shape.input_tokens, shape.output_tokens)
        kept = tuple(each for each, lengths in zip(self.conversations, drawn, strict=True) if lengths == asked)
        if not kept:
            raise DataError(
                f"prompts: none of {len(self.conversations)} is of shape {shape[:2]}: set a greater prompts.count"
            )
        return replace(self, conversations=kept)

    def named(self, name: str) -> Self:
        """Return the same with this name for each request."""
        entry = MixedIn(name)
        return replace(self, conversations=tuple(_as_entry(each, entry) for each in self.conversations))

    def queue(self, worker_index: int, worker_count: int) -> PromptQueue:
        """Return a new queue of one worker's conversations; ValueError for an index outside of the workers."""
        return PromptQueue(
            self.conversations,
            seed=self.plan.seed,
            repeat=bool(self.plan.repeat),
            worker_index=worker_index,
            worker_count=worker_count,
        )

    def _calibrated(self) -> dict[str, Any] | None:
        """Return what lengths were kept by; None where none were asked."""
        calibration, plan = self.calibration, self.plan
        if not (plan.is_synthetic or plan.asks_outputs):
            return None
        text = calibration.text
        return {
            "counted_by": calibration.counted_by if plan.is_synthetic else None,
            "template_tokens": None if text is None else text.template_tokens,
            "least_tokens": None if text is None else text.salted_tokens if plan.salted else text.plain_tokens,
            "text": None if text is None else "sentences" if text.sentence_tokens else "words",
            "output_fields": list(calibration.output_fields),
        }

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
            "calibration": self._calibrated(),
            "techniques": {
                "n_shot": self.plan.techniques.n_shot,
                "chain_of_thought": self.plan.techniques.chain_of_thought,
            },
        }


def load(plan: PromptPlan, base_dir: Path, calibration: Calibration | None = None) -> Workload:
    """
    Return the plan's conversations; a relative source is looked for in `base_dir`, then in the working directory.

    Without a calibration, synthetic prompts have about their lengths, and answers end as the engine has it. Raises
    DataError where the source cannot be read, or no prompt has a length; no other prompts are ever used instead.
    """
    calibration = calibration or Calibration()
    workload = _synthetic(plan, calibration) if plan.is_synthetic else _of_data(plan, base_dir)
    conversations, rows = workload.conversations, len(workload.conversations)
    if plan.asks_outputs:
        pairs = zip(conversations, plan.asked(rows), strict=True)
        conversations = tuple(
            _answered(each, lengths.output_tokens, calibration, holds=plan.holds_outputs) for each, lengths in pairs
        )
    if plan.mix:
        entries = plan.entries(rows)
        drawn = {entry.name for entry in entries}
        if missing := [entry.name for entry in plan.mix if entry.name not in drawn]:
            raise DataError(
                f"mix: by the weights, none of {rows:,} prompts became {missing[0]!r}: set a greater prompts.count, or "
                "its weight higher"
            )
        conversations = tuple(map(_as_entry, conversations, entries))
    return replace(workload, conversations=conversations, calibration=calibration)


def _as_entry(conversation: Conversation, entry: MixedIn) -> Conversation:
    """Return the conversation with its requests as an entry of the mix has them."""
    prompts = (replace(with_fields(each, entry.fields), name=entry.name) for each in conversation.prompts)
    return replace(conversation, prompts=tuple(prompts))


def _answered(conversation: Conversation, tokens: int | None, calibration: Calibration, *, holds: bool) -> Conversation:
    """Return the conversation with answers of this length, or only none longer."""
    if tokens is None:
        return conversation
    fields, asked = calibration.output(tokens), tokens if holds else None
    prompts = (
        replace(each, fields={**each.fields, **fields}, asked=each.asked._replace(output_tokens=asked))
        for each in conversation.prompts
    )
    return replace(conversation, prompts=tuple(prompts))


def answer_limit(fields: Mapping[str, Any]) -> Any:
    """Return the most tokens that an answer to a request with these fields may have; None where they set no limit."""
    return fields.get("max_tokens") or fields.get("max_completion_tokens")


def with_fields(prompt: Prompt, fields: Mapping[str, Any]) -> Prompt:
    """
    Return the prompt with fields of its request in place of those that it has.

    Where its answer is to have a length, a limit among them is that length instead; with `ignore_eos` or `min_tokens`
    among them, there is none.
    """
    if "max_completion_tokens" in fields:
        fields = {"max_tokens": None, **fields}  # engines take one of the two names
    has, asked = dict(prompt.fields), prompt.asked
    if asked.output_tokens is not None:
        limit = answer_limit(fields)
        if not fields.keys().isdisjoint(EXACT_OUTPUT):
            has = {name: value for name, value in has.items() if name not in EXACT_OUTPUT}
            asked = asked._replace(output_tokens=None)
        elif limit is not None:
            has |= {name: of(limit) for name, of in _EXACT_OUTPUT.items() if name in has}
            asked = asked._replace(output_tokens=limit)
    return replace(prompt, fields={**has, **fields}, asked=asked)


def _synthetic(plan: PromptPlan, calibration: Calibration) -> Workload:
    conversations = conversations_of(
        plan.asked(plan.synthetic_count),
        plan.seed,
        calibration.text or nominal(),
        salted=plan.salted,
        template_counts=plan.template_counts,
    )
    return Workload(plan=plan, prompt_set=text_of_builtin(SYNTHETIC), conversations=conversations)


def _of_data(plan: PromptPlan, base_dir: Path) -> Workload:
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
