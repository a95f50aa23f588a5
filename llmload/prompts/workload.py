"""The workload of a run: the plan that a scenario states, and the conversations that it gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmload.errors import DataError
from llmload.prompts.conversation import Conversation, Dialogue, Prompt
from llmload.prompts.queue import PromptQueue, draw
from llmload.prompts.sources import PromptSet, load_prompt_set
from llmload.prompts.techniques import CHAIN_OF_THOUGHT, ExamplePool, Techniques, apply

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
    repeat: bool = False
    """Whether the drawn rows start over, reshuffled, when they run out."""
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

    def queue(self, worker_index: int, worker_count: int) -> PromptQueue:
        """Return a new queue of one worker's conversations; ValueError for an index outside of the workers."""
        return PromptQueue(
            self.conversations,
            seed=self.plan.seed,
            repeat=self.plan.repeat,
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
