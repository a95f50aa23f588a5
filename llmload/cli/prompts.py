"""`llmload prompts`: show the prompts that a run would send."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from llmload.prompts.conversation import Conversation, Dialogue
    from llmload.prompts.sources import PromptSet
    from llmload.prompts.workload import Turns

_QUANTILES = (0.0, 0.5, 0.9, 0.99, 1.0)


@click.group()
def prompts() -> None:
    """
    Show the prompts that a run would send.

    SOURCE is `builtin`, `lima` (GAIR/lima on the Hugging Face hub, gated), `hf:OWNER/NAME/FILE` for one file of a hub
    data set, or a file (.jsonl, .json, .parquet) or folder in the form of LIMA, ShareGPT or OpenAI's messages.
    """


@prompts.command()
@click.argument("source", default="builtin")
@click.option("--split", help="The split of a source that has several. [default: train]")
@click.option("--count", type=click.IntRange(min=1), default=3, show_default=True, help="Number of rows to draw.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draw and the examples.")
@click.option(
    "--turns",
    type=click.Choice(["first", "all"]),
    default="first",
    show_default=True,
    help="Each row's first question, or every question, after the data set's own answers.",
)
@click.option(
    "--n-shot",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Number of examples before each question.",
)
@click.option("--chain-of-thought", is_flag=True, help="Add `Let's think step by step.` to each question.")
@click.option("--instruction", help="Another text to add; implies --chain-of-thought.")
def show(
    source: str,
    split: str | None,
    count: int,
    seed: int,
    turns: "Turns",
    n_shot: int,
    chain_of_thought: bool,
    instruction: str | None,
) -> None:
    """
    Print drawn prompts, message by message, as a run with the same seed sends them.

    \b
    Examples:
      llmload prompts show builtin --count 3
      llmload prompts show builtin --n-shot 2 --chain-of-thought --turns all --seed 1
      llmload prompts show lima --split test
    """
    from llmload.prompts.workload import PromptPlan, load

    plan = PromptPlan(
        source=source,
        split=split,
        count=count,
        seed=seed,
        turns=turns,
        n_shot=n_shot,
        chain_of_thought=chain_of_thought if instruction is None else instruction,
    )
    workload = load(plan, Path.cwd())
    sendable = len(workload.prompt_set.dialogues)
    click.echo(f"{source}: {count} of {sendable} rows drawn with seed {seed}, {workload.request_count} requests")
    for note in workload.prompt_set.notes():
        click.echo(note)
    for conversation in workload.conversations:
        _print_conversation(conversation)


@prompts.command()
@click.argument("source", default="builtin")
@click.option("--split", help="The split of a source that has several. [default: train]")
def stats(source: str, split: str | None) -> None:
    """
    Print the rows of a data set, its turns, its lengths in characters, and the sha256 of its bytes.

    \b
    Examples:
      llmload prompts stats builtin
      llmload prompts stats lima --split train
    """
    from llmload.prompts.sources import load_prompt_set

    prompt_set = load_prompt_set(source, split, Path.cwd())
    _print_identity(prompt_set)
    questions_per_row = Counter(len(_questions(dialogue)) for dialogue in prompt_set.dialogues)
    requests = sum(questions * rows for questions, rows in questions_per_row.items())
    click.echo(f"requests  {len(prompt_set.dialogues)} with turns = first, {requests} with turns = all")
    for questions, rows in sorted(questions_per_row.items()):
        click.echo(f"turns     {questions} by the user in {rows} rows")
    click.echo(f"{'characters':<16}{'of':>7}{'min':>8}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}")
    _print_lengths("first question", [dialogue.question for dialogue in prompt_set.dialogues])
    _print_lengths("its answer", [dialogue.answer for dialogue in prompt_set.dialogues if dialogue.answer is not None])


def _print_conversation(conversation: "Conversation") -> None:
    for prompt in conversation.prompts:
        click.echo(f"\n=== prompt {prompt.prompt_id} ===")
        for message in prompt.messages:
            click.echo(f"[{message['role']}] {message['content']}")


def _print_identity(prompt_set: "PromptSet") -> None:
    split = f", split {prompt_set.split}" if prompt_set.split else ""
    click.echo(f"data set  {prompt_set.name}{split}, licence {prompt_set.licence or 'not known'}")
    click.echo(f"sha256    {prompt_set.sha256}")
    click.echo(f"rows      {prompt_set.row_count}, {len(prompt_set.dialogues)} of them usable")
    for reason, rows in sorted(prompt_set.skipped_by_reason().items()):
        click.echo(f"skipped   {rows}: {reason}")
    for change, rows in prompt_set.changed_by_reason().items():
        click.echo(f"changed   {rows}: {change}")


def _print_lengths(name: str, texts: list[str]) -> None:
    lengths = sorted(len(text) for text in texts)
    values = [f"{lengths[round(q * (len(lengths) - 1))]:>8}" if lengths else f"{'-':>8}" for q in _QUANTILES]
    click.echo(f"{name:<16}{len(lengths):>7}{''.join(values)}")


def _questions(dialogue: "Dialogue") -> list[str]:
    return [message["content"] for message in dialogue.messages if message["role"] == "user"]
