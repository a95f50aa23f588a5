"""The prompts of a run: what a scenario asks for, and the conversations it gets."""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from llmload.errors import DataError
from llmload.prompts.conversation import Conversation, Dialogue, Prompt
from llmload.prompts.formats import Skipped, describe_read_error, read_dialogues
from llmload.prompts.queue import PromptQueue, draw
from llmload.prompts.sources import BUILTIN, locate
from llmload.prompts.techniques import CHAIN_OF_THOUGHT, ExamplePool, Techniques, apply

# A data set of prompts, read whole; the door for the `datasets` library.

Columns = tuple[Sequence[str], Callable[[str], Iterable[object]]]
"""The names of a data set's columns, and what gives one's values."""
_HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """The rows of a data set that can become requests, and what identifies the data they were read from."""

    name: str
    source: str
    split: str | None
    sha256: str
    """Of the file's bytes; of all shards' bytes one after the other where the split has several."""
    licence: str | None
    row_count: int
    dialogues: tuple[Dialogue, ...]
    skipped: tuple[Skipped, ...]

    def skipped_by_reason(self) -> dict[str, int]:
        """Return how many rows were left out for which reason."""
        return dict(Counter(skipped.reason for skipped in self.skipped))


def load_prompt_set(source: str, split: str | None, base_dir: Path) -> PromptSet:
    """
    Return a source's data set.

    Raises DataError when it cannot be had, is in no known form, is broken, or has no row that can become a request.
    """
    located = locate(source, split, base_dir)
    files = located.files
    shown = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    columns, values = read_own(files[0]) if located.source == BUILTIN else read(files)
    try:
        dialogues, skipped = read_dialogues(columns, values, shown)
    except UnicodeDecodeError:
        # Arrow takes any bytes for text until they are looked at.
        raise DataError(describe_read_error(files)) from None
    if not dialogues:
        raise DataError(f"{shown}: none of its {len(skipped)} rows can become a request: {_most_common(skipped)}")
    return PromptSet(
        name=located.name,
        source=located.source,
        split=located.split,
        sha256=_sha256(files),
        licence=located.licence,
        row_count=len(dialogues) + len(skipped),
        dialogues=dialogues,
        skipped=skipped,
    )


def read_own(file: Path) -> Columns:
    """Return the rows of the set that comes with the package, whose form is known: no library has to be started."""
    rows = [orjson.loads(line) for line in file.read_bytes().splitlines()]
    return list(rows[0]), lambda column: [row[column] for row in rows]


def read(files: tuple[Path, ...]) -> Columns:
    """Return the files' rows in their order, held in memory: the user's cache of `datasets` is not touched."""
    # Imported here: it takes the better part of a second, and most of the package does without it.
    import datasets  # type: ignore[import-untyped] # it ships no types

    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: there is no such file")
        if not file.stat().st_size:
            raise DataError(f"{file}: is empty")
    with _quiet(), tempfile.TemporaryDirectory(prefix="llmload-") as cache:
        try:
            # Not load_dataset: it reports each load to its makers, and waits for the network to do so.
            form = datasets.Dataset.from_parquet if files[0].suffix == ".parquet" else datasets.Dataset.from_json
            data = form([str(file) for file in files], cache_dir=cache, keep_in_memory=True)
        except Exception as error:  # its readers' own errors pass through: pyarrow's, pandas's, StopIteration
            raise DataError(describe_read_error(files)) from error
    return data.column_names, lambda column: data[column][:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `datasets` from drawing progress bars, logging what is raised anyway, and starting a thread for the bars."""
    import datasets

    verbosity = datasets.utils.logging.get_verbosity()
    with_bars = not datasets.are_progress_bars_disabled() and not os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS")
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    if with_bars:
        datasets.disable_progress_bars()
    # A thread at this point would break the workers that Locust forks.
    datasets.utils.tqdm.monitor_interval = 0
    try:
        yield
    finally:
        datasets.utils.logging.set_verbosity(verbosity)
        if with_bars:
            datasets.enable_progress_bars()


def _sha256(files: tuple[Path, ...]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _most_common(skipped: tuple[Skipped, ...]) -> str:
    if not skipped:
        return "it has no rows"
    reason, rows = Counter(row.reason for row in skipped).most_common(1)[0]
    return f"{rows} of them: {reason}"


__all__ = ["PromptPlan", "PromptQueue", "Turns", "Workload", "load"]

Turns = Literal["first", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """Which prompts a run sends; the same plan and data give the same requests in the same order on every machine."""

    source: str = "builtin"
    """`builtin`, `lima`, `hf:OWNER/NAME/FILE`, or a file or folder."""
    split: str | None = None
    """Which split of a source that has several; None is train."""
    count: int | None = None
    """Rows that are drawn without replacement; None is all."""
    seed: int = 0
    turns: Turns = "first"
    """`first`: each row's first question; `all`: every question of a row, after the data set's own answers."""
    repeat: bool = False
    """Whether the drawn rows are dealt again, reshuffled, when they run out."""
    n_shot: int = 0
    """Example pairs from the same data before each question."""
    chain_of_thought: bool | str = False
    """True for the usual instruction, or an instruction of one's own."""

    def __post_init__(self) -> None:
        """Raise DataError for a value that means nothing."""
        if self.count is not None and self.count < 1:
            raise DataError(f"prompts: count = {self.count}: draw at least one row, or leave it out for all")
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
        """Return how many requests the conversations are, each sent once."""
        return sum(len(conversation.prompts) for conversation in self.conversations)

    def queue(self, worker_index: int, worker_count: int) -> PromptQueue:
        """Return a fresh deck of worker i's share; raises ValueError for a worker that is not among the workers."""
        return PromptQueue(
            self.conversations,
            seed=self.plan.seed,
            repeat=self.plan.repeat,
            worker_index=worker_index,
            worker_count=worker_count,
        )

    def manifest(self) -> dict[str, Any]:
        """Return what a reader needs to send the same requests again, in plain values that JSON can hold."""
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

    Raises DataError when what was asked for cannot be had; nothing else is ever put in its place.
    """
    prompt_set = load_prompt_set(plan.source, plan.split, base_dir)
    dialogues = prompt_set.dialogues
    pool = ExamplePool(dialogues if plan.n_shot else ())
    drawn = (_conversation(dialogues[index], plan.turns) for index in draw(len(dialogues), plan.count, plan.seed))
    conversations = tuple(apply(conversation, plan.techniques, pool, plan.seed) for conversation in drawn)
    return Workload(plan=plan, prompt_set=prompt_set, conversations=conversations)


def _conversation(dialogue: Dialogue, turns: Turns) -> Conversation:
    """Cut a dialogue into requests: each ends on a user's turn and carries all that was said before it."""
    messages = dialogue.messages
    questions = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if turns == "first" or len(questions) == 1:
        return Conversation(dialogue.row, (Prompt(str(dialogue.row), messages[: questions[0] + 1]),))
    prompts = (Prompt(f"{dialogue.row}.{turn}", messages[: index + 1]) for turn, index in enumerate(questions, start=1))
    return Conversation(dialogue.row, tuple(prompts))
