"""Lengths in a scenario: what may be written, and what is refused with which remedy."""

from typing import Any

import pytest
from pydantic import ValidationError

from llmload.errors import ConfigError
from llmload.prompts.lengths import LengthPlan, Lengths, Shape
from llmload.scenario import Scenario, load_scenario
from llmload.scenario.prompts import Prompts
from llmload.scenario.reading import find_scenario


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
    assert [prompts(input_tokens=64, salt=False, **more).repeat for more in ({}, {"repeat": True})] == ["same"] * 2
    assert (prompts(output_tokens=8).source, prompts(output_tokens=8).salt) == ("builtin", None)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
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
        ({"input_tokens": {"mean": 5}}, "is given by max, min or mean, range_ratio, not by mean: set dist = 'fixed'"),
        ({"input_tokens": {"mean": 5, "stdev": 2, "max": 9}}, "not by max, mean, stdev: set dist = 'normal' or 'logn"),
        ({"input_tokens": {"min": 9, "max": 5}}, "min = 9 is more than max = 5"),
        ({"input_tokens": 5, "n_shot": 1}, "n_shot would change the length"),
        ({"input_tokens": 5, "salt": False, "repeat": "salted"}, "set repeat = 'same'"),
    ],
)
def test_what_cannot_be_is_refused(keys: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        prompts(**keys)


def mixed(prompts: dict[str, Any], *entries: dict[str, Any], **load: Any) -> Scenario:
    """Return the shipped scenario with these prompts, and a mix of entries a, b, ... with these lengths."""
    mix = [{"name": name, **entry} for name, entry in zip("abc", entries, strict=False)]
    changes = {f"prompts.{key}": value for key, value in prompts.items()} | {"mix": mix}
    return load_scenario(find_scenario("chat"), changes | ({"load": load} if load else {}))


def test_an_entry_of_a_mix_has_its_own_lengths_or_those_of_all() -> None:
    own, part = mixed({"output_tokens": 9}, {"prompts": {"shapes": [[64, 8]]}}, {"prompts": {"input_tokens": 32}}).mix

    plan = mixed({"output_tokens": 9}, {"prompts": own.prompts.model_dump()}, {"prompts": {"input_tokens": 32}})
    assert (plan.prompts.source, plan.prompts.salt, plan.prompts.repeat) == ("synthetic", "request", "salted")
    assert [each.lengths for each in plan.prompt_plan().mix] == [
        LengthPlan(shapes=(Shape(64, 8),)),
        LengthPlan(input_tokens=Lengths(mean=32), output_tokens=Lengths(mean=9)),
    ]
    assert part.prompts.lengths == LengthPlan(input_tokens=Lengths(mean=32))


SWEEP = {"kind": "sweep", "users": [1]}


@pytest.mark.parametrize(
    ("prompts", "entries", "load", "fault"),
    [
        ({"source": "synthetic"}, [], {}, "needs the length of its prompts: set prompts.input_tokens = 1024, or"),
        (
            {},
            [{"prompts": {"input_tokens": 9}}, {}],
            {},
            "mix entry 'b' has no input_tokens, and synthetic prompts need",
        ),
        ({"source": "lima"}, [{"prompts": {"input_tokens": 9}}], {}, "'a' has input_tokens, which are of synthetic"),
        ({"shapes": [[9, 9]]}, [{"prompts": {"output_tokens": 5}}], {}, "'a' has one length, and prompts.shapes has"),
        ({"input_tokens": 5}, [{"prompts": {"input_tokens": 9}}], {}, "prompts.input_tokens has no effect, since each"),
        ({"output_tokens": 5}, [{"prompts": {"shapes": [[9, 9]]}}], {}, "prompts.output_tokens has no effect"),
        ({"shapes": [[5, 5]]}, [{"prompts": {"shapes": [[9, 9]]}}], {}, "prompts.shapes has no effect"),
        (
            {"shapes": [[5, 5]]},
            [{"prompts": {"shapes": [[9, 9]]}}, {}],
            SWEEP,
            "'a' has its own lengths, and a sweep",
        ),
        (
            {},
            [{"prompts": {"shapes": [[5, 5]], "input_tokens": 5}}],
            {},
            "shapes has both lengths: remove input_tokens",
        ),
        ({}, [{"prompts": {"count": 5}}], {}, "mix.0.prompts.count: unknown key"),
        (
            {},
            [{"prompts": {"output_tokens": 5}, "request": {"max_tokens": 6}}],
            {},
            "prompts has the length of its answers, so request.max_tokens is set by it",
        ),
    ],
)
def test_lengths_in_a_mix_that_cannot_be_are_refused(
    prompts: dict[str, Any], entries: list[dict[str, Any]], load: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        mixed(prompts, *entries, **load)

    assert fault in str(refusal.value)


def test_lengths_need_the_engines_counts_and_are_the_only_limit_of_answers() -> None:
    without = {"request.include_usage": False}

    for key in ("input_tokens", "output_tokens"):
        with pytest.raises(ConfigError, match=r"request\.include_usage = false leaves out .* counts, which lengths"):
            load_scenario(find_scenario("chat"), {f"prompts.{key}": 64, **without})
    load_scenario(find_scenario("chat"), {"prompts.output_tokens": 64, "prompts.exact_output": False, **without})
    with pytest.raises(ConfigError, match=r"extra_body has max_completion_tokens, and the length of answers"):
        load_scenario(
            find_scenario("chat"), {"prompts.output_tokens": 64, "request.extra_body.max_completion_tokens": 5}
        )


def test_lengths_are_shown_as_they_are_written() -> None:
    assert str(prompts(input_tokens=1024).input_tokens) == "1024"
    assert str(prompts(input_tokens={"mean": 9, "range_ratio": 0.5}).input_tokens) == (
        '{dist = "uniform", mean = 9, range_ratio = 0.5}'
    )
