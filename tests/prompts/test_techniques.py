"""Examples come before the question and never give it away; the instruction comes after it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmload.errors import DataError
from llmload.prompts.conversation import (
    CHAIN_OF_THOUGHT,
    Conversation,
    Dialogue,
    ExamplePool,
    Message,
    Prompt,
    Role,
    Techniques,
    apply,
    as_message,
)


def messages(*turns: tuple[Role, str]) -> tuple[Message, ...]:
    return tuple(as_message(role, text) for role, text in turns)


def dialogue(row: int, question: str | None = None, *, answered: bool = True) -> Dialogue:
    answer: tuple[Message, ...] = messages(("assistant", f"a{row}")) if answered else ()
    return Dialogue(row, messages(("user", question or f"q{row}")) + answer)


def asked(*turns: tuple[Role, str], row: int = 0) -> Conversation:
    return Conversation(row, (Prompt(str(row), messages(*turns)),))


def contents(conversation: Conversation, prompt: int = 0) -> list[str]:
    return [message["content"] for message in conversation.prompts[prompt].messages]


POOL = ExamplePool(dialogue(row) for row in range(20))


class TestNShot:
    def test_pairs_are_between_the_system_message_and_the_question(self) -> None:
        conversation = apply(asked(("system", "s"), ("user", "q0")), Techniques(n_shot=2), POOL, seed=0)

        roles = [message["role"] for message in conversation.prompts[0].messages]
        assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
        assert contents(conversation)[-1] == "q0"
        for question, answer in zip(contents(conversation)[1:-1:2], contents(conversation)[2:-1:2], strict=True):
            assert question.replace("q", "a") == answer

    @given(row=st.integers(0, 19), seed=st.integers(), n_shot=st.integers(1, 19))
    def test_examples_differ_and_are_never_the_question(self, row: int, seed: int, n_shot: int) -> None:
        conversation = apply(asked(("user", f"q{row}"), row=row), Techniques(n_shot=n_shot), POOL, seed=seed)

        questions = contents(conversation)[:-1:2]
        assert len(set(questions)) == n_shot
        assert f"q{row}" not in questions

    def test_a_row_with_the_same_question_is_never_an_example_either(self) -> None:
        pool = ExamplePool([dialogue(0, "same"), dialogue(1, " same\n"), dialogue(2, "other")])

        assert contents(apply(asked(("user", "same")), Techniques(n_shot=1), pool, seed=0)) == ["other", "a2", "same"]
        with pytest.raises(DataError, match="n_shot = 2, but row 0 has only 1 other"):
            apply(asked(("user", "same")), Techniques(n_shot=2), pool, seed=0)

    def test_rows_without_an_answer_are_never_examples(self) -> None:
        pool = ExamplePool([dialogue(0), dialogue(1, answered=False)])

        with pytest.raises(DataError, match="n_shot = 1, but row 0 has only 0 other"):
            apply(asked(("user", "q0")), Techniques(n_shot=1), pool, seed=0)

    def test_the_same_row_and_seed_choose_the_same_and_others_do_not(self) -> None:
        def chosen(row: int, seed: int) -> tuple[Message, ...]:
            return POOL.choose(5, row=row, seed=seed, excluded=())

        assert chosen(3, 1) == chosen(3, 1)
        assert len({tuple(message["content"] for message in chosen(*at)) for at in ((3, 1), (4, 1), (3, 2))}) == 3

    def test_all_requests_of_a_conversation_begin_with_the_same_examples_and_none_is_a_later_question(self) -> None:
        turns = messages(("user", "q0"), ("assistant", "a0"), ("user", "q7"))
        conversation = Conversation(0, (Prompt("0.1", turns[:1]), Prompt("0.2", turns)))

        applied = apply(conversation, Techniques(n_shot=18), POOL, seed=0)

        assert contents(applied, 0)[:36] == contents(applied, 1)[:36]
        assert "q7" not in contents(applied, 1)[:36]
        assert contents(applied, 1)[36:] == ["q0", "a0", "q7"]


class TestChainOfThought:
    def test_instruction_follows_the_last_question_alone(self) -> None:
        before = asked(("user", "q0"), ("assistant", "a0"), ("user", "q1"))

        applied = apply(before, Techniques(chain_of_thought=CHAIN_OF_THOUGHT), POOL, seed=0)

        assert contents(applied) == ["q0", "a0", "q1\n\nLet's think step by step."]

    def test_composes_with_examples(self) -> None:
        applied = apply(asked(("user", "q0")), Techniques(n_shot=3, chain_of_thought="Why?"), POOL, seed=0)

        assert contents(applied)[-1] == "q0\n\nWhy?"
        assert not any("Why?" in text for text in contents(applied)[:-1])
        assert len(contents(applied)) == 7


def test_no_technique_changes_nothing() -> None:
    before: Any = asked(("system", "s"), ("user", "q0"))

    assert apply(before, Techniques(), POOL, seed=0) == before
