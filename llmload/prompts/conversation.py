"""Chat messages: a row of a data set, the conversation that prompting techniques make of it, one request's prompt."""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal, TypedDict, overload

import orjson

from llmload.errors import DataError
from llmload.prompts.lengths import NOTHING_ASKED, Asked

# Chat messages: a row of a data set, the conversation made of it, and the prompt of one request.

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One chat message in the form of OpenAI's API."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The messages of one request, the last one a user's, and where they come from."""

    prompt_id: str
    """Row of the data set from 0, and turn from 1 where a conversation has several: `17` or `17.2`."""
    messages: tuple[Message, ...]
    name: str | None = None
    """What its request is called in tables by name; None: as all others."""
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Fields of its request in place of the scenario's; one that is None is not sent."""
    asked: Asked = NOTHING_ASKED
    """The lengths that it and its answer are to have, as the engine counts them."""

    def salted(self, salt: str) -> "Prompt":
        """Return the prompt with the salt on its own line before the first message."""
        first = self.messages[0]
        return replace(self, messages=({**first, "content": f"{salt}\n{first['content']}"}, *self.messages[1:]))


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row of the data set as requests, to be sent one after the other."""

    row: int
    prompts: tuple[Prompt, ...]
    repeated: bool = False
    """Whether the run has sent it before, from this worker or another."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A row of the data set, answers included; after any system message, the first is a user's."""

    row: int
    messages: tuple[Message, ...]

    @property
    def question(self) -> str:
        """Return the first user message's text."""
        return next(message["content"] for message in self.messages if message["role"] == "user")

    @property
    def answer(self) -> str | None:
        """Return the text that answers the first user message; None where the data set has none."""
        first = next(index for index, message in enumerate(self.messages) if message["role"] == "user")
        after = self.messages[first + 1 : first + 2]
        return after[0]["content"] if after and after[0]["role"] == "assistant" else None


class Dialogues(Sequence[Dialogue]):
    """Dialogues as bytes, decoded one by one when they are read: a million take little more than their texts."""

    def __init__(self) -> None:
        self._rows, self._ends = array("Q"), array("Q")
        self._bytes = bytearray()

    def append(self, row: int, messages: Sequence[Message]) -> None:
        """Keep a row's messages."""
        self._bytes += orjson.dumps(messages)
        self._rows.append(row)
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dialogues) and (self._rows, self._bytes) == (other._rows, other._bytes)

    __hash__ = None  # type: ignore[assignment]  # what can grow has no hash

    @overload
    def __getitem__(self, index: int) -> Dialogue: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Dialogue]: ...

    def __getitem__(self, index: int | slice) -> Dialogue | Sequence[Dialogue]:
        """Return the dialogue at an index."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        begin = self._ends[at - 1] if at else 0
        messages = orjson.loads(memoryview(self._bytes)[begin : self._ends[at]])
        return Dialogue(self._rows[at], tuple(messages))


def as_message(role: Role, content: str) -> Message:
    """Return one chat message."""
    return {"role": role, "content": content}


CHAIN_OF_THOUGHT = "Let's think step by step."
"""The instruction of zero-shot chain of thought: Kojima et al. 2022, arXiv 2205.11916."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Techniques:
    """What is added to each prompt before it is sent; nothing by default."""

    n_shot: int = 0
    """Example pairs of user and assistant before the question."""
    chain_of_thought: str | None = None
    """Instruction that is added to the last user message."""


class ExamplePool:
    """The answered first questions of a data set, each question once, from which n-shot takes its examples."""

    def __init__(self, dialogues: Iterable[Dialogue]) -> None:
        """Keep the pairs of the dialogues whose first question has an answer."""
        answers: dict[str, tuple[Message, Message]] = {}
        for dialogue in dialogues:
            if dialogue.answer is not None:
                pair = as_message("user", dialogue.question), as_message("assistant", dialogue.answer)
                answers.setdefault(dialogue.question.strip(), pair)
        self._indices = {question: index for index, question in enumerate(answers)}
        self._pairs = tuple(answers.values())

    def choose(self, count: int, *, row: int, seed: int, excluded: Iterable[str]) -> tuple[Message, ...]:
        """
        Return `count` different pairs without the questions in `excluded`, the same for the same row and seed.

        Raises DataError where the data set has fewer.
        """
        barred = {self._indices[text.strip()] for text in excluded if text.strip() in self._indices}
        if count > len(self._pairs) - len(barred):
            have = len(self._pairs) - len(barred)
            raise DataError(f"prompts: n_shot = {count}, but row {row} has only {have} other questions with an answer")
        generator = Random(f"n-shot {seed} {row}")  # noqa: S311 # repeatable on purpose; nothing secret hangs on it
        drawn = generator.sample(range(len(self._pairs)), count + len(barred))
        chosen = [index for index in drawn if index not in barred][:count]
        return tuple(message for index in chosen for message in self._pairs[index])


def apply(conversation: Conversation, techniques: Techniques, pool: ExamplePool, seed: int) -> Conversation:
    """
    Return the conversation with the techniques applied to each of its prompts, all with the same examples.

    Raises DataError where the data set has too few examples.
    """
    examples: tuple[Message, ...] = ()
    if techniques.n_shot:
        asked = {
            message["content"]
            for prompt in conversation.prompts
            for message in prompt.messages
            if message["role"] == "user"
        }
        examples = pool.choose(techniques.n_shot, row=conversation.row, seed=seed, excluded=asked)
    prompts = tuple(
        Prompt(prompt.prompt_id, _instructed(_preceded(prompt.messages, examples), techniques.chain_of_thought))
        for prompt in conversation.prompts
    )
    return Conversation(conversation.row, prompts)


def _preceded(messages: tuple[Message, ...], examples: tuple[Message, ...]) -> tuple[Message, ...]:
    """Put the examples before the question and after the system messages, which apply to both."""
    first = next(index for index, message in enumerate(messages) if message["role"] != "system")
    return messages[:first] + examples + messages[first:]


def _instructed(messages: tuple[Message, ...], instruction: str | None) -> tuple[Message, ...]:
    if instruction is None:
        return messages
    question = messages[-1]["content"]
    return (*messages[:-1], as_message("user", f"{question}\n\n{instruction}"))
