"""Prompts of exact lengths: what is measured of a tokenizer, and that lengths add up."""

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from llmload.errors import DataError, EngineError
from llmload.prompts.lengths import LengthPlan, Lengths, Shape
from llmload.prompts.salts import Salts
from llmload.prompts.synthetic import OPENING, calibrate, nominal, salt_of_words, sentences
from llmload.prompts.workload import Calibration, MixedIn, PromptPlan, load
from llmload.simulator.tokens import Tokenizer, count_tokens

TEMPLATE_TOKENS = 7
SHAPES = (Shape(40, 8), Shape(333, 1, 2.0), Shape(512, 100))


def count(text: str, tokenizer: Tokenizer = "words") -> int:
    return TEMPLATE_TOKENS + count_tokens(text, tokenizer)


def seeded(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - repeatable, not secret


@pytest.fixture(scope="module", params=["words", "bytes"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    name: Tokenizer = request.param
    return name


def test_the_words_tokenizer_merges_at_seams() -> None:
    first, second = "two more", " eggs"

    assert count_tokens(first, "words") == 2
    assert count_tokens(second, "words") == 1
    assert count_tokens(first + second, "words") == 2


def test_a_thousand_prompts_have_their_lengths_with_their_salts(tokenizer: Tokenizer) -> None:
    text = calibrate(lambda each: count(each, tokenizer), measured=64)
    plan = PromptPlan(source="synthetic", lengths=LengthPlan(shapes=SHAPES), count=1000, salted=True)
    salts = Salts("request", seed=0, key="run", worker_index=0, worker_count=1, text=text.salt)

    workload = load(plan, Path(), Calibration(text=text))
    prompts = [prompt for conversation in workload.conversations for prompt in conversation.prompts]
    sent = [prompt.salted(salts.next() or "").messages[0]["content"] for prompt in prompts]

    assert [count(each, tokenizer) for each in sent] == [prompt.asked.input_tokens for prompt in prompts]
    assert {(p.asked.input_tokens, p.asked.output_tokens) for p in prompts} == {each[:2] for each in SHAPES}
    assert all(prompt.fields == {"max_tokens": prompt.asked.output_tokens} for prompt in prompts)
    assert len({each[:60] for each in sent}) == len(sent)


def test_text_is_sentences_where_these_add_up_and_words_alone_where_not() -> None:
    words, of_bytes = calibrate(count, measured=40), calibrate(lambda each: count(each, "bytes"), measured=40)

    assert sentences()[3] in words.text(2000, seeded(1), salted=True)
    assert of_bytes.sentence_tokens == ()
    assert count(f"{OPENING} {sentences()[0]}") - count(OPENING) == words.sentence_tokens[0]


def test_words_that_merge_with_another_are_not_used() -> None:
    text = calibrate(count, measured=0)

    assert "more" in text.words
    assert not [word for word in text.words if word[0] in "aeiou"]


def test_without_the_template_a_prompt_has_as_many_tokens_more() -> None:
    text = calibrate(count, measured=40)
    plan = PromptPlan(
        source="synthetic", lengths=LengthPlan(input_tokens=Lengths(mean=100)), count=3, template_counts=False
    )

    (prompt, *_) = load(plan, Path(), Calibration(text=text)).conversations[0].prompts

    assert text.template_tokens == TEMPLATE_TOKENS
    assert count(prompt.messages[0]["content"]) == 100 + TEMPLATE_TOKENS == prompt.asked.input_tokens


def test_a_length_that_nothing_fits_is_refused_with_the_least_one() -> None:
    text = calibrate(count, measured=0)
    plan = PromptPlan(source="synthetic", lengths=LengthPlan(input_tokens=Lengths(mean=16)), salted=True)

    with pytest.raises(DataError, match=rf"take {text.salted_tokens}: ask for at least as many"):
        load(plan, Path(), Calibration(text=text))


def test_a_tokenizer_without_common_words_is_refused() -> None:
    with pytest.raises(EngineError, match="no common words of one token"):
        calibrate(len, measured=0)


def test_salts_of_words_differ_and_have_as_many_words() -> None:
    text = calibrate(count, measured=0)
    salts = {salt_of_words(number, text.words) for number in range(0, 1 << 50, (1 << 50) // 999)}

    assert len(salts) == 1000
    assert {each.count(" ") for each in salts} == {10}


def test_answers_are_kept_to_their_length_by_the_fields_that_the_engine_takes() -> None:
    plan = PromptPlan(lengths=LengthPlan(output_tokens=Lengths(dist="uniform", min=5, max=9)), count=20)
    calibration = Calibration(output_fields=("ignore_eos", "min_tokens"))

    prompts = [each.prompts[0] for each in load(plan, Path(), calibration).conversations]

    assert {prompt.asked.output_tokens for prompt in prompts} == {5, 6, 7, 8, 9}
    for prompt in prompts:
        tokens = prompt.asked.output_tokens
        assert prompt.fields == {"max_tokens": tokens, "ignore_eos": True, "min_tokens": tokens}


def test_a_mix_keeps_lengths_and_an_entrys_own_limit_is_the_length_of_its_answers() -> None:
    entries = (MixedIn("cool", 1.0, {"temperature": 0.1}), MixedIn("short", 1.0, {"max_tokens": 2}))
    plan = PromptPlan(lengths=LengthPlan(output_tokens=Lengths(mean=7)), count=40, mix=entries)

    mixed = load(plan, Path(), Calibration(output_fields=("ignore_eos",)))
    by_name = {prompt.name: prompt for each in mixed.conversations for prompt in each.prompts}

    assert by_name["cool"].fields == {"max_tokens": 7, "ignore_eos": True, "temperature": 0.1}
    assert by_name["cool"].asked.output_tokens == 7
    assert by_name["short"].fields == {"max_tokens": 2, "ignore_eos": True}
    assert by_name["short"].asked.output_tokens == 2


def test_entries_of_a_mix_have_their_own_lengths_or_the_scenarios() -> None:
    own = LengthPlan(shapes=(Shape(200, 3),))
    entries = (MixedIn("own", 1.0, {}, own), MixedIn("others", 1.0, {"top_p": 0.5}))
    lengths = LengthPlan(input_tokens=Lengths(dist="uniform", min=50, max=60), output_tokens=Lengths(mean=7))
    plan = PromptPlan(source="synthetic", lengths=lengths, count=40, salted=True, mix=entries)
    text = calibrate(count, measured=64)

    prompts = [prompt for each in load(plan, Path(), Calibration(text=text)).conversations for prompt in each.prompts]

    asked = {name: {prompt.asked for prompt in prompts if prompt.name == name} for name in ("own", "others")}
    assert asked["own"] == {(200, 3)}
    assert {output for _, output in asked["others"]} == {7}
    assert {tokens for tokens, _ in asked["others"]} == set(range(50, 61))
    for prompt in prompts:
        assert count(prompt.salted(text.salt(5)).messages[0]["content"]) == prompt.asked.input_tokens


@pytest.mark.parametrize(
    ("lengths", "mean", "stdev"),
    [
        (Lengths(dist="uniform", min=512, max=1536), 1024, 1024 / 12**0.5),
        (Lengths(dist="normal", mean=1000, stdev=100), 1000, 100),
        (Lengths(dist="lognormal", mean=1000, stdev=500), 1000, 500),
    ],
)
def test_lengths_have_their_distribution(lengths: Lengths, mean: float, stdev: float) -> None:
    random = seeded(3)
    drawn = [lengths.draw(random) for _ in range(20_000)]
    found = sum(drawn) / len(drawn)

    assert found == pytest.approx(mean, rel=0.02)
    assert (sum((each - found) ** 2 for each in drawn) / len(drawn)) ** 0.5 == pytest.approx(stdev, rel=0.04)


def test_lengths_stay_within_their_limits() -> None:
    lengths, random = Lengths(dist="lognormal", mean=100, stdev=400, min=30, max=300), seeded(3)

    drawn = [lengths.draw(random) for _ in range(500)]

    assert (min(drawn), max(drawn)) == (30, 300)


def test_fewer_of_long_prompts_are_made() -> None:
    plans = [
        PromptPlan(source="synthetic", lengths=LengthPlan(shapes=(Shape(tokens, 1),))) for tokens in (1024, 100_000)
    ]

    assert [plan.synthetic_count for plan in plans] == [1000, 64]


@pytest.mark.parametrize(
    "changes", [{}, {"template_counts": False}, {"holds_outputs": False}], ids=["all", "template excluded", "a limit"]
)
def test_each_shape_of_a_sweep_has_its_prompts_however_lengths_are_kept(changes: dict[str, Any]) -> None:
    plan = PromptPlan(source="synthetic", lengths=LengthPlan(shapes=SHAPES), count=30, **changes)
    calibration = Calibration(text=replace(nominal(), template_tokens=TEMPLATE_TOKENS))
    mixed = replace(plan, mix=(MixedIn("short", 1.0, {"max_tokens": 2}),))

    for whole in (load(each, Path(), calibration) for each in (plan, mixed)):
        parts = [whole.of_shape(shape).conversations for shape in SHAPES]
        assert sorted(each.row for part in parts for each in part) == sorted(each.row for each in whole.conversations)
        assert all(parts)
        with pytest.raises(DataError, match=r"none of 30 is of shape \(1, 1\): set a greater prompts.count"):
            whole.of_shape(Shape(1, 1))
