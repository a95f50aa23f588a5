"""Lengths in a scenario: what may be written, and what is refused with which remedy."""

from typing import Any

import pytest
from pydantic import ValidationError

from llmload.prompts.lengths import Lengths, Shape
from llmload.scenario.model import Prompts


def prompts(**keys: Any) -> Prompts:
    return Prompts.model_validate(keys)


@pytest.mark.parametrize(
    ("written", "drawn"),
    [
        (1024, Lengths(mean=1024)),
        ({"mean": 1000, "range_ratio": 0.8}, Lengths(dist="uniform", mean=1000, min=200, max=1800)),
        ({"min": 5, "max": 9}, Lengths(dist="uniform", min=5, max=9)),
        ({"dist": "normal", "mean": 9, "stdev": 2, "max": 12}, Lengths(dist="normal", mean=9, stdev=2, max=12)),
        ({"dist": "lognormal", "mean": 9, "stdev": 2}, Lengths(dist="lognormal", mean=9, stdev=2)),
    ],
)
def test_lengths_are_a_number_or_a_distribution(written: Any, drawn: Lengths) -> None:
    found = prompts(input_tokens=written).input_tokens

    assert found is not None
    assert found.drawn == drawn


def test_a_length_makes_prompts_synthetic_and_each_new_to_a_cache() -> None:
    by_length, by_shapes = prompts(input_tokens=64), prompts(shapes=[[64, 8], [128, 8, 0.5]])

    for found in (by_length, by_shapes):
        assert (found.source, found.salt, found.repeat) == ("synthetic", "request", "salted")
    assert by_shapes.shapes == [Shape(64, 8), Shape(128, 8, 0.5)]
    assert prompts(input_tokens=64, salt=False).repeat == "same"
    assert (prompts(output_tokens=8).source, prompts(output_tokens=8).salt) == ("builtin", None)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"source": "synthetic"}, "needs the length of its prompts: input_tokens = 1024, or shapes"),
        ({"source": "lima", "input_tokens": 5}, "input_tokens is of synthetic prompts, and source = 'lima'"),
        ({"shapes": [[5, 5]], "output_tokens": 5}, "shapes has both lengths: remove output_tokens"),
        ({"shapes": [[5]]}, r"a shape is \[input tokens, output tokens\]"),
        ({"shapes": [[5, 0]]}, "tokens are whole numbers of at least 1"),
        ({"shapes": [[5, 5, 0]]}, "the weight of a shape is a number above 0"),
        ({"shapes": [[5, 5], [6, 5], [5, 5, 2]]}, r"shapes has \[5, 5\] twice: give it once"),
        ({"shapes": [[5, 1 + each] for each in range(1_001)]}, "at most 1000 items"),
        ({"input_tokens": 1e9}, "less than or equal to 10000000"),
        ({"output_tokens": {"mean": 1e9, "range_ratio": 0.5}}, "less than or equal to 10000000"),
        ({"input_tokens": 3.5}, "tokens are whole"),
        ({"input_tokens": "many"}, "a length is a number of tokens, or a table such as {mean = 1024"),
        ({"input_tokens": {"dist": "normal", "mean": 5}}, r"is given by mean, stdev \(min and max may be given\)"),
        ({"input_tokens": {"mean": 5}}, "is given by max, min or mean, range_ratio, not by mean"),
        ({"input_tokens": {"min": 9, "max": 5}}, "min = 9 is more than max = 5"),
        ({"input_tokens": 5, "n_shot": 1}, "n_shot would change the length"),
        ({"input_tokens": 5, "salt": False, "repeat": True}, "set repeat = 'same'"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        prompts(**keys)


def test_lengths_are_shown_as_they_are_written() -> None:
    assert str(prompts(input_tokens=1024).input_tokens) == "1024"
    assert str(prompts(input_tokens={"mean": 9, "range_ratio": 0.5}).input_tokens) == (
        '{dist = "uniform", mean = 9, range_ratio = 0.5}'
    )
