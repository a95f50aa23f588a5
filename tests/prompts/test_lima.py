"""The real LIMA loads whole."""

from pathlib import Path

from llmload.prompts.workload import PromptPlan, load


def test_every_row_of_train_can_be_sent(lima_dir: Path) -> None:
    first, every = (load(PromptPlan(source=str(lima_dir), turns=turns), Path()) for turns in ("first", "all"))

    assert first.manifest()["rows"] == first.request_count == 1030
    assert first.manifest()["skipped"] == {}
    # 1,000 rows of one question, and thirty of 4, 5, 6, 8 or 20 turns.
    assert every.request_count == 1000 + 15 * 2 + 11 * 3 + 3 * 4 + 10
    assert sum(len(conversation.prompts) > 1 for conversation in every.conversations) == 30


def test_the_row_that_ends_on_the_user_is_a_request_for_each_question(lima_dir: Path) -> None:
    workload = load(PromptPlan(source=str(lima_dir), turns="all"), Path())

    odd = next(conversation for conversation in workload.conversations if conversation.row == 1021)
    assert [len(prompt.messages) for prompt in odd.prompts] == [1, 3, 5]


def test_the_hundred_prompts_of_a_seed_are_the_same_everywhere(lima_dir: Path) -> None:
    workload = load(PromptPlan(source=str(lima_dir), count=100, seed=0), Path())

    assert workload.manifest()["drawn"][:5] == [968, 23, 160, 838, 150]
    assert workload.request_count == 100


def test_test_rows_are_lone_questions(lima_dir: Path) -> None:
    workload = load(PromptPlan(source=str(lima_dir), split="test", turns="all"), Path())

    assert workload.request_count == 300
    assert {dialogue.answer for dialogue in workload.prompt_set.dialogues} == {None}
