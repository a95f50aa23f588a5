"""Prompting techniques: n-shot examples, which lengthen prompts, and chain of thought, which lengthens answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from llmload.errors import DataError
from llmload.prompts.conversation import Conversation, Dialogue, Message, Prompt, as_message

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
